"""From an automaton over bytes to one over the tokens of a vocabulary."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.engine.structure.bytes import DEAD, ByteAutomaton
from unmask.engine.structure.request import StructureError
from unmask.models.loading import Model

MAX_TOKEN_BYTES = 64  # longer tokens are left out of structured answers
MAX_TOKEN_STATES = 4096
MAX_EDGES = 4_000_000
NEVER = np.iinfo(np.int32).max  # distance of a state from which no text can end

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TokenBytes:
    """The tokens of a vocabulary that write text, as bytes.

    ids      (N,) int64
    bytes    (MAX_TOKEN_BYTES, N) uint8, zeros after the end of a token
    lengths  (N,) int64, from 1
    rows     rows of the vocabulary, tokens without text included
    end      the token that ends a text
    """

    ids: Ints
    bytes: NDArray[np.uint8]
    lengths: Ints
    rows: int
    end: int

    @staticmethod
    def of(model: Model) -> "TokenBytes":
        """Those of a model. Raises StructureError if its vocabulary does not tell bytes, or no token ends a text."""
        tokenizer = model.tokenizer
        if not tokenizer.byte_level:
            raise StructureError("the vocabulary of this model is not byte-level; leave the field out")
        if not model.stop_ids:
            raise StructureError("this model has no token that ends a text; leave the field out")
        texts = {id: tokenizer.text_bytes(id) for id in range(model.vocab_size)}
        silent = model.stop_ids | {model.mask_id}
        kept = {id: text for id, text in texts.items() if id not in silent and 0 < len(text) <= MAX_TOKEN_BYTES}
        padded = b"".join(text.ljust(MAX_TOKEN_BYTES, b"\0") for text in kept.values())
        return TokenBytes(
            ids=np.array(list(kept), dtype=np.int64),
            bytes=np.frombuffer(padded, dtype=np.uint8).reshape(-1, MAX_TOKEN_BYTES).T.copy(),
            lengths=np.array([len(text) for text in kept.values()], dtype=np.int64),
            rows=model.network.architecture.vocab_rows,
            end=min(model.stop_ids),
        )


@dataclass(frozen=True)
class Tables:
    """An automaton on the device. C classes of tokens: those of one class lead from each state to the same state.

    class_of  (V,) long  the class of each token; C for those that no text has
    source    (E,) long  the state that each transition leaves, ascending
    cls       (E,) long  the class of its tokens, ascending for each source
    target    (E,) long  the state that it leads to
    first     (S + 1,) long  where the transitions of each state begin
    distance  (S,) long  the fewest tokens from each state to the end, the end of text included; NEVER if there is none
    """

    class_of: Tensor
    source: Tensor
    cls: Tensor
    target: Tensor
    first: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over the tokens of a vocabulary, on the host. State 0 is the first, S - 1 the end: it
    is reached by the end of text, which is all that may follow.

    only  (C,) int64  the token of a class that has one token, or -1
    The others are those of `Tables`.
    """

    class_of: Ints
    source: Ints
    cls: Ints
    target: Ints
    first: Ints
    distance: Ints
    only: Ints

    @property
    def classes(self) -> int:
        return len(self.only)

    @property
    def end_token(self) -> int:
        """The token that ends a text."""
        return int(self.only[-1])

    @cached_property
    def widest(self) -> int:
        """The most transitions of a state."""
        return int(np.diff(self.first).max())

    @property
    def needed(self) -> int:
        """The fewest tokens of an answer, the end of text included."""
        return int(self.distance[0])

    def after(self, state: int, token: int) -> int | None:
        """The state after a token; None if the token may not follow."""
        start, stop = self.first[state], self.first[state + 1]
        at = start + np.searchsorted(self.cls[start:stop], self.class_of[token])
        return int(self.target[at]) if at < stop and self.cls[at] == self.class_of[token] else None

    def forced(self, state: int, left: int) -> int | None:
        """The one token that may follow a state if `left` positions come after it; None if there are several."""
        start, stop = self.first[state], self.first[state + 1]
        fitting = np.flatnonzero(self.distance[self.target[start:stop]] <= left)
        if len(fitting) != 1:
            return None
        token = int(self.only[self.cls[start + fitting[0]]])
        return token if token >= 0 else None

    def tables(self, device: torch.device) -> Tables:
        """The automaton on the device."""
        arrays = (self.class_of, self.source, self.cls, self.target, self.first, self.distance)
        return Tables(*(torch.from_numpy(array).to(device) for array in arrays))


def token_automaton(automaton: ByteAutomaton, tokens: TokenBytes) -> Automaton:
    """The automaton over tokens. Raises StructureError if it is too large, or if no text of tokens matches.

    Where the automaton leaves one text only, one way to write it is kept: its longest token. Without this, each such
    text could be written in as many ways as it can be cut, and no position would be forced.
    """
    states, transitions = _transitions(automaton, tokens)
    return _joined(automaton, tokens, states, transitions)


@dataclass(frozen=True)
class _Reached:
    """The states between tokens, in the order in which they are found, and the token that each may begin a forced text
    with: an index, or -1 for any."""

    states: list[int]
    longest: list[int]


