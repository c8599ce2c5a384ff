"""The text of an answer as its tokens settle: it only grows, and it ends before a stop text."""

from bisect import bisect_left

from unmask.models.detokenizer import Detokenizer


class SettledText:
    """Settled tokens and their text. Adding tokens takes time linear in their number.

    positions  of the tokens, in the order of the text
    text       what no further token can change
    """

    def __init__(self, detokenizer: Detokenizer, stops: tuple[str, ...]):
        self.positions: list[int] = []
        self.text = ""
        self._detokenizer = detokenizer
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._searched = 0  # characters that no stop text begins in

    def add(self, positions: list[int], token_ids: list[int], last: bool) -> None:
        """Add the next tokens. After the `last` ones, an incomplete character becomes final."""
        self.positions += positions
        pieces = [self._detokenizer.add(token_id) for token_id in token_ids]
        self.text += "".join(pieces) + (self._detokenizer.rest() if last else "")

    def first_stop(self) -> tuple[int, str] | None:
        """Where the first stop text begins, and which it is, if there is one."""
        found = [(at, stop) for stop in self._stops if (at := self.text.find(stop, self._searched)) >= 0]
        self._searched = max(self._searched, len(self.text) - self._longest + 1)
        return min(found, default=None)

    def without_begun_stop(self) -> str:
        """The text up to where a stop text has begun, which more tokens may complete."""
        return self.text[: min((_begun(self.text, stop) for stop in self._stops), default=len(self.text))]

    @property
    def offsets(self) -> list[int]:
        """For each token the characters of the text before it."""
        return self._detokenizer.starts

    def tokens_of(self, characters: int) -> int:
        """The number of tokens of the first `characters` of the text; a character counts with all of its tokens."""
        return bisect_left(self.offsets, characters)


def _begun(text: str, stop: str) -> int:
    """Where a beginning of `stop` starts at the end of the text: the longest one, or the text's length if none."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return at if at >= 0 else len(text)
