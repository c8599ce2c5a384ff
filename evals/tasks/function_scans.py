"""Functions that go through a source, keep some elements, change them, and return something of what is left."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unmask.evals.tasks import function_pieces as pieces
from unmask.evals.tasks import function_specs as specs
from unmask.evals.tasks.function_pieces import Piece, Term, draw_term
from unmask.evals.tasks.function_specs import Ending, Source, Spec

Lines = list[str]


def indent(lines: Sequence[str]) -> Lines:
    return ["    " + line for line in lines]


@dataclass(frozen=True)
class Family:
    """One kind of element. `numbers` and `texts` map it to such; `is_number` and `is_text` say what it is unmapped."""

    variables: tuple[str, ...]
    sources: tuple[Source, ...]
    tests: tuple[Piece, ...]
    numbers: tuple[Piece, ...]
    texts: tuple[Piece, ...] = ()
    is_number: bool = False


NUMBERS = Family(("x", "i", "v"), specs.NUMBER_SOURCES, pieces.NUMBER_TESTS, pieces.NUMBER_MAPS, is_number=True)
WORDS = Family(("w", "word"), specs.WORD_SOURCES, pieces.WORD_TESTS, pieces.WORD_NUMBERS, pieces.WORD_MAPS)
CHARACTERS = Family(
    ("c", "ch"), specs.CHARACTER_SOURCES, pieces.CHARACTER_TESTS, pieces.CHARACTER_NUMBERS, pieces.CHARACTER_MAPS
)
PAIRS = Family(("x, y",), specs.PAIR_SOURCES, pieces.PAIR_TESTS, pieces.PAIR_NUMBERS)
FAMILIES = (*[NUMBERS] * 5, *[WORDS] * 3, *[CHARACTERS] * 2, PAIRS)
ARGUMENTS = {
    "numbers": (("xs", "ys"), ("nums", "more"), ("values", "others")),
    "words": (("words", "more"), ("names", "others")),
    "text": (("text", "other"), ("s", "t")),
    "n": (("n", ""),),
    "low": (("a", "b"),),
}


@dataclass(frozen=True)
class Condition:
    """One predicate, or two joined by `and` or `or`; none is always true."""

    tests: tuple[Term, ...]
    joint: str = "and"

    @property
    def words(self) -> str:
        return f" {self.joint} ".join(test.words for test in self.tests)

    def source(self, x: str) -> str:
        return f" {self.joint} ".join(test.source(x) for test in self.tests)

    def opposite(self, x: str) -> str:
        joint = "or" if self.joint == "and" else "and"
        return f" {joint} ".join(test.opposite(x) for test in self.tests)

    def kept(self, elements: Sequence[Any]) -> list[Any]:
        """The elements that meet it."""
        if self.joint == "or" and self.tests:
            return [element for element in elements if any(test.compute(element) for test in self.tests)]
        kept = list(elements)
        for test in self.tests:
            compute, constant = test.piece.compute, test.constant
            kept = [element for element in kept if compute(element, constant)]
        return kept

    def near_misses(self) -> Iterator["Condition"]:
        """Without each of the predicates, and with each bound one off."""
        for i, test in enumerate(self.tests):
            before, after = self.tests[:i], self.tests[i + 1 :]
            yield replace(self, tests=before + after)
            for off in test.off_by_one():
                yield replace(self, tests=(*before, off, *after))


@dataclass(frozen=True)
class Origin:
    """A source with its arguments named and its constant and variable chosen."""

    source: Source
    arguments: tuple[str, ...]
    constant: Any
    variable: str

    @property
    def words(self) -> str:
        return self._fill(self.source.words)

    @property
    def code(self) -> str:
        return self._fill(self.source.source)

    def _fill(self, text: str) -> str:
        return text.format(a=self.arguments[0], b=self.arguments[-1], k=self.constant)

    def loop(self, lines: Sequence[str]) -> Lines:
        return [f"for {self.variable} in {self.code}:", *indent(lines)]

    def elements(self, *arguments: Any) -> list[Any]:
        return self.source.elements(self.constant, *arguments)


@dataclass(frozen=True)
class Change:
    """What an element becomes: itself without terms, a term of it, or one of two as a test says."""

    terms: tuple[Term, ...] = ()
    test: Term | None = None

    @property
    def words(self) -> str:
        if self.test:
            first, second = (term.words for term in self.terms)
            return f", with each that {singular(self.test.words)} {first} and each other {second}"
        return f", each {self.terms[0].words}" if self.terms else ""

    def source(self, x: str) -> str:
        if self.test:
            return f"{self.terms[0].source(x)} if {self.test.source(x)} else {self.terms[1].source(x)}"
        return self.terms[0].source(x) if self.terms else x

    def compute(self, element: Any) -> Any:
        return self.terms[0 if not self.test or self.test.compute(element) else 1].compute(element)


VERBS = {
    "are": "is", "have": "has", "leave": "leaves", "end": "ends", "start": "starts", "contain": "contains",
    "do": "does", "read": "reads", "come": "comes",
}  # fmt: skip


def singular(words: str) -> str:
    """What is said of many, said of one."""
    verb, _, rest = words.partition(" ")
    return f"{VERBS[verb]} {rest}".replace("and end ", "and ends ")


@dataclass(frozen=True)
class Scan:
    """The elements of an origin that meet a condition, changed, and what is made of them."""

    origin: Origin
    condition: Condition
    change: Change
    ending: Ending

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.origin.arguments

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.origin.source.kinds

    @property
    def words(self) -> str:
        that = f" that {self.condition.words}" if self.condition.tests else ""
        return f"{self.ending.before}{self.origin.words}{that}{self.change.words}{self.ending.after}"

    def compute(self, *arguments: Any) -> Any:
        kept = self.condition.kept(self.origin.elements(*arguments))
        return self.ending.compute([self.change.compute(element) for element in kept] if self.change.terms else kept)

    @property
    def constants(self) -> list[Any]:
        terms = [*self.condition.tests, *self.change.terms, *([self.change.test] if self.change.test else [])]
        return [self.origin.constant, *(term.constant for term in terms)]

    def near_misses(self) -> Iterator[Spec]:
        for condition in self.condition.near_misses():
            yield replace(self, condition=condition)
        if self.change.test:
            for term in self.change.terms:
                yield replace(self, change=Change((term,)))

    def draw_body(self, rng: random.Random) -> Lines:
        styles = [self._loop, self._loop]
        if self.ending.whole:
            styles += [self._expression, self._expression]
            if self.condition.tests and "," not in self.origin.variable:
                styles.append(self._stages)
        if self.ending.listed and self.ending.end != "result":
            styles.append(self._listed)
        return rng.choice(styles)(rng)

    def _generator(self, over: str = "") -> str:
        x = self.origin.variable
        test = f" if {self.condition.source(x)}" if self.condition.tests and not over else ""
        return f"{self.change.source(x)} for {x} in {over or self.origin.code}{test}"

    def _expression(self, rng: random.Random) -> Lines:
        return ["return " + self.ending.whole.format(gen=self._generator())]

    def _stages(self, rng: random.Random) -> Lines:
        """First what is kept, then what is made of it."""
        x = self.origin.variable
        kept = f"kept = [{x} for {x} in {self.origin.code} if {self.condition.source(x)}]"
        return [kept, "return " + self.ending.whole.format(gen=self._generator("kept"))]

    def _listed(self, rng: random.Random) -> Lines:
        return [f"result = [{self._generator()}]", f"return {self.ending.end}"]

    def _loop(self, rng: random.Random) -> Lines:
        inner, x = self._update(rng), self.origin.variable
        if self.condition.tests and rng.random() < 0.3:
            inner = [f"if {self.condition.opposite(x)}:", "    continue", *inner]
        elif self.condition.tests:
            inner = [f"if {self.condition.source(x)}:", *indent(inner)]
        return [*self.ending.start, *self.origin.loop(inner), f"return {self.ending.end}"]

    def _update(self, rng: random.Random) -> Lines:
        x, change = self.origin.variable, self.change
        if change.test and rng.random() < 0.7:
            first, second = (indent(self._add(term.source(x))) for term in change.terms)
            return [f"if {change.test.source(x)}:", *first, "else:", *second]
        if change.test or (change.terms and rng.random() < 0.3):
            return [f"value = {change.source(x)}", *self._add("value")]
        return self._add(change.source(x))

    def _add(self, value: str) -> Lines:
        return [line.format(e=value) for line in self.ending.update]


@dataclass(frozen=True)
class Question:
    """How many elements of an origin meet a condition, or whether any or all do."""

    origin: Origin
    condition: Condition
    kind: str  # how many, whether any, whether all

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.origin.arguments

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.origin.source.kinds

    @property
    def words(self) -> str:
        return f"{self.kind} of {self.origin.words} {self.condition.words}"

    def compute(self, *arguments: Any) -> Any:
        elements = self.origin.elements(*arguments)
        kept = len(self.condition.kept(elements))
        return {"how many": kept, "whether any": kept > 0, "whether all": kept == len(elements)}[self.kind]

    @property
    def constants(self) -> list[Any]:
        return [self.origin.constant, *(test.constant for test in self.condition.tests)]

    def near_misses(self) -> Iterator[Spec]:
        for condition in self.condition.near_misses():
            yield replace(self, condition=condition)

    def draw_body(self, rng: random.Random) -> Lines:
        x, over = self.origin.variable, self.origin.code
        test, opposite = self.condition.source(x), self.condition.opposite(x)
        short = rng.random() < 0.5
        if self.kind == "how many":
            whole = rng.choice(("sum(1 for {} in {} if {})", "len([1 for {} in {} if {}])")).format(x, over, test)
            loop = ["count = 0", *self.origin.loop([f"if {test}:", "    count += 1"]), "return count"]
        elif self.kind == "whether any":
            whole = f"any({test} for {x} in {over})"
            loop = [*self.origin.loop([f"if {test}:", "    return True"]), "return False"]
        else:
            whole = f"all({test} for {x} in {over})"
            loop = [*self.origin.loop([f"if {opposite}:", "    return False"]), "return True"]
        return [f"return {whole}"] if short else loop


def draw_scan(rng: random.Random) -> Spec:
    family = rng.choice(FAMILIES)
    origin = _origin(rng, family)
    if rng.random() < 0.2:
        kind = rng.choice(("how many", "how many", "whether any", "whether all"))
        return Question(origin, _condition(rng, family, least=1), kind)
    to_text = bool(family.texts) and rng.random() < 0.6
    change = _change(rng, family, to_text)
    endings = specs.TEXT_ENDINGS if to_text else specs.NUMBER_ENDINGS
    ending = rng.choice(specs.ANY_ENDINGS if rng.random() < 0.1 else endings)
    return Scan(origin, _condition(rng, family, least=0 if change.terms else 1), change, ending)


def _origin(rng: random.Random, family: Family) -> Origin:
    source = rng.choice(family.sources)
    names = rng.choice(ARGUMENTS[source.kinds[0]])[: len(source.kinds)]
    return Origin(source, names, rng.choice(source.constants), rng.choice(family.variables))


def _condition(rng: random.Random, family: Family, least: int) -> Condition:
    count = max(least, rng.choices((0, 1, 2), (2, 5, 3))[0])
    tests = [draw_term(rng, piece_group) for piece_group in [family.tests] * count]
    if count == 2 and tests[0].piece == tests[1].piece:
        tests.pop()
    return Condition(tuple(tests), rng.choices(("and", "or"), (2, 1))[0])


def _change(rng: random.Random, family: Family, to_text: bool) -> Change:
    maps = family.texts if to_text else family.numbers
    shape = rng.random()
    if shape < 0.3 and (to_text or family.is_number):
        return Change()
    if shape > 0.85:
        first, second = draw_term(rng, maps), draw_term(rng, maps)
        if first.words != second.words:
            return Change((first, second), draw_term(rng, family.tests))
    return Change((draw_term(rng, maps),))
