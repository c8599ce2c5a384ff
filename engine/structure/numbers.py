"""Regular expressions of numbers between bounds, in decimal, without leading zeros and exponents."""

from math import ceil, floor

DIGITS = 15  # before the point, and after it: what a float keeps
LARGEST = 10**DIGITS - 1
FRACTION = rf"(?:\.[0-9]{{1,{DIGITS}}})?"
ZEROS = r"(?:\.0)?"

Bound = tuple[float, bool] | None  # a value, and whether it is excluded


def integer_regex(low: Bound, high: Bound) -> str | None:
    """The integers between two bounds; None if there are none."""
    least, most = _least(low), _most(high)
    if least > most:
        return None
    return "|".join(_integers(least, most))


def number_regex(low: Bound, high: Bound) -> str | None:
    """Numbers between two bounds; None if there are none. Their whole parts are those that allow any fraction, and the
    whole numbers at the ends: bounds such as 0.5 are drawn in to these."""
    least, most = _least(low), _most(high)
    if least > most:
        return None
    from_zero, to_zero = max(least, 0), min(most, 0)
    parts = []
    if wholes := _natural(from_zero, most if high is None else most - 1):
        parts.append(f"(?:{'|'.join(wholes)}){FRACTION}")
    if wholes := _natural(-to_zero, -least if low is None else -least - 1) if least < 0 else []:
        parts.append(f"-(?:{'|'.join(wholes)}){FRACTION}")
    ends = ([] if low is None else _integers(least, least)) + ([] if high is None else _integers(most, most))
    return "|".join([*parts, *(f"(?:{text}){ZEROS}" for text in ends)])


def _least(low: Bound) -> int:
    if low is None:
        return -LARGEST
    value, excluded = low
    return max(floor(value) + 1 if excluded else ceil(value), -LARGEST)


def _most(high: Bound) -> int:
    if high is None:
        return LARGEST
    value, excluded = high
    return min(ceil(value) - 1 if excluded else floor(value), LARGEST)


def _integers(least: int, most: int) -> list[str]:
    """Regular expressions that together match the integers from `least` to `most`."""
    negative = [f"-(?:{text})" for text in _natural(max(-most, 1), -least)] if least < 0 else []
    return negative + (_natural(max(least, 0), most) if most >= 0 else [])


def _natural(least: int, most: int) -> list[str]:
    """Regular expressions that together match the integers from `least` to `most`, from 0."""
    if least > most:
        return []
    if len(str(least)) < len(str(most)):
        nines = 10 ** len(str(least)) - 1
        if least in (0, 1) and most == LARGEST:
            return [*(["0"] if least == 0 else []), f"[1-9][0-9]{{0,{DIGITS - 1}}}"]
        return [_same_length(str(least), str(nines)), *_natural(nines + 1, most)]
    return [_same_length(str(least), str(most))]


def _same_length(least: str, most: str) -> str:
    """The digits from `least` to `most`, two texts of the same length."""
    if not least:
        return ""
    if least[0] == most[0]:
        return least[0] + _same_length(least[1:], most[1:])
    rest = len(least) - 1
    low, high = int(least[0]), int(most[0])
    parts = []
    if set(least[1:]) - {"0"}:
        parts.append(f"{low}{_same_length(least[1:], '9' * rest)}")
        low += 1
    if set(most[1:]) - {"9"}:
        parts.append(f"{high}{_same_length('0' * rest, most[1:])}")
        high -= 1
    if low <= high:
        digit = str(low) if low == high else f"[{low}-{high}]"
        parts.append(digit + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"(?:{'|'.join(parts)})"
