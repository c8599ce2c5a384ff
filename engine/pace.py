"""How fast a request goes where that is left to the load: which value its scheduler's dial has in each pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as show
from typing import Any

from unmask.engine.errors import RequestError
from unmask.schedulers import OptionError, SchedulerSpec, parse_scheduler
from unmask.schedulers.options import parse_options
from unmask.schedulers.registry import names_with_dial, split_text

AUTO = "auto"
Bounds = tuple[float, float]
WHOLE: Bounds = (0.0, 1.0)


@dataclass(frozen=True)
class Pace:
    """The two ends of a scheduler's dial, and how much of the way between them the load may choose.

    option     the dial
    careful    its value where nothing hurries
    fast       its value in a hurry
    whole      whether it is an integer
    low, high  the least and the largest share of the way from careful to fast
    deadline   when the request must be done, in seconds on the monotonic clock; None if at no time
    """

    option: str
    careful: float
    fast: float
    whole: bool
    low: float = 0.0
    high: float = 1.0
    deadline: float | None = None

    def share(self, load: float, hurry: float) -> float:
        """The share of the way to go now: the larger of two wishes, within the bounds."""
        return min(max(load, hurry, self.low), self.high)

    def hurry(self, now: float, started: float, masks: int, left: int) -> float:
        """How much the deadline hurries a request that began with so many masks and has so many left; 0 without one."""
        return 0.0 if self.deadline is None else hurry(self.deadline - now, now - started, masks - left, left)

    def value(self, share: float) -> float | int:
        """The dial at a share of the way; at 0 it is exactly the careful value."""
        value = self.careful + share * (self.fast - self.careful)
        return round(value) if self.whole else value


def hurry(left: float, passed: float, revealed: int, masks: int) -> float:
    """How much a deadline hurries a request, from 0 to 1.

    With T = passed * masks / revealed, the seconds that its masks take at the speed so far: 0 if T <= left, 1 if T is
    twice what is left or more, and T / left - 1 between. Before anything is revealed no speed is known: 0.

    left      seconds to the deadline
    passed    seconds since its first pass began
    revealed  tokens that were revealed in them
    masks     that it still has, as if its answer filled the whole region
    """
    if left <= 0:
        return 1.0
    return min(max(passed * masks / revealed / left - 1, 0.0), 1.0) if revealed > 0 else 0.0


def bounds_of(speed: object) -> Bounds | None:
    """The shares between which a field `speed` lets the load choose. None if it is a number, or left out.

    Raises RequestError for anything but a number, "auto" and {"auto": [low, high]}.
    """
    if speed is None or (isinstance(speed, int | float) and not isinstance(speed, bool)):
        return None
    given: Any = WHOLE if speed == AUTO else speed.get(AUTO) if isinstance(speed, Mapping) and len(speed) == 1 else None
    pair = list(given) if isinstance(given, list | tuple) else []
    numbers = [float(one) for one in pair if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
        raise RequestError(
            'speed must be a number, "auto", or {"auto": [low, high]} with 0 <= low <= high <= 1, not ' + show(speed),
            "speed",
        )
    return numbers[0], numbers[1]


def pace_of(spec: SchedulerSpec, bounds: Bounds, deadline: float | None = None) -> Pace:
    """The pace of a scheduler whose options are the careful end. One that is faster already is left as it is.

    Raises RequestError for a scheduler without a dial, and where another option stands in its place.
    """
    dial = spec.dial
    if dial is None:
        raise RequestError(
            f"scheduler {spec.name!r} has no option that the speed 'auto' could set; those that have one are: "
            f"{', '.join(names_with_dial())}",
            "speed",
        )
    careful = spec.values[dial.name]
    fast = dial.faster(careful)
    try:
        parse_options(type(spec.options), {**spec.values, dial.name: fast})
    except OptionError as error:
        raise RequestError(
            f"the speed 'auto' sets option {dial.name!r} of scheduler {spec.name!r}, and {error}", "speed"
        ) from None
    return Pace(dial.name, careful, fast, dial.whole, *bounds, deadline=deadline)


def choose_pace(
    speed: object, spec: SchedulerSpec, default: Bounds | None = None, deadline: float | None = None
) -> Pace | None:
    """The pace that the field `speed` asks for; None for a fixed one.

    default  the bounds for requests that name no speed, as far as their schedulers can follow

    Raises RequestError.
    """
    bounds = bounds_of(speed)
    if bounds is not None:
        return pace_of(spec, bounds, deadline)
    if speed is not None or default is None:
        return None
    try:
        return pace_of(spec, default, deadline)
    except RequestError:
        return None


def parse_speed(text: str) -> Bounds:
    """The bounds of one word of a command line: `auto`, `auto:low=0.2:high=0.8`. Raises RequestError."""
    try:
        name, options = split_text(text)
    except OptionError:
        name, options = "", {}
    if name != AUTO or options.keys() - {"low", "high"}:
        raise RequestError(f"speed {text!r} cannot be read; write auto, or for example auto:low=0.2:high=0.8", "speed")
    bounds = bounds_of({AUTO: [options.get("low", 0.0), options.get("high", 1.0)]})
    assert bounds is not None
    return bounds


def parse_paced(text: str) -> tuple[SchedulerSpec, Pace | None]:
    """A scheduler as a command line names it, and its pace, as in `threshold:speed=auto`.

    Raises UnknownSchedulerError, OptionError or RequestError.
    """
    name, options = split_text(text)
    if options.get("speed") != AUTO:
        return parse_scheduler(name, options), None
    spec = parse_scheduler(name, {option: value for option, value in options.items() if option != "speed"})
    return spec, pace_of(spec, WHOLE)


@dataclass(frozen=True)
class Speed:
    """What the load chose, as `diffusion` shows it.

    auto     the least and the largest share of the way from careful to fast that it might choose
    mean     the share that it chose, the mean over all forward passes
    option   the scheduler's option that it set
    careful, fast   the values of that at the shares 0 and 1
    """

    auto: tuple[float, float]
    mean: float
    option: str
    careful: float
    fast: float

    @staticmethod
    def of(pace: Pace, mean: float) -> "Speed":
        return Speed((pace.low, pace.high), round(mean, 3), pace.option, pace.careful, pace.fast)
