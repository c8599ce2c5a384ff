"""JSON from sentences: fields, numbers, lists and counts, graded by value.

    Write as JSON with the keys customer, items, total. Ann from Rome orders 2 pens and 3 cups.

    {"customer": "Ann", "items": {"pens": 2, "cups": 3}, "total": 5}

The instruction names the keys that are wanted, which may be fewer than the sentences tell. Some values follow from
others: the total of an order, the number of guests. What they are counted from is then wanted, too, and stands before
them, so an unmasking order that reveals them first has to do the sum in its head. White space and the order of keys
are free.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.evals.tasks.base import templated

NAMES = ("Tom", "Ann", "Sam", "Mia", "Ben", "Eva", "Leo", "Zoe", "Max", "Ida", "Kim", "Ray")
CITIES = ("Rome", "Paris", "Oslo", "Cairo", "Lima", "Delhi", "Tokyo", "Berlin", "Quito", "Dakar")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
GOODS = ("pens", "cups", "lamps", "books", "chairs", "plates", "bags", "coats", "hats", "shoes")
HOBBIES = ("chess", "tennis", "music", "golf", "yoga", "poker", "judo", "opera")
PETS = ("cat", "dog", "fish", "bird", "horse", "rabbit")
TOPICS = ("budget", "hiring", "sales", "design", "safety", "travel")
JOBS = ("nurse", "pilot", "baker", "lawyer", "farmer", "painter")

COMPACT, SPACED, INDENTED = "compact", "spaced", "indented"
STYLES: dict[str, dict[str, Any]] = {
    COMPACT: {"separators": (",", ":")},
    SPACED: {},
    INDENTED: {"indent": 2},
}
KIND_OF = {str: "text", int: "number", list: "list", dict: "object"}
FEWEST_KEYS = 2
BASES = {"guests": ("people",), "total": ("items", "hours")}  # what a derived value is counted from


@dataclass(frozen=True)
class JsonProblem:
    prompt: str
    solution: str

    def grade(self, completion: str) -> bool:
        """Right when it is JSON and equals the solution by value."""
        try:
            return _typed(json.loads(completion)) == _typed(json.loads(self.solution))
        except (ValueError, RecursionError):
            return False

    def style(self, completion: str) -> str:
        """One of STYLES by its white space."""
        text = completion.strip()
        return INDENTED if "\n" in text else SPACED if '": ' in text else COMPACT


def _typed(value: Any) -> Any:
    """A value in which 1, 1.0 and true differ, as they do in JSON, though not in Python."""
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return (type(value).__name__, value)


@dataclass(frozen=True)
class Fact:
    """What some sentences tell: the values by key in the order of a solution, derived ones last."""

    sentences: str
    values: dict[str, Any]


def _and(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _order(rng: random.Random) -> Fact:
    name, city, day = rng.choice(NAMES), rng.choice(CITIES), rng.choice(DAYS)
    items = {good: rng.randint(1, 5) for good in rng.sample(GOODS, rng.randint(1, 4))}
    goods = _and([f"{count} {good}" for good, count in items.items()])
    sentences = rng.choice(
        (
            f"{name} from {city} orders {goods}. They are sent on {day}.",
            f"On {day} {name} buys {goods}. The address is in {city}.",
            f"Please send {goods} to {name} in {city} by {day}.",
        )
    )
    values = {"customer": name, "city": city, "day": day, "items": items, "total": sum(items.values())}
    return Fact(sentences, values)


def _person(rng: random.Random) -> Fact:
    name, age, city, job = rng.choice(NAMES), rng.randint(18, 90), rng.choice(CITIES), rng.choice(JOBS)
    hobbies = rng.sample(HOBBIES, rng.randint(1, 4))
    likes, pet = _and(hobbies), rng.choice(PETS)
    sentences = rng.choice(
        (
            f"{name} is {age} years old and lives in {city}. {name}, a {job}, likes {likes} and has a {pet}.",
            f"A {job} of {age} years, {name} lives in {city} with a {pet}. The hobbies are {likes}.",
            f"{name} ({age}) works as a {job} in {city}. {name} likes {likes}. The pet is a {pet}.",
        )
    )
    return Fact(sentences, {"name": name, "age": age, "city": city, "job": job, "pet": pet, "hobbies": hobbies})


def _meeting(rng: random.Random) -> Fact:
    topic, day, hour, room = rng.choice(TOPICS), rng.choice(DAYS), rng.randint(8, 18), rng.randint(1, 60)
    people = rng.sample(NAMES, rng.randint(1, 5))
    guests = _and(people)
    sentences = rng.choice(
        (
            f"The {topic} meeting is on {day} at {hour} in room {room}. Invited: {guests}.",
            f"{guests} will talk about {topic} on {day}. It starts at {hour} in room {room}.",
            f"On {day} at {hour}, room {room} is booked for {topic}. Please tell {guests}.",
        )
    )
    values = {"topic": topic, "day": day, "hour": hour, "room": room, "people": people, "guests": len(people)}
    return Fact(sentences, values)


def _trip(rng: random.Random) -> Fact:
    name, (start, *stops, end) = rng.choice(NAMES), rng.sample(CITIES, rng.randint(3, 5))
    hours = [rng.randint(1, 5) for _ in range(len(stops) + 1)]
    over, legs = _and(stops), _and([str(leg) for leg in hours])
    sentences = rng.choice(
        (
            f"{name} travels from {start} to {end} over {over}. The parts take {legs} hours.",
            f"From {start} {name} goes over {over} to {end}. The hours are {legs}.",
        )
    )
    values = {"name": name, "from": start, "to": end, "stops": stops, "hours": hours, "total": sum(hours)}
    return Fact(sentences, values)


def _keys_first(fact: Fact, keys: Sequence[str]) -> str:
    return f"Write as JSON with the keys {', '.join(keys)}. {fact.sentences}"


def _keys_last(fact: Fact, keys: Sequence[str]) -> str:
    return f"{fact.sentences} Give {_and(keys)} as JSON."


def _schema(fact: Fact, keys: Sequence[str]) -> str:
    types = ", ".join(f'"{key}": {KIND_OF[type(fact.values[key])]}' for key in keys)
    return f"Fill this form from the text.\nForm: {{{types}}}\nText: {fact.sentences}"


def _list_of_keys(fact: Fact, keys: Sequence[str]) -> str:
    lines = "\n".join(f"- {key}" for key in keys)
    return f"{fact.sentences}\nJSON, please:\n{lines}"


DOMAINS: tuple[Callable[[random.Random], Fact], ...] = (_order, _person, _meeting, _trip)
TEMPLATES: tuple[Callable[[Fact, Sequence[str]], str], ...] = (_keys_first, _keys_last, _schema, _list_of_keys)


def draw(rng: random.Random, template: int) -> JsonProblem:
    fact = rng.choice(DOMAINS)(rng)
    wanted = set(rng.sample(list(fact.values), rng.randint(FEWEST_KEYS, len(fact.values))))
    wanted |= {base for key in wanted for base in BASES.get(key, ()) if base in fact.values}
    values = {key: value for key, value in fact.values.items() if key in wanted}
    solution = json.dumps(values, **STYLES[rng.choice(list(STYLES))])
    return JsonProblem(TEMPLATES[template](fact, list(values)), solution)


TASK = templated("json", "JSON objects from sentences", 128, draw, templates=len(TEMPLATES))
