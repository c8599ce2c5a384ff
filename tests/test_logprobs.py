"""Log-probabilities by token: no entry is lost, whatever texts tokens have; and what reading them costs the engine."""

import tracemalloc

import pytest
import torch

from tests.synthetic import synthetic_llada
from unmask.engine import Request
from unmask.engine.canvas import Canvas
from unmask.engine.decided import Decided, Proposed, read
from unmask.models.tokenizer import Tokenizer
from unmask.schedulers import Needs, parse_scheduler
from unmask.server.reply.deltas import Delta, Token
from unmask.server.reply.logprobs import chat_logprobs, completion_logprobs

TOP = 20
READ_BYTES = 100_000  # for a few numbers, in any window


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny"), "PreTrainedTokenizerFast")


def test_parts_of_characters_are_told_apart(tokenizer: Tokenizer) -> None:
    """The second is no greedy token: lm-eval takes it for one if it has the highest value among `top_logprobs`."""
    first, second = tokenizer.encode("é")
    token = Token(first, -1.5, 0, ((second, -1.25), (first, -1.5)))
    told = completion_logprobs(Delta(0, "", (token,)), tokenizer)
    assert told["tokens"] == ["bytes:\\xc3"]
    assert told["top_logprobs"] == [{"bytes:\\xa9": -1.25, "bytes:\\xc3": -1.5}]
    (entry,) = chat_logprobs((token,), tokenizer)["content"]
    assert [entry["bytes"], *(top["bytes"] for top in entry["top_logprobs"])] == [[0xC3], [0xA9], [0xC3]]


def test_the_token_itself_is_told_beside_the_most_probable(tokenizer: Tokenizer) -> None:
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    told = completion_logprobs(Delta(0, "", (Token(b, -3.0, 0, ((a, -0.1),)),)), tokenizer)
    assert told["top_logprobs"] == [{"a": -0.1, "b": -3.0}]
    first = completion_logprobs(Delta(0, "", (Token(b, None, 0),)), tokenizer)
    assert (first["tokens"], first["top_logprobs"]) == (["b"], [None])


def test_tokens_of_equal_texts_are_named_as_the_vocabulary_does(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in vocabularies where a word alone loses its space."""
    first, second = tokenizer.encode("é")
    monkeypatch.setattr(tokenizer, "_byte_level", False)  # both are U+FFFD then
    told = completion_logprobs(Delta(0, "", (Token(first, -2.0, 0, ((second, -1.0),)),)), tokenizer)
    assert (told["tokens"], told["top_logprobs"]) == (["Ã"], [{"©": -1.0, "Ã": -2.0}])
    assert chat_logprobs((Token(first, -2.0, 0),), tokenizer)["content"][0]["bytes"] is None


@pytest.mark.parametrize("width", [8, 4096])
def test_reading_a_step_looks_at_what_was_revealed(tokenizer: Tokenizer, width: int) -> None:
    """However wide the window is, one reveal costs the most probable tokens of one column."""
    request = Request("r", (3,), width, width, parse_scheduler("topk"), top_logprobs=TOP)
    canvas = Canvas(request, tokenizer, frozenset(), 260, None, Needs(), submitted=0.0)
    reveal, ids = torch.zeros(1, width, dtype=torch.bool), torch.zeros(1, width, dtype=torch.int64)
    reveal[0, 5], ids[0, 5] = True, 7
    top_ids, top_p = torch.zeros(1, width, TOP, dtype=torch.int64), torch.zeros(1, width, TOP)
    top_ids[0, 5], top_p[0, 5] = torch.arange(TOP), torch.linspace(0.5, 0.0, TOP)
    decided = Decided(reveal, torch.zeros_like(reveal), Proposed(ids, torch.zeros(1, width), top_ids, top_p))
    tracemalloc.start()
    (change,) = read(decided, [canvas])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < READ_BYTES
    assert change is not None
    (revealed,) = change.revealed
    assert (change.remasked, change.written, change.finish) == ((), (), True)
    assert (revealed.position, revealed.token_id) == (5, 7)
    assert [token for token, _ in revealed.top] == list(range(TOP))
    assert [p for _, p in revealed.top] == pytest.approx(torch.linspace(0.5, 0.0, TOP).tolist())
