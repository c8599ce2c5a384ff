"""The rules of the schedulers once more, in plain Python: written from each source's formula, one row at a time.

A rule takes what one row may see and returns which of its positions are revealed and which remasked. What it remembers
from pass to pass it keeps in `row.memory`, which is empty when the request begins.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple


@dataclass
class Row:
    """One row's block at one pass: lists have an entry a position. `pinned` held a token from the start."""

    mask: list[bool]
    pinned: list[bool]
    tokens: list[int]
    proposal: list[int]
    p: list[list[float]]
    entropy: list[float]
    draws: list[float]
    step: int
    block_step: int
    options: dict[str, Any]
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def masks(self) -> list[int]:
        return [i for i, masked in enumerate(self.mask) if masked]

    @property
    def ours(self) -> list[int]:
        """What was revealed in this block."""
        return [i for i, masked in enumerate(self.mask) if not masked and not self.pinned[i]]

    @property
    def c(self) -> list[float]:
        return [p[token] for p, token in zip(self.p, self.proposal, strict=True)]

    @property
    def top(self) -> list[list[float]]:
        return [sorted(p, reverse=True) for p in self.p]


class Edit(NamedTuple):
    """What is done to a row.

    written  where the proposal is written over a token
    tokens   what is taken for the proposal, by position, of a rule that may choose
    finish   whether a block without masks is over
    """

    revealed: set[int]
    remasked: set[int]
    written: Set[int] = frozenset()
    tokens: Mapping[int, int] = MappingProxyType({})
    finish: bool = True


Answer = tuple[set[int], set[int]]
Rule = Callable[[Row], Answer | Edit]


def surest(row: Row, among: Iterable[int], n: int = 1) -> set[int]:
    """The n positions with the most confident proposals."""
    return set(sorted(among, key=lambda i: (-row.c[i], i))[:n])


def two_thresholds(row: Row) -> Answer:
    if min(row.c[i] for i in row.masks) > row.options["all_above"]:
        return set(row.masks), set()
    certain = {i for i in row.masks if row.c[i] > row.options["each_above"]}
    return certain or surest(row, row.masks), set()


def local_leap(row: Row) -> Answer:
    anchors = {i for i in row.masks if row.c[i] > row.options["threshold"]}
    near = set()
    for i in row.masks:
        for j in anchors:
            if abs(i - j) <= row.options["radius"] and row.c[i] > row.options["relaxed"]:
                near.add(i)
    return anchors | near or surest(row, row.masks), set()


def hierarchy(row: Row) -> Answer:
    if max(row.c[i] for i in row.masks) < row.options["low"]:
        return surest(row, row.masks), set()
    chosen, run = set(), list[int]()
    for i in [*range(len(row.mask)), -1]:
        if i >= 0 and row.mask[i]:
            run.append(i)
        elif run:
            chosen |= {i for i in surest(row, run) if row.c[i] > row.options["low"]}
            run = []
    chosen |= {i for i in row.masks if row.c[i] > row.options["threshold"]}
    return chosen or surest(row, row.masks), set()


def dus(row: Row) -> Answer:
    stride = len(row.mask) // row.options["base"]
    while True:
        due = {i for i in row.masks if i % max(stride, 1) == 0}
        if due:
            return due, set()
        stride //= row.options["base"]


def sched(row: Row) -> Answer:
    o, masks = row.options, row.masks
    lead = sum(math.log(row.top[i][0]) - math.log(row.top[i][1]) for i in masks) / len(masks)
    p = row.block_step / (row.block_step + math.ceil(len(masks) / o["n"]))
    bound = {
        "linear": o["high"] + (o["low"] - o["high"]) * p,
        "cosine": o["low"] + (o["high"] - o["low"]) * 0.5 * (1 + math.cos(math.pi * p)),
        "exp": o["low"] + (o["high"] - o["low"]) * math.exp(-o["decay"] * p),
        "prophet": o["high"] if p < 1 / 3 else (o["high"] + o["low"]) / 2 if p < 2 / 3 else o["low"],
    }[o["curve"]]
    return (set(masks) if lead >= bound else surest(row, masks, o["n"])), set()


