"""How far a structured answer has come: the state at the start of its block, and tokens without an alternative."""

import numpy as np
from numpy.typing import NDArray

from unmask.engine.structure.automaton import Automaton, Tables


class Progress:
    """Follows the settled tokens of one answer through its automaton.

    tables  of the automaton, on the device
    forced  positions that were filled because only one token fits
    """

    def __init__(self, automaton: Automaton, tables: Tables):
        self.automaton = automaton
        self.tables = tables
        self.forced: set[int] = set()
        self._state = 0
        self._position = 0

    def state_at(self, position: int, region: NDArray[np.int64]) -> int:
        """The state before a position. Positions before the one last asked for must not have changed since.

        region (L,) are the tokens of the generation region.
        """
        self._state = self._walk(self._state, region[self._position : position].tolist())
        self._position = position
        return self._state

    def force(
        self, start: int, end: int, region: NDArray[np.int64], masked: NDArray[np.bool_], length: int, stays: bool
    ) -> dict[int, int]:
        """The masks from start to end that one token alone can fill, with these: those that a known text leads to, and
        those after an end of text.

        region, masked (L,), of which the first `length` are the generation region; stays, whether revealed tokens never
        become masks again. Otherwise only settled text and forced tokens count as known.
        """
        state, found = self.state_at(start, region), dict[int, int]()
        for position in range(start, end):
            token = int(region[position])
            if masked[position]:
                only = self.automaton.forced(state, length - position - 1)
                if only is None:
                    break
                token = found[position] = only
            elif not stays and position not in self.forced:
                break
            state = self._walk(state, [token])
        ends = np.flatnonzero((region[start:end] == self.automaton.end_token) & ~masked[start:end])
        if stays and len(ends):
            after = start + ends[0] + np.flatnonzero(masked[start + ends[0] : end])
            found |= dict.fromkeys(after.tolist(), self.automaton.end_token)
        self.forced |= found.keys()
        return found

    def _walk(self, state: int, tokens: list[int]) -> int:
        for token in tokens:
            after = self.automaton.after(state, token)
            assert after is not None, "a revealed token does not fit the structure"
            state = after
        return state
