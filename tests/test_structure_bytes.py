"""The automata over bytes accept what their expressions match, text by text, as Python's own `re` does."""

import re
from itertools import product

import pytest

from unmask.engine.structure.bytes import DEAD, ByteAutomaton, byte_automaton

LONGEST = 6
# Many match a text and one that goes on from it, where a library of regular expressions might stop too soon.
REGEXES = [
    "(?:a,)*a",
    "a(?:,a)*",
    "(?:ab)+",
    "a|ab,|ab,ab",
    "a(?:,a){0,2}",
    "a?b?",
    "[ab]+,?",
    "",
    "(?:a|b,)*",
    "a{2}b*",
]


@pytest.mark.parametrize("regex", REGEXES)
def test_all_short_texts(regex: str) -> None:
    automaton = byte_automaton(regex)
    for length in range(LONGEST + 1):
        for letters in product("ab,", repeat=length):
            text = "".join(letters)
            assert accepts(automaton, text) == bool(re.fullmatch(regex, text)), text


def accepts(automaton: ByteAutomaton, text: str) -> bool:
    state = 0
    for byte in text.encode():
        state = int(automaton.following[state, byte])
        if state == DEAD:
            return False
    return bool(automaton.accepting[state])