def deferred_commitment(row: Row) -> Answer:
    left = row.masks[0]
    right = left
    for i in range(left, len(row.mask) + 1):
        if i <= left + row.options["length"] and sum(row.mask[left:i]) <= row.options["masks"]:
            right = i
    window = [i for i in row.masks if left <= i < right]
    bound = min(row.options["threshold"], max(row.c[i] for i in window))
    return {i for i in window if row.c[i] >= bound}, set()


def wavefront(row: Row) -> Answer:
    known = [-1, *(i for i, masked in enumerate(row.mask) if not masked)]
    front = [i for i in row.masks if min(abs(i - j) for j in known) <= row.options["radius"]]
    if row.block_step == 0:
        front = row.masks[: row.options["most"]]
    kept = surest(row, front, row.options["most"])
    return surest(row, kept, row.options["n"]), set()


def ada_block(row: Row) -> Answer:
    o = row.options
    end = row.memory.get("end", 0) if row.block_step else 0
    if not any(row.mask[:end]):
        start = row.masks[0]
        window = range(start, min(start + int(0.25 * len(row.mask)), len(row.mask)))
        lines = [i for i in window if row.mask[i] and row.proposal[i] == o["delimiter"]]
        best = max(lines, key=lambda i: (row.c[i], -i), default=None)
        sure = best is not None and row.c[best] >= o["delimiter_threshold"]
        end = best + 1 if best is not None and sure else start + o["length"]
    row.memory["end"] = end
    block = [i for i in row.masks if i < end]
    return {i for i in block if row.c[i] >= o["threshold"]} | surest(row, block), set()


def multi_block(row: Row) -> Answer:
    size, chosen, first = row.options["length"], set[int](), True
    for start in range(0, len(row.mask), size):
        block = range(start, min(start + size, len(row.mask)))
        before = row.mask[max(start - size, 0) : start]
        if before and before.count(False) / len(before) < row.options["begin"]:
            continue
        masks = [i for i in block if row.mask[i]]
        certain = {i for i in masks if row.entropy[i] < row.options["threshold"]}
        chosen |= certain
        if masks and first and not certain:
            chosen.add(min(masks, key=lambda i: (row.entropy[i], i)))
        first = first and not masks
    if first or not chosen:  # a block before the first masks cannot keep it from beginning: it is full
        raise AssertionError
    return chosen, set()


def remdm(row: Row) -> Answer:
    o, memory = row.options, row.memory
    if row.block_step == 0:
        memory.clear()
        memory["masks"] = len(row.masks)
    total = o["passes"] or memory["masks"]
    k = row.block_step
    t, s = 1 - k / total, max(1 - (k + 1) / total, 0.0)
    eta = o["eta"] if o["eta"] is not None else {"cap": 0.02, "rescale": 0.015, "conf": 1.0, "loop": 0.02}[o["form"]]
    psi: dict[int, float] = memory.setdefault("psi", {})
    standing = [i for i in psi if not row.mask[i]]
    if s == 0:
        return set(row.masks), set()
    back: dict[int, float]
    if o["form"] == "loop":
        if t > 0.55:
            now, then = (1 - t) * 0.9 / 0.45, (1 - s) * 0.9 / 0.45
            reveal, back = (then - now) / (1 - now), {}
        elif t <= 0.05:
            reveal, back = (t * 0.1 / 0.05 - s * 0.1 / 0.05) / (t * 0.1 / 0.05), {}
        else:
            reveal, back = (0.9 - (1 - eta) * 0.9) / (1 - 0.9), dict.fromkeys(standing, eta)
    else:
        now, then = 1 - t, 1 - s
        most = min(1, (1 - then) / now) if now else 1
        if o["form"] == "conf":
            weights = {i: math.exp(-psi[i]) for i in standing}
            back = {i: eta * most * w / sum(weights.values()) for i, w in weights.items()}
            sigma = 0.0
        else:
            sigma = min(eta, most) if o["form"] == "cap" else eta * most
            back = dict.fromkeys(standing, sigma)
        reveal = (then - (1 - sigma) * now) / (1 - now)
    revealed = {i for i in row.masks if row.draws[i] < reveal} or surest(row, row.masks)
    psi |= {i: row.c[i] for i in revealed}
    return revealed, {i for i in standing if row.draws[i] < back.get(i, 0.0)}


