"""From a prompt or a canvas to the tokens before the generation region, in it and after it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unmask.models.loading import Model
from unmask.server.errors import BadRequestError
from unmask.server.parse.limits import check_characters, check_tokens, too_long

DEFAULT_MARKER = "[MASK]"
_CLOSING = "])>}"  # a marker that ends in one of these may hold a count before it
_DIGITS = 10  # a longer count is too large in any case


@dataclass(frozen=True)
class Region:
    """A generation region and the token ids around it.

    template  the region's token ids, None for masks; empty if there are only masks
    suffix    after the region
    draft     token ids that the region is expected to begin with
    start     index in the prompt at which the canvas of the client begins
    """

    prompt: tuple[int, ...]
    max_tokens: int
    template: tuple[int | None, ...] = ()
    suffix: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    start: int = 0

    def filled(self, tokens: Sequence[int]) -> list[int]:
        """The canvas that the client gave, with tokens in place of the generation region."""
        return [*self.prompt[self.start :], *tokens, *self.suffix]


def region_of(canvas: str | Sequence[int | None], marker: str | None, prompt: Sequence[int], model: Model) -> Region:
    """The region from the first mask of a canvas to the last. The tokens before it follow the prompt.

    Raises BadRequestError.
    """
    tokens = _from_text(canvas, marker or DEFAULT_MARKER, model) if isinstance(canvas, str) else canvas
    known = [None if token == model.mask_id else token for token in tokens]
    check_tokens([token for token in known if token is not None], "canvas", model)
    masks = [i for i, token in enumerate(known) if token is None]
    if not masks:
        where = f"write {marker or DEFAULT_MARKER} for each" if isinstance(canvas, str) else "write null for each"
        raise BadRequestError(f"field 'canvas' holds no mask; {where}", "canvas")
    first, end = masks[0], masks[-1] + 1
    template = tuple(known[first:end])
    before, after = (tuple(t for t in part if t is not None) for part in (known[:first], known[end:]))
    pinned = template if end - first > len(masks) else ()
    return Region((*prompt, *before), len(template), pinned, after, start=len(prompt))


def room_for(prompt: Sequence[int], suffix: Sequence[int], field: str, model: Model, least: int = 1) -> int:
    """The longest generation region between a prompt and a suffix.

    Raises BadRequestError, about `field`, if it is shorter than `least`.
    """
    room = model.max_positions - len(prompt) - len(suffix)
    if room < least:
        left = f"has {len(prompt)} tokens" + (f" and the suffix {len(suffix)}" if suffix else "")
        raise too_long(f"the prompt {left}, which leaves no room for an answer; shorten it", field, model)
    return room


def check_length(region: Region, field: str, model: Model) -> None:
    """Raise BadRequestError if the canvas is too long for the model. `field` sets the length of the region."""
    around, length = len(region.prompt) + len(region.suffix), region.max_tokens
    around_it = f"the prompt of {len(region.prompt)} tokens"
    around_it += f", the suffix of {len(region.suffix)}" if region.suffix else ""
    if around + length > model.max_positions:
        fit = max(model.max_positions - around, 0)
        raise too_long(
            f"{around_it} and {field!r} of {length} make {around + length}; at most {fit} fit, shorten one of them",
            field,
            model,
        )


def _from_text(text: str, marker: str, model: Model) -> list[int | None]:
    """The tokens of a text, with None for each mask. Texts between markers are encoded separately."""
    check_characters(len(text), "canvas", model)
    tokens, end, total = list[int | None](), 0, 0
    for found in re.finditer(_pattern(marker), text):  # one by one, as one call would hold Python's lock for long
        count = int((found[1] or "1")[:_DIGITS])
        if (total := total + count) > model.max_positions:
            raise too_long(f"field 'canvas' holds {total} masks; send fewer", "canvas", model)
        tokens += model.tokenizer.encode(text[end : found.start()])
        tokens += [None] * count
        end = found.end()
    return [*tokens, *model.tokenizer.encode(text[end:])]


def _pattern(marker: str) -> str:
    """A regular expression for a marker, with its count as a group."""
    if marker[-1] not in _CLOSING:
        return re.escape(marker) + "()"
    return re.escape(marker[:-1]) + r"(?::(\d+))?" + re.escape(marker[-1])
