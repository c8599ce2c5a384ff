"""Asks each row's scheduler what to reveal, and enforces what no scheduler is trusted with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.batch import Window
from engine.canvas import Canvas
from engine.proposal import Proposal
from engine.transfer import upload
from schedulers import Needs, Scheduler, SchedulerSpec, State, View, make_scheduler, top_n

RowState = dict[str, Tensor]  # one row of a scheduler's state


@dataclass(frozen=True)
class _Group:
    """The rows that one scheduler decides, with the options of each."""

    scheduler: Scheduler
    rows: Tensor  # (N,) long
    ids: tuple[str, ...]  # the requests of those rows
    options: Mapping[str, Tensor]  # {name: (N,)}


def scheduler_of(spec: SchedulerSpec) -> Scheduler:
    return make_scheduler(spec.name, spec.fixed())


class Chooser:
    """Holds the groups of the current batch and the state of each row. `regroup` whenever rows join or leave."""

    def __init__(self, device: torch.device):
        self._device = device
        self._groups: list[_Group] = []
        self._states: dict[str, RowState] = {}
        self.needs = Needs()

    def regroup(self, canvases: Sequence[Canvas]) -> None:
        """Group the rows by scheduler and fixed options; forget the state of rows that have left."""
        members: dict[tuple[object, ...], list[int]] = {}
        for row, canvas in enumerate(canvases):
            spec = canvas.request.scheduler
            members.setdefault((spec.name, spec.fixed()), []).append(row)
        self._groups = [self._group(rows, canvases) for rows in members.values()]
        running = {canvas.request.id for canvas in canvases}
        self._states = {id: state for id, state in self._states.items() if id in running}
        self.needs = Needs(
            top_k=max((group.scheduler.needs.top_k for group in self._groups), default=0),
            entropy=any(group.scheduler.needs.entropy for group in self._groups),
        )

    def choose(self, window: Window, proposal: Proposal, seed: Tensor) -> tuple[Tensor, Tensor]:
        """(reveal, remask), both (B, W) bool. seed (B,) long.

        Whatever the schedulers answer: only masked positions of the block are revealed; a row that would reveal
        nothing reveals its most confident position; on its last pass a row reveals everything; only revealed
        positions of the block are remasked, and only by a scheduler that declared it.
        """
        reveal = torch.zeros_like(window.mask)
        remask = torch.zeros_like(window.mask)
        view = _view(window, proposal, seed)
        for group in self._groups:
            decision = group.scheduler.decide(
                replace(view.rows(group.rows), options=group.options), self._state_of(group, view.mask.shape[1])
            )
            reveal[group.rows] = decision.reveal
            if decision.remask is not None and group.scheduler.needs.remask:
                remask[group.rows] = decision.remask
            self._keep_state(group, decision.state)
        last = window.last_pass[:, None]
        reveal = reveal & window.mask
        stuck = ~reveal.any(1)
        best = top_n(proposal.confidence, window.mask, torch.ones_like(window.step))
        reveal = reveal | (best & stuck[:, None]) | (window.mask & last)
        return reveal, remask & window.in_block & ~window.mask & ~last

    def _group(self, rows: list[int], canvases: Sequence[Canvas]) -> _Group:
        requests = [canvases[row].request for row in rows]
        numeric = [request.scheduler.numeric() for request in requests]
        options = {name: _column([values[name] for values in numeric], self._device) for name in numeric[0]}
        index = upload(rows, self._device)
        return _Group(scheduler_of(requests[0].scheduler), index, tuple(request.id for request in requests), options)

    def _state_of(self, group: _Group, width: int) -> State:
        """The group's state, rows stacked; zeros for rows without one, columns fitted to the view's width."""
        known = [self._states[id] for id in group.ids if id in self._states]
        if not known:
            return {}
        stacked = {}
        for name, example in known[0].items():
            rows = [self._states.get(id, {}).get(name, torch.zeros_like(example)) for id in group.ids]
            stacked[name] = torch.stack([_fit(row, width) for row in rows])
        return stacked

    def _keep_state(self, group: _Group, state: State) -> None:
        if state:
            for row, id in enumerate(group.ids):
                self._states[id] = {name: value[row] for name, value in state.items()}


def _view(window: Window, proposal: Proposal, seed: Tensor) -> View:
    return View(
        mask=window.mask,
        eligible=window.mask,
        tokens=window.tokens,
        proposal=proposal.ids,
        confidence=proposal.confidence,
        positions=window.positions,
        block_start=window.block_start,
        block_end=window.block_end,
        length=window.length,
        step=window.step,
        block_step=window.block_step,
        options={},
        seed=seed,
        top_ids=proposal.top_ids,
        top_probabilities=proposal.top_probabilities,
        entropy=proposal.entropy,
    )


def _column(values: Sequence[float | int | None], device: torch.device) -> Tensor:
    """One option of N rows, (N,): long with -1 for None, or float32 with NaN for None."""
    if any(isinstance(value, float) for value in values):
        return upload([torch.nan if value is None else value for value in values], device)
    return upload([-1 if value is None else value for value in values], device)


def _fit(row: Tensor, width: int) -> Tensor:
    """Cut or zero-pad one row of state, () or (W, ...), to `width` columns."""
    if row.ndim == 0:
        return row
    return torch.cat([row[:width], row.new_zeros(max(0, width - row.shape[0]), *row.shape[1:])])
