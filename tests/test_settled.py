"""Settled text: what it costs to write a long answer, counted in decoded tokens, and where stop texts cut it."""

from collections.abc import Sequence

import pytest

from tests.synthetic import synthetic_llada
from unmask.engine import Request, Result, Reveal, Step
from unmask.engine.canvas import Canvas
from unmask.engine.settled import SettledText
from unmask.models.detokenizer import WindowDetokenizer
from unmask.models.loading import Model, load_model
from unmask.models.tokenizer import Tokenizer
from unmask.schedulers import Needs, parse_scheduler

LENGTH = 4096
DECODED_PER_TOKEN = 8  # a window of the newest tokens and those before them, some of them twice


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each decoding has had."""
    counts: list[int] = []
    decode, token_string = Tokenizer.decode, Tokenizer.token_string

    def counted(self: Tokenizer, ids: Sequence[int]) -> str:
        counts.append(len(ids))
        return decode(self, ids)

    def counted_one(self: Tokenizer, token_id: int) -> str:
        counts.append(1)
        return token_string(self, token_id)

    monkeypatch.setattr(Tokenizer, "decode", counted)
    monkeypatch.setattr(Tokenizer, "token_string", counted_one)
    return counts


def steps_of(model: Model, tokens: Sequence[int], block_length: int, **fields: object) -> list[Step]:
    """The steps of an answer that is written block by block, each in one pass."""
    fields = {"scheduler": parse_scheduler("topk"), **fields}
    request = Request("r", (3,), len(tokens), block_length, **fields)  # type: ignore[arg-type]
    canvas = Canvas(request, model.tokenizer, frozenset(), model.mask_id, None, Needs(), submitted=0.0)
    steps: list[Step] = []
    for start in range(0, len(tokens), block_length):
        block = enumerate(tokens[start : start + block_length], start)
        steps.append(canvas.advance(tuple(Reveal(i, token, 1.0, canvas.step) for i, token in block), ()))
        if steps[-1].result is not None:
            break
    return steps


def last(steps: list[Step]) -> Result:
    assert steps[-1].result is not None
    return steps[-1].result


@pytest.mark.parametrize("bytewise", [True, False], ids=["bytes", "windows"])
@pytest.mark.parametrize("block_length", [1, 4, LENGTH])
def test_a_long_answer_is_decoded_once(
    llada: Model, decoded: list[int], monkeypatch: pytest.MonkeyPatch, block_length: int, bytewise: bool
) -> None:
    """Even with a stop text at its very end, block after block and all at once."""
    if not bytewise:
        monkeypatch.setattr(llada.tokenizer, "_byte_level", False)
    tokens = llada.tokenizer.encode("é the 😀 b" * LENGTH)[: LENGTH - 2] + llada.tokenizer.encode("##")
    steps = steps_of(llada, tokens, block_length, stop=("##", "absent"))
    assert sum(decoded) <= DECODED_PER_TOKEN * LENGTH
    assert max(decoded, default=0) <= 3 * 16
    assert list(last(steps).token_ids) == tokens[:-2]
    assert last(steps).text == llada.tokenizer.decode(tokens[:-2])


def test_a_stop_text_leaves_the_whole_character_before_it(llada: Model) -> None:
    for before in ("é", "😀", "a"):
        tokens = llada.tokenizer.encode(f"{before}#")
        for block_length in (1, len(tokens)):
            result = last(steps_of(llada, tokens, block_length, stop=("#",)))
            assert (result.text, list(result.token_ids)) == (before, tokens[:-1])


def test_the_parts_of_an_incomplete_character_stay_together(llada: Model) -> None:
    tokens = [*llada.tokenizer.encode("😀")[:3], *llada.tokenizer.encode("#a")]
    for block_length in (1, 5):
        result = last(steps_of(llada, tokens, block_length, stop=("#",)))
        assert (result.text, list(result.token_ids)) == ("\ufffd", tokens[:3])


def test_a_token_without_text_settles_with_the_text_that_follows(llada: Model) -> None:
    """A stop text may cut before that text, and then the token is no part of the answer."""
    (end,) = llada.tokenizer.encode("<|endoftext|>")
    letters = {letter: llada.tokenizer.encode(letter)[0] for letter in "ab"}
    tokens = [letters["b"], end, letters["a"], end, letters["b"]]
    for stop, kept in ((("ab",), 1), ((), 5), (("b",), 0)):
        for block_length in (1, 5):
            steps = steps_of(llada, tokens, block_length, stop=stop, ignore_eos=True)
            assert list(last(steps).token_ids) == tokens[:kept]
            assert [offset for step in steps for offset in step.offsets] == list(last(steps).offsets)
    assert last(steps_of(llada, tokens, 1)).offsets == (0, 1, 1, 2, 2)


@pytest.mark.parametrize(
    ("text", "stops", "sure"),
    [
        ("abcab", ("abd",), "abc"),
        ("aaa", ("aab",), "a"),
        ("ab", ("c", "ca"), "ab"),
        ("xa", ("ab", "xac"), ""),
        ("xyz", ("zz", "yzz"), "x"),
        ("xyz", (), "xyz"),
    ],
)
def test_what_a_stop_text_may_still_take_is_held_back(
    llada: Model, text: str, stops: tuple[str, ...], sure: str
) -> None:
    settled = SettledText(llada.tokenizer.detokenizer(), stops)
    tokens = llada.tokenizer.encode(text)
    settled.add(list(range(len(tokens))), tokens, last=False)
    assert settled.without_begun_stop() == sure


def test_the_leftmost_stop_text_is_found_across_the_tokens_that_come(llada: Model) -> None:
    tokens = llada.tokenizer.encode("aabcab")
    for size in range(1, 7):
        settled = SettledText(llada.tokenizer.detokenizer(), ("cab", "bc", "abcab"))
        found = None
        for start in range(0, 6, size):
            settled.add(list(range(start, min(start + size, 6))), tokens[start : start + size], last=start + size >= 6)
            if (found := settled.first_stop()) is not None:
                break
        assert found == ((1, "abcab") if size in (3, 6) else (2, "bc"))  # the longer one is there, or it is not yet


def test_the_windows_are_those_of_other_vocabularies(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llada.tokenizer, "_byte_level", False)
    assert isinstance(llada.tokenizer.detokenizer(), WindowDetokenizer)
