"""Each published scheduler equals a plain transcription of its source's rule, pass for pass, on random predictions."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.transcribed import RULES, Edit, Row
from unmask.schedulers import Decision, State, View, parse_scheduler, scheduler_names

WIDTH = 40  # of the view; rows' own blocks are narrower
PASSES = 60
VOCABULARY = 8

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ada-block": [{"delimiter": 1, "length": 6}, {"delimiter": 2, "delimiter_threshold": 0.8, "threshold": 0.5}],
    "credit": [{}, {"threshold": 0.6, "gamma": 1.0}, {"alpha": 3.0, "beta": 1.0, "threshold": 0.7}],
    "deferred-commitment": [{"masks": 5, "length": 8}, {"threshold": 0.6, "masks": 9}, {}],
    "dus": [{}, {"base": 3}],
    "hierarchy": [{}, {"low": 0.75, "threshold": 0.8}, {"low": 0.95}],
    "joint": [{}, {"threshold": 0.8, "edit_threshold": 0.6}, {"threshold": 0.3, "post_edits": 2}, {"post_edits": 0}],
    "local-leap": [{}, {"radius": 2, "relaxed": 0.4}, {"threshold": 0.99, "radius": 1, "relaxed": 0.0}],
    "multi-block": [{"length": 6}, {"length": 9, "threshold": 0.2, "begin": 0.75}, {"length": 4, "begin": 0.0}],
    "remdm": [
        *({"form": form} for form in ("cap", "rescale", "conf", "loop")),
        *({"form": form, "passes": 50, "eta": 0.25} for form in ("cap", "rescale", "conf", "loop")),
    ],
    "saber": [{}, {"n": 5}, {"n": 1}],
    "sched": [
        *({"curve": curve, "n": 2, "high": 1.5, "low": 0.25} for curve in ("cosine", "linear", "exp", "prophet")),
        {"curve": "exp", "high": 1.0, "low": 0.0, "decay": 8.0},
    ],
    "two-thresholds": [{}, {"all_above": 0.25, "each_above": 0.75}],
    "wavefront": [{"n": 2}, {"n": 3, "radius": 1}, {"n": 5, "most": 2, "radius": 6}],
    "wino": [{}, {"wide_in": 0.3, "narrow_out": 0.5}],
}


@dataclass
class Request:
    """What one row is at, on the host: blocks one after another, some of whose positions are pinned."""

    rng: random.Random
    options: dict[str, Any]
    step: int = 0
    block_step: int = 0
    mask: list[bool] = field(default_factory=list)
    pinned: list[bool] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """The next block, with a mask at least."""
        self.block_step = 0
        share = self.rng.choice([0.0, 0.0, 0.3])
        self.pinned = [self.rng.random() < share for _ in range(self.rng.randrange(1, WIDTH + 1))]
        self.pinned[self.rng.randrange(len(self.pinned))] = False
        self.mask = [not pinned for pinned in self.pinned]
        self.tokens = [self.rng.randrange(VOCABULARY) for _ in self.pinned]

    def apply(self, edit: Edit, proposal: list[int]) -> None:
        """Go on to the next pass."""
        for i in edit.revealed | edit.written:
            self.tokens[i] = edit.tokens.get(i, proposal[i])
        self.mask = [(masked and i not in edit.revealed) or i in edit.remasked for i, masked in enumerate(self.mask)]
        self.step, self.block_step = self.step + 1, self.block_step + 1
        if edit.finish and not any(self.mask):
            self.begin()


def padded(lists: list[list[Any]]) -> Tensor:
    return torch.tensor([[*row, *[type(row[0])()] * (WIDTH - len(row))] for row in lists])


def predictions(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    """Probabilities (B, W, V), some sharp and some flat, and proposals (B, W), drawn in every third row."""
    random = torch.Generator().manual_seed(seed)
    sharp = torch.rand(rows, 1, generator=random) * 4
    p = (torch.randn(rows, WIDTH, VOCABULARY, generator=random) * sharp[..., None]).softmax(-1)
    drawn = torch.randint(VOCABULARY, (rows, WIDTH), generator=random)
    return p, torch.where((torch.arange(rows) % 3 == 2)[:, None], drawn, p.argmax(-1))


def seen(requests: list[Request], options: dict[str, Tensor], seed: int, p: Tensor, proposal: Tensor) -> View:
    inside = padded([[True] * len(request.mask) for request in requests])
    mask, tokens = (padded([getattr(request, name) for request in requests]) for name in ("mask", "tokens"))
    lengths = torch.tensor([len(request.mask) for request in requests])
    zeros, top = torch.zeros_like(lengths), p.topk(VOCABULARY)
    return View(
        mask=mask,
        eligible=mask,
        tokens=tokens,
        proposal=proposal * inside,
        confidence=p.gather(-1, proposal[..., None]).squeeze(-1) * inside,
        positions=torch.arange(WIDTH).expand(len(requests), -1),
        block_start=zeros,
        block_end=lengths,
        length=lengths,
        masks=lengths,
        blocks=zeros + 1,
        later_masks=zeros,
        later_blocks=zeros,
        step=torch.tensor([request.step for request in requests]),
        block_step=torch.tensor([request.block_step for request in requests]),
        options=options,
        seed=torch.arange(len(requests)) + seed * 1000,
        top_ids=top.indices * inside[..., None],
        top_probabilities=top.values * inside[..., None],
        entropy=-(p * p.log()).sum(-1) * inside,
        current=p.gather(-1, tokens[..., None]).squeeze(-1) * (inside & ~mask),
    )


def row(request: Request, view: View, index: int, p: Tensor) -> Row:
    width = len(request.mask)
    assert view.entropy is not None
    return Row(
        mask=request.mask,
        pinned=request.pinned,
        tokens=request.tokens,
        proposal=view.proposal[index, :width].tolist(),
        p=p[index, :width].tolist(),
        entropy=view.entropy[index, :width].tolist(),
        draws=view.uniform()[index, :width].tolist(),
        step=request.step,
        block_step=request.block_step,
        options=request.options,
        memory=request.memory,
    )


def places(flags: Tensor) -> set[int]:
    return set(flags.nonzero().flatten().tolist())


CASES = [(name, given) for name, choices in OPTIONS.items() for given in choices]


def test_every_rule_is_tried() -> None:
    assert set(RULES) == set(OPTIONS) <= set(scheduler_names())


@pytest.mark.parametrize(("name", "given"), CASES)
def test_it_equals_its_transcription(name: str, given: dict[str, Any]) -> None:
    """Rows side by side that differ in block, progress and numbers, over several blocks."""
    texts = {option: value for option, value in given.items() if isinstance(value, str)}
    specs = [parse_scheduler(name, given if i % 4 else texts) for i in range(8)]
    scheduler = specs[0].scheduler()
    columns = {key: torch.tensor([spec.numeric[key] for spec in specs]) for key in specs[0].numeric}
    requests = [Request(random.Random(i), spec.values) for i, spec in enumerate(specs)]
    for request in requests:
        request.begin()
    state: State = {}
    remasked = 0
    for number in range(PASSES):
        p, proposal = predictions(number, len(requests))
        view = seen(requests, columns, number, p, proposal)
        decision = scheduler.decide(view, state)
        state = decision.state
        for i, request in enumerate(requests):
            asked = row(request, view, i, p)
            expected = Edit(*RULES[name](asked))
            assert found(decision, view, i) == expected, (number, i, request)
            request.apply(expected, asked.proposal)
            remasked += len(expected.remasked)
    assert bool(remasked) == scheduler.needs.remask or given == {"n": 1}


def found(decision: Decision, view: View, i: int) -> Edit:
    """What the engine makes of the decision on one row."""
    revealed = places(decision.reveal[i] & view.eligible[i]) or places(best(view)[i])
    pinned_too = [None if one is None else places(one[i] & ~view.mask[i]) for one in (decision.remask, decision.write)]
    tokens = {}
    if decision.choice is not None:
        assert view.top_ids is not None
        for column in revealed:
            choice = int(decision.choice[i, column])
            tokens[column] = int(view.top_ids[i, column, choice] if choice >= 0 else view.proposal[i, column])
    finish = True if decision.finish is None else bool(decision.finish[i])
    return Edit(revealed, pinned_too[0] or set(), pinned_too[1] or set(), tokens, finish)


def best(view: View) -> Tensor:
    """What the engine reveals of a row that would reveal nothing, if it has masks."""
    top = view.confidence.masked_fill(~view.eligible, -1.0)
    return torch.nn.functional.one_hot(top.argmax(1), WIDTH).bool() & view.eligible
