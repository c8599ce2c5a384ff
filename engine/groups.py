"""Rows grouped by scheduler: asks each scheduler what to reveal, and enforces the engine's invariants."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.errors import SchedulerError
from unmask.engine.pace import Pace
from unmask.schedulers import Needs, Scheduler, State, View

RowState = dict[str, Tensor]  # one row of a scheduler's state
DECLARED = ("remask", "write", "choice", "finish")  # of a decision, what needs must declare under the same name
SWITCHES = ("entropy", "kl", "stops", "current", "hidden", *DECLARED)


@dataclass(frozen=True)
class _Group:
    """The rows that one scheduler decides."""

    name: str
    scheduler: Scheduler
    needs: Needs
    ids: tuple[str, ...]  # the requests of those rows
    everyone: bool  # whether these are all rows of the batch, in order


@dataclass(frozen=True)
class GroupInputs:
    """What a group's decision needs on the device. It is the same in each step, but for the dials of rows with a pace.

    rows     (N,) long  the rows of the batch that it decides
    options  {name: (N,)}  the numeric options, as in `View`
    """

    rows: Tensor
    options: dict[str, Tensor]


@dataclass(frozen=True)
class Choice:
    """What all rows' schedulers chose, with the names and meanings of `Decision`; None where no row may do it."""

    reveal: Tensor
    remask: Tensor
    write: Tensor | None
    choice: Tensor | None
    finish: Tensor | None

    @staticmethod
    def none(view: View, needs: Needs) -> "Choice":
        """Nothing is chosen; each group writes its rows. By default a block without masks is over."""
        nothing = torch.zeros_like(view.mask)
        return Choice(
            reveal=nothing,
            remask=nothing.clone(),
            write=nothing.clone() if needs.write else None,
            choice=torch.full_like(view.proposal, -1) if needs.choice else None,
            finish=torch.ones_like(nothing[:, 0]) if needs.finish else None,
        )


class SchedulerGroups:
    """The groups of a batch and the state of each row. Call `regroup` when rows join or leave."""

    def __init__(self) -> None:
        self._groups: list[_Group] = []
        self._states: dict[str, RowState] = {}
        self.records: dict[str, RowState] = {}  # of the last decisions, by request
        self.needs = Needs()
        self.top_logprobs = 0  # the highest number that a row asks for
        self.inputs: tuple[GroupInputs, ...] = ()  # of the groups, on the host; they travel with each step
        self._paced: dict[int, list[tuple[int, Canvas, Pace]]] = {}  # by group: a row's place in it, and its pace

    def regroup(self, canvases: Sequence[Canvas]) -> None:
        """Group the rows by scheduler and fixed options; forget the state of rows that have left."""
        members: dict[tuple[object, ...], list[int]] = {}
        for row, canvas in enumerate(canvases):
            spec = canvas.request.scheduler
            members.setdefault((spec.name, spec.fixed, spec.instance), []).append(row)
        self._groups = [_group(rows, canvases) for rows in members.values()]
        self.inputs = tuple(_group_inputs(rows, canvases) for rows in members.values())
        paced = [_paced(rows, canvases) for rows in members.values()]
        self._paced = {group: rows for group, rows in enumerate(paced) if rows}
        running = {canvas.request.id for canvas in canvases}
        self._states = {id: state for id, state in self._states.items() if id in running}
        self.top_logprobs = max((canvas.request.top_logprobs for canvas in canvases), default=0)
        asked = [group.needs for group in self._groups]
        self.needs = Needs(
            top_k=max((self.top_logprobs, *(needs.top_k for needs in asked))),
            window="generation",
            **{name: any(getattr(needs, name) for needs in asked) for name in SWITCHES},
        )
        if any(canvas.request.input_state.softens for canvas in canvases):
            self.needs = replace(self.needs, current=True)

    def set_pace(self, load: float) -> None:
        """Let the load, from 0 to 1 and more, set the dials of the rows that have a pace."""
        for group, rows in self._paced.items():
            now, inputs = time.monotonic(), self.inputs[group]
            dial = rows[0][2].option  # a group has one scheduler
            column = inputs.options[dial].clone()
            for place, canvas, pace in rows:
                column[place] = pace.value(canvas.choose_share(pace, load, now))
            changed = replace(inputs, options={**inputs.options, dial: column})
            self.inputs = (*self.inputs[:group], changed, *self.inputs[group + 1 :])

    def choose(
        self, view: View, last_pass: Tensor, inputs: Sequence[GroupInputs], unheard: frozenset[str] = frozenset()
    ) -> Choice:
        """What is done now.

        view       of all rows; options are added here
        last_pass  (B,) bool, rows that may have no forward pass after this one
        inputs     those of this class, on the device
        unheard    requests whose decisions count for nothing, so that their states stay as they are

        Only eligible positions are revealed. A row that would reveal nothing reveals its most confident position. On
        its last pass a row reveals everything. Only revealed positions of the block are remasked or written over, and
        only by a scheduler that declared it. If a scheduler writes into its view, only that scheduler is affected.

        Raises SchedulerError if a scheduler fails. The step has then changed nothing, and may be repeated.
        """
        eligible = view.eligible.clone()
        best = view.most_confident()
        revealed = view.in_block & ~view.mask
        chosen = Choice.none(view, self.needs)
        kept = [self._ask_group(group, asked, view, chosen) for group, asked in zip(self._groups, inputs, strict=True)]
        self.records = {}
        for states, records in kept:
            self._states |= {id: state for id, state in states.items() if id not in unheard}
            self.records |= {id: record for id, record in records.items() if id not in unheard}
        last = last_pass[:, None]
        reveal = chosen.reveal & eligible
        stuck = ~reveal.any(1)
        reveal = reveal | (best & stuck[:, None]) | (eligible & last)
        remask = chosen.remask & revealed & ~last
        write = None if chosen.write is None else chosen.write & revealed & ~remask
        return replace(chosen, reveal=reveal, remask=remask, write=write)

    def _ask_group(
        self, group: _Group, inputs: GroupInputs, view: View, chosen: Choice
    ) -> tuple[dict[str, RowState], dict[str, RowState]]:
        """One group's decision, written to its rows of `chosen`; its states and records, by request.

        Raises SchedulerError.
        """
        rows = inputs.rows
        seen = _asked_for(view if group.everyone else view.rows(rows), group.needs)
        # Copies: on a CPU the next step uses the same memory, and a scheduler might write into it.
        seen = replace(seen, options={name: column.clone() for name, column in inputs.options.items()})
        try:
            decision = group.scheduler.decide(seen, self._state_of(group, view.mask.shape[1]))
            chosen.reveal[rows] = decision.reveal
            for name in DECLARED:
                answer, place = getattr(decision, name), getattr(chosen, name)
                if answer is not None and getattr(group.needs, name):
                    place[rows] = answer
            if chosen.choice is not None:  # what is no choice of this group's is the proposal
                own = chosen.choice[rows]
                chosen.choice[rows] = own.masked_fill((own < 0) | (own >= group.needs.top_k), -1)
            states = _by_row(group, "state", decision.state, (view.mask.shape[1],))
            return states, _by_row(group, "record", decision.record)
        except (Exception, SystemExit) as error:  # a scheduler that exits has failed, too
            raise SchedulerError(group.name, group.ids, error) from error

    def _state_of(self, group: _Group, width: int) -> State:
        """The group's state, rows stacked; zeros for rows without one, columns fitted to the view's."""
        known = [self._states[id] for id in group.ids if id in self._states]
        if not known:
            return {}
        stacked = {}
        for name, example in known[0].items():
            rows = [self._states.get(id, {}).get(name, torch.zeros_like(example)) for id in group.ids]
            stacked[name] = torch.stack([_fit(row, width) for row in rows])
        return stacked


