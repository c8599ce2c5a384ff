"""From what is given to a canvas: which tokens stand before the generation region, in it and behind it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unmask.models.loading import Model
from unmask.server.errors import BadRequestError
from unmask.server.parse.limits import CONTEXT_LENGTH, check_characters, check_tokens

DEFAULT_MARKER = "[MASK]"
_CLOSING = "])>}"  # a marker that ends in one of these may hold a count in front of it
_DIGITS = 10  # a longer count is too large in any case


@dataclass(frozen=True)
class Region:
    """A generation region and what stands around it, all of it tokens of the model.

    template  None where there is a mask; empty if there are only masks
    start     where in the prompt the canvas begins that the client gave
    """

    prompt: tuple[int, ...]
    max_tokens: int
    template: tuple[int | None, ...] = ()
    suffix: tuple[int, ...] = ()
    start: int = 0

    def filled(self, tokens: Sequence[int]) -> list[int]:
        """The canvas that the client gave, with tokens in place of the generation region."""
        return [*self.prompt[self.start :], *tokens, *self.suffix]


def region_of(canvas: str | Sequence[int | None], marker: str | None, prompt: Sequence[int], model: Model) -> Region:
    """The region from the first mask of a canvas to the last; what stands before it follows the prompt."""
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


def check_length(region: Region, field: str, model: Model) -> None:
    """Raise BadRequestError if the canvas is longer than the model reads. `field` decides how long the region is."""
    around = f"the prompt of {len(region.prompt)} tokens"
    if region.suffix:
        around += f", what follows of {len(region.suffix)}"
    length = len(region.prompt) + region.max_tokens + len(region.suffix)
    if length > model.max_positions:
        raise BadRequestError(
            f"{around} and {field!r} of {region.max_tokens} make {length}, more than the {model.max_positions} "
            "positions of the model; shorten one of them",
            field,
            CONTEXT_LENGTH,
        )


def _from_text(text: str, marker: str, model: Model) -> list[int | None]:
    """The tokens of a text, None for each mask that a marker stands for. Texts between markers are encoded alone."""
    check_characters(len(text), "canvas", model)
    tokens, behind, total = list[int | None](), 0, 0
    for found in re.finditer(_pattern(marker), text):  # one by one: all at once would hold Python's lock
        count = int((found[1] or "1")[:_DIGITS])
        if (total := total + count) > model.max_positions:
            raise BadRequestError(
                f"field 'canvas' holds {total} masks, more than the model's {model.max_positions} positions; send "
                "fewer",
                "canvas",
                CONTEXT_LENGTH,
            )
        tokens += model.tokenizer.encode(text[behind : found.start()])
        tokens += [None] * count
        behind = found.end()
    return [*tokens, *model.tokenizer.encode(text[behind:])]


def _pattern(marker: str) -> str:
    """A marker, and as a group the count in it."""
    if marker[-1] not in _CLOSING:
        return re.escape(marker) + "()"
    return re.escape(marker[:-1]) + r"(?::(\d+))?" + re.escape(marker[-1])
