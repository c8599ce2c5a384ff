"""The most probable text that an automaton accepts, given what is revealed (DINGO, Suresh et al., arXiv 2505.23061).

A text is one token per position; its score is the sum over the positions. Dynamic programming over positions and
states, from right to left, finds for each state the best score of what follows; a walk from left to right then takes at
each position the token that leads to it. It is exact over the whole vocabulary, not over its most probable tokens:
tokens that lead from each state to the same states form a class (`engine/structure/automaton.py`), and only the best of
a class can be in the best text.

All of it runs on the device, over all structured rows at once, in a number of launches that grows with the width of the
window alone. So the step still reads from the device once, and rows without a structure pay nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.engine.structure.automaton import Tables


@dataclass(frozen=True)
class Union:
    """The automata of R rows as one, whose states and classes are counted through.

    cls, target, source  (E,) long   as in `Tables`, counted through; a class through R x C
    first                (N,) long   where the transitions of each state begin
    count                (N,) long   how many it has
    distance             (N,) long   as in `Tables`
    start                (R,) long   the number of each row's state 0
    row_of               (N,) long   the row of each state
    classes              C, the most classes of a row
    widest               the most transitions of a state
    """

    cls: Tensor
    target: Tensor
    source: Tensor
    first: Tensor
    count: Tensor
    distance: Tensor
    start: Tensor
    row_of: Tensor
    classes: int
    widest: int

    @staticmethod
    def of(tables: Sequence[Tables], classes: int, widest: int) -> "Union":
        """The automata of some rows. Their sizes are known to the host, so nothing is read from the device."""
        device = tables[0].cls.device
        states = [len(table.distance) for table in tables]
        starts, edges = _before(states), _before([len(table.cls) for table in tables])
        return Union(
            cls=torch.cat([table.cls + row * classes for row, table in enumerate(tables)]),
            target=torch.cat([table.target + start for table, start in zip(tables, starts, strict=True)]),
            source=torch.cat([table.source + start for table, start in zip(tables, starts, strict=True)]),
            first=torch.cat([table.first[:-1] + edge for table, edge in zip(tables, edges, strict=True)]),
            count=torch.cat([table.first.diff() for table in tables]),
            distance=torch.cat([table.distance for table in tables]),
            start=_filled(starts, device),
            row_of=torch.cat([torch.full((count,), row, device=device) for row, count in enumerate(states)]),
            classes=classes,
            widest=widest,
        )


def best_paths(union: Union, scores: Tensor, state: Tensor, begin: Tensor, left: Tensor) -> Tensor:
    """The classes of the best path of each row, (R, W) long, from 0 to C - 1.

    scores  (W, R, C) float64  of the best token of each class at each position; -inf where it may not be
    state   (R,) long  the state before the window, of the row's own automaton
    begin   (R,) long  the first column of each row's window; all windows end at column W
    left    (R,) long  positions after the window: from the state at its end, the text must be able to end in these
    """
    width, rows, _ = scores.shape
    follows = _best_after(union, scores.view(width, -1), left)
    state = union.start + state
    places = torch.arange(union.widest, device=state.device)
    offset = torch.arange(rows, device=state.device) * union.classes
    chosen = []
    for column in range(width):
        edges = (union.first[state][:, None] + places).clamp(max=len(union.cls) - 1)  # (R, widest)
        cls, target = union.cls[edges], union.target[edges]
        values = scores[column].view(-1)[cls] + follows[column + 1][target]
        values = values.masked_fill(places >= union.count[state][:, None], -torch.inf)
        best = values.argmax(1, keepdim=True)
        chosen.append(cls.gather(1, best).squeeze(1) - offset)
        state = torch.where(column >= begin, target.gather(1, best).squeeze(1), state)
    return torch.stack(chosen, 1)


def _best_after(union: Union, scores: Tensor, left: Tensor) -> list[Tensor]:
    """For each place between columns, the best score of what follows in each state, W + 1 times (N,) float64.

    scores (W, R x C) float64.
    """
    can_end = union.distance <= left[union.row_of]
    follows = [torch.zeros_like(can_end, dtype=scores.dtype).masked_fill(~can_end, -torch.inf)]
    for column in reversed(scores.unbind()):
        values = column[union.cls] + follows[-1][union.target]
        best = torch.full_like(follows[-1], -torch.inf)
        follows.append(best.scatter_reduce(0, union.source, values, "amax"))
    return follows[::-1]


def _before(counts: Sequence[int]) -> list[int]:
    """How many come before each."""
    sums = [0]
    for count in counts[:-1]:
        sums.append(sums[-1] + count)
    return sums


def _filled(values: Sequence[int], device: torch.device) -> Tensor:
    """Numbers of the host as a tensor, without a transfer that waits."""
    return torch.stack([torch.full((), value, device=device) for value in values])