def _group(rows: Sequence[int], canvases: Sequence[Canvas]) -> _Group:
    first = canvases[rows[0]]
    return _Group(
        name=first.request.scheduler.name,
        scheduler=first.request.scheduler.scheduler(),
        needs=first.needs,
        ids=tuple(canvases[row].request.id for row in rows),
        everyone=len(rows) == len(canvases),
    )


def _group_inputs(rows: Sequence[int], canvases: Sequence[Canvas]) -> GroupInputs:
    options = [canvases[row].request.scheduler.numeric for row in rows]
    columns = {name: torch.tensor([row[name] for row in options]) for name in options[0]}
    return GroupInputs(torch.tensor(rows), columns)


def _paced(rows: Sequence[int], canvases: Sequence[Canvas]) -> list[tuple[int, Canvas, Pace]]:
    paces = [(place, canvases[row], canvases[row].request.pace) for place, row in enumerate(rows)]
    return [(place, canvas, pace) for place, canvas, pace in paces if pace is not None]


def _asked_for(view: View, needs: Needs) -> View:
    """The view with only the statistics that the scheduler asks for; other rows of the batch may need more."""
    k = needs.top_k
    return replace(
        view,
        top_ids=view.top_ids[..., :k] if k and view.top_ids is not None else None,
        top_probabilities=view.top_probabilities[..., :k] if k and view.top_probabilities is not None else None,
        entropy=view.entropy if needs.entropy else None,
        kl=view.kl if needs.kl else None,
        stops=view.stops if needs.stops else None,
        current=view.current if needs.current else None,
        hidden=view.hidden if needs.hidden else None,
    )


def _by_row(group: _Group, what: str, tensors: State, columns: tuple[int, ...] = ()) -> dict[str, RowState]:
    """What a group returned, by request; empty if it returned nothing.

    Raises ValueError if a tensor does not have one entry per row and, if it has columns, as many as the view.
    """
    if not tensors:
        return {}
    expected = (len(group.ids), *columns)
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[: len(expected)] != expected[: value.ndim]:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{what} {name!r} must be a tensor whose shape begins with {expected}, not {found}")
    return {id: {name: value[row] for name, value in tensors.items()} for row, id in enumerate(group.ids)}


def _fit(row: Tensor, width: int) -> Tensor:
    """Cut or zero-pad one row of state, () or (W, ...), to `width` columns."""
    if row.ndim == 0:
        return row
    return torch.cat([row[:width], row.new_zeros(max(0, width - row.shape[0]), *row.shape[1:])])