def saber(row: Row) -> Answer:
    n, memory = row.options["n"], row.memory
    finals: dict[tuple[int, int], float] = memory.setdefault("finals", {})  # by block and position
    if row.block_step == 0:
        memory["block"] = memory.get("block", -1) + 1
        memory["last"] = [0.0 if row.step == 0 else -math.inf] * len(row.mask)
    delta = [now - before for now, before in zip(row.c, memory["last"], strict=True)]
    memory["last"] = list(row.c)
    theta = sum(finals.values()) / len(finals) if finals else 1.0
    chosen = {i for i in row.masks if row.c[i] > theta}
    fixed = max(n, len(chosen))
    if len(chosen) < n:
        chosen = surest(row, row.masks, n)
    finals |= {(memory["block"], i): row.c[i] for i in chosen}
    if chosen == set(row.masks):
        return chosen, set()
    count = min(max(n // 2, math.ceil(fixed / 8)), fixed - 1)
    standing = [i for i in range(len(row.mask)) if not row.pinned[i] and (not row.mask[i] or i in chosen)]
    lost = set(sorted((i for i in standing if delta[i] < math.inf), key=lambda i: (delta[i], i))[:count])
    return chosen - lost, lost - chosen


def wino(row: Row) -> Answer:
    memory, o = row.memory, row.options
    if row.block_step == 0:
        memory["accepted"] = 30
    most = min(max(int(len(row.masks) * 0.7), 5), 20)
    drafted = [i for i in row.masks if row.c[i] > o["wide_in"]]
    revealed = surest(row, drafted, most) or surest(row, row.masks)
    doubtful = [i for i in row.ours if row.p[i][row.tokens[i]] < o["narrow_out"]]
    if len(revealed) <= 1:
        doubtful = []
    if len(doubtful) >= memory["accepted"]:
        doubtful = sorted(doubtful, key=lambda i: (row.p[i][row.tokens[i]], i))[: memory["accepted"] - 1]
    memory["accepted"] = len(revealed)
    return revealed, set(doubtful)


def joint(row: Row) -> Edit:
    o, memory = row.options, row.memory
    if row.block_step == 0:
        memory["edits"] = 0
    if not row.masks:
        memory["edits"] += 1
    revealed = {i for i in row.masks if row.c[i] > o["threshold"]} or surest(row, row.masks)
    written = {i for i in row.ours if row.proposal[i] != row.tokens[i] and row.c[i] > o["edit_threshold"]}
    finish = memory["edits"] >= o["post_edits"] or not (row.masks or written)
    return Edit(revealed, set(), written, finish=finish)


def credit(row: Row) -> Edit:
    o = row.options
    if row.block_step == 0:
        row.memory["credit"] = [[0.0] * len(p) for p in row.p]
    scores: dict[int, float] = {}
    tokens: dict[int, int] = {}
    for i in row.masks:
        credits, p = row.memory["credit"][i], row.p[i]
        credits[:] = [o["beta"] * one for one in credits]
        first = max(range(len(p)), key=lambda v: p[v])
        credits[first] += p[first] ** o["gamma"]
        fused = [p[v] * (1 + credits[v]) ** o["alpha"] for v in range(len(p))]
        best = max(range(len(p)), key=lambda v: fused[v]) if row.proposal[i] == first else row.proposal[i]
        tokens[i], scores[i] = best, fused[best] / sum(fused)
    revealed = {i for i in row.masks if scores[i] >= o["threshold"]} | {max(scores, key=lambda i: (scores[i], -i))}
    return Edit(revealed, set(), tokens={i: tokens[i] for i in revealed})


RULES: dict[str, Rule] = {
    "ada-block": ada_block,
    "credit": credit,
    "deferred-commitment": deferred_commitment,
    "dus": dus,
    "hierarchy": hierarchy,
    "joint": joint,
    "local-leap": local_leap,
    "multi-block": multi_block,
    "remdm": remdm,
    "saber": saber,
    "sched": sched,
    "two-thresholds": two_thresholds,
    "wavefront": wavefront,
    "wino": wino,
}
