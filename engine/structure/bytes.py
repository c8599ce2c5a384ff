"""From a regular expression to the smallest automaton over the bytes of its texts.

outlines-core makes it: its `Index` is a deterministic automaton with explicit states and transitions, which the search
for the most probable text needs (`engine/structure/paths.py`). llguidance and xgrammar tell which tokens may follow a
text that is written from the left, and nothing about texts with masks in them.

The library makes the automaton of texts that hold a match anywhere, too, which may be exponentially larger: at each
byte, a match may begin. So all texts begin with a byte, zero, that hardly any expression allows elsewhere. And it loses
texts that continue a shorter one that matches, by more than a byte. So all texts end with this byte, too, and none that
holds it elsewhere is kept.

A short expression may have millions of states, and the library cannot be interrupted. So a process of its own makes
the automaton, with bounds on its memory and its time.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask.engine.structure.request import StructureError

MAX_STATES = 20_000
MAX_MEMORY = 1 << 30  # bytes of address space
MAX_SECONDS = 10  # of computing
PATIENCE = 6  # how many times as long the process may take on a busy machine
DEAD = -1
BYTES = 256

# Its arguments are the bounds: bytes of memory, seconds, and states.
_PROGRAM = """
import json, resource, sys
memory, seconds, states = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
from outlines_core import Index, Vocabulary
one_each = Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
try:
    index = Index("\\x00(?:" + sys.stdin.buffer.read().decode() + ")\\x00", one_each)
except ValueError as error:
    nothing = "Found no transitions" in str(error)
    json.dump({"error": "no text matches it" if nothing else str(error)}, sys.stdout)
    sys.exit()
transitions = index.get_transitions()
if len(transitions) > states:
    sys.exit(1)
rows = {state: list(row.items()) for state, row in transitions.items()}
first = transitions[index.get_initial_state()][0]
json.dump({"first": first, "last": list(index.get_final_states()), "rows": rows}, sys.stdout)
"""


@dataclass(frozen=True)
class ByteAutomaton:
    """A deterministic automaton over bytes. State 0 is the first.

    following  (S, 256) int32  the next state, or DEAD
    accepting  (S,) bool       whether the text may end
    """

    following: NDArray[np.int32]
    accepting: NDArray[np.bool_]


def byte_automaton(regex: str) -> ByteAutomaton:
    """The smallest automaton for a regular expression. Raises StructureError if it is wrong, or too large."""
    try:
        written = regex.encode()
    except UnicodeEncodeError:
        raise StructureError("it holds half of a surrogate pair, which is no text; leave it out") from None
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, *map(str, (MAX_MEMORY, MAX_SECONDS, MAX_STATES))],
            input=written,
            capture_output=True,
            check=False,
            timeout=PATIENCE * MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _too_large() from None
    if done.returncode:
        raise _too_large()
    found = json.loads(done.stdout)
    if "error" in found:
        raise StructureError(f"its regular expression does not work: {found['error']}; correct it")
    return _smallest(_as_table(found))


def _too_large() -> StructureError:
    return StructureError(
        f"its automaton has more than {MAX_STATES} states, or takes longer than {MAX_SECONDS} seconds to make; "
        "shorten lengths and counts"
    )


def _as_table(found: dict[str, object]) -> ByteAutomaton:
    rows: dict[str, list[list[int]]] = found["rows"]  # type: ignore[assignment]
    last: list[int] = found["last"]  # type: ignore[assignment]
    names = dict.fromkeys([int(found["first"])])  # type: ignore[call-overload]
    names |= dict.fromkeys([*map(int, rows), *last, *(to for row in rows.values() for _, to in row)])
    number = {name: i for i, name in enumerate(names)}
    following = np.full((len(number), BYTES), DEAD, dtype=np.int32)
    for name, row in rows.items():
        for byte, to in row:
            if byte < BYTES:
                following[number[int(name)], byte] = number[to]
    accepting = np.isin(following[:, 0], [number[name] for name in last])
    following[:, 0] = DEAD
    return ByteAutomaton(following, accepting)


def _smallest(automaton: ByteAutomaton) -> ByteAutomaton:
    """States that accept the same texts become one (Moore, 1956). Unlike states get unlike numbers until no state
    differs any more from those with its number."""
    columns = np.unique(automaton.following, axis=1)  # bytes that always lead to the same states count once
    weights = np.random.default_rng(0).integers(1, 1 << 63, 1 + columns.shape[1], dtype=np.uint64) | np.uint64(1)
    number = automaton.accepting.astype(np.int64)
    count = 0
    while True:
        reached = np.where(columns == DEAD, 0, number[columns] + 1)
        rows = np.column_stack([number, reached]).astype(np.uint64)
        rows = (rows + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        rows ^= rows >> np.uint64(29)
        keys = (rows * weights).sum(axis=1, dtype=np.uint64)
        _, representatives, number = np.unique(keys, return_index=True, return_inverse=True)
        if len(representatives) == count:
            break
        count = len(representatives)
    order = np.concatenate([[number[0]], np.delete(np.arange(count), number[0])])
    renamed = np.empty(count, dtype=np.int32)
    renamed[order] = np.arange(count)
    chosen = automaton.following[representatives[order]]
    following = np.where(chosen == DEAD, DEAD, renamed[number[chosen]]).astype(np.int32)
    return ByteAutomaton(following, automaton.accepting[representatives[order]])