def _transitions(automaton: ByteAutomaton, tokens: TokenBytes) -> tuple[_Reached, Ints]:
    """The states that tokens reach, and the class of each token."""
    everything = np.arange(len(tokens.ids))
    found, longest = {0: 0}, list[int]()
    hashes = np.zeros(len(tokens.ids), dtype=np.uint64)
    queue = [0]
    for state in queue:  # grows
        live, target = _walk(automaton, tokens, state, everything)
        forced = _forced_bytes(automaton, state)
        inside = tokens.lengths[live] <= forced
        best = int(live[inside][tokens.lengths[live[inside]].argmax()]) if inside.any() else -1
        kept = ~inside | (live == best)
        live, target = live[kept], target[kept]
        longest.append(best)
        hashes[live] += _mixed(np.uint64(state) << np.uint64(32) | target.astype(np.uint64))
        for new in np.unique(target).tolist():
            if new not in found:
                found[new] = len(queue)
                queue.append(new)
        if len(queue) > MAX_TOKEN_STATES:
            raise StructureError(f"its automaton has more than {MAX_TOKEN_STATES} states; shorten lengths and counts")
    _, classes = np.unique(hashes, return_inverse=True)
    return _Reached(queue, longest), classes.astype(np.int64)


def _joined(automaton: ByteAutomaton, tokens: TokenBytes, reached: _Reached, classes: Ints) -> Automaton:
    """The automaton of some states, with one transition for all tokens of a class."""
    _, representatives, sizes = np.unique(classes, return_index=True, return_counts=True)
    number = {state: i for i, state in enumerate(reached.states)}
    end_state, end_class = len(number), len(representatives)
    pieces = list[tuple[Ints, Ints, Ints]]()
    edges = 0
    for i, (state, longest) in enumerate(zip(reached.states, reached.longest, strict=True)):
        live, target = _walk(automaton, tokens, state, representatives)
        inside = tokens.lengths[live] <= _forced_bytes(automaton, state)
        kept = ~inside | (classes[live] == (classes[longest] if longest >= 0 else -1))
        cls = classes[live[kept]]
        to = np.array([number[name] for name in target[kept].tolist()], dtype=np.int64)
        if automaton.accepting[state]:
            cls, to = np.append(cls, end_class), np.append(to, end_state)
        order = cls.argsort()
        pieces.append((np.full(len(cls), i), cls[order], to[order]))
        edges += len(cls)
        if edges > MAX_EDGES:
            raise StructureError(f"its automaton has more than {MAX_EDGES} transitions; shorten lengths and counts")
    pieces.append((np.array([end_state]), np.array([end_class]), np.array([end_state])))
    source, cls, target = (np.concatenate(column) for column in zip(*pieces, strict=True))
    class_of = np.full(tokens.rows, end_class + 1, dtype=np.int64)
    class_of[tokens.ids] = classes
    class_of[tokens.end] = end_class
    distance = _distances(source, target, end_state)
    if distance[0] == NEVER:
        raise StructureError("no text of the model's tokens matches it; correct it")
    return Automaton(
        class_of=class_of,
        source=source,
        cls=cls,
        target=target,
        first=np.searchsorted(source, np.arange(end_state + 2)),
        distance=distance,
        only=np.append(np.where(sizes == 1, tokens.ids[representatives], -1), tokens.end),
    )


def _walk(automaton: ByteAutomaton, tokens: TokenBytes, state: int, among: Ints) -> tuple[Ints, Ints]:
    """Those of some tokens that may follow a state, and the state after each."""
    live, at = among, np.full(len(among), state, dtype=np.int64)
    ended, reached = list[Ints](), list[Ints]()
    for place in range(MAX_TOKEN_BYTES):
        at = automaton.following[at, tokens.bytes[place, live]].astype(np.int64)
        alive = at != DEAD
        live, at = live[alive], at[alive]
        done = tokens.lengths[live] == place + 1
        ended.append(live[done])
        reached.append(at[done])
        live, at = live[~done], at[~done]
        if not len(live):
            break
    live, target = np.concatenate(ended), np.concatenate(reached)
    order = live.argsort()
    return live[order], target[order]


def _forced_bytes(automaton: ByteAutomaton, state: int) -> int:
    """How many bytes are the only ones that may follow a state, one after another; at most a token's."""
    count = 0
    while not automaton.accepting[state] and count < MAX_TOKEN_BYTES:
        ways = np.flatnonzero(automaton.following[state] != DEAD)
        if len(ways) != 1:
            break
        state = int(automaton.following[state, ways[0]])
        count += 1
    return count


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele et al., OOPSLA 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _distances(source: Ints, target: Ints, end: int) -> Ints:
    """The fewest transitions from each state to the end."""
    pairs = np.unique(source * (end + 1) + target)
    source, target = pairs // (end + 1), pairs % (end + 1)
    distance = np.full(end + 1, NEVER, dtype=np.int64)
    distance[end] = 0
    while True:
        nearer = distance.copy()
        np.minimum.at(nearer, source, np.minimum(distance[target] + 1, NEVER))
        if (nearer == distance).all():
            return distance
        distance = nearer
