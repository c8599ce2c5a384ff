"""Text token by token against text all at once, over vocabularies of bytes and others, with broken characters too."""

import random
from bisect import bisect_left
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from tests.synthetic import synthetic_dream, synthetic_llada, write_json
from unmask.models.detokenizer import LONGEST
from unmask.models.tokenizer import Tokenizer

TEXTS = ["é", "😀", "€", "the", "ab", "\ufffd", "\u2028", "日本", " a", "\xa0"]
SENTENCES = ["the cat sat", "das Haus é und 😀 da", "a  b", " lead", "日本語 the", "é", ""]
WORDS = ["▁the", "▁cat", "▁sat", "▁da", "▁", "t", "h", "e", "a", "b", "s", "d", "l", "c"]


@pytest.fixture(scope="module", params=["llada", "dream", "llada-nano"])
def bytewise(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "llada-nano":
        return Tokenizer(Path(__file__).parents[1] / "weights/llada-nano", "PreTrainedTokenizerFast")
    folder = tmp_path_factory.mktemp("tokenizer") / "tiny"
    if request.param == "dream":
        return Tokenizer(synthetic_dream(folder), "Qwen2Tokenizer")
    return Tokenizer(synthetic_llada(folder), "PreTrainedTokenizerFast")


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Llama's and Gemma's kind: words bring their spaces, but for the first; characters without a token are bytes."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    vocabulary = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    ids = {text: i for i, text in enumerate(vocabulary)}
    merges = [("t", "h")]
    ids["th"] = len(ids)
    backend = Backend(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken("</s>", normalized=False, special=True)])
    backend.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "</s>", "clean_up_tokenization_spaces": False})
    return Tokenizer(folder, "PreTrainedTokenizerFast")


def drawn(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """Whole characters, parts of characters, special tokens and any others."""
    parts = [tokenizer.encode(text) for text in TEXTS]
    parts += [[rng.choice(part)] for part in parts for _ in range(2)]
    parts += [[rng.randrange(len(tokenizer))] for _ in range(6)]
    return [token for part in rng.choices(parts, k=rng.randrange(1, 16)) for token in part]


@pytest.mark.parametrize("with_special", [False, True])
def test_bytes_give_the_text_of_all_at_once(bytewise: Tokenizer, with_special: bool) -> None:
    decode = bytewise.decode_all if with_special else bytewise.decode
    rng = random.Random(1)
    for _ in range(300):
        ids, text = drawn(bytewise, rng), ""
        growing = bytewise.detokenizer(skip_special_tokens=not with_special)
        for i, token in enumerate(ids):
            text += growing.add(token)
            assert text + growing.rest() == decode(ids[: i + 1])
            assert decode(ids).startswith(text)
        text += growing.rest()
        assert growing.starts == sorted(growing.starts)
        assert len(growing.starts) == len(ids)
        for characters in range(len(text) + 1):  # the tokens that write so many, and none of what follows
            count = bisect_left(growing.starts, characters)
            assert decode(ids[:count])[:characters] == text[:characters]
            assert count == 0 or len(decode(ids[: count - 1])) <= characters


def test_a_character_comes_with_its_last_token_and_counts_for_all(bytewise: Tokenizer) -> None:
    e, smile, letter = (bytewise.encode(text) for text in ("é", "😀", "a"))
    growing = bytewise.detokenizer()
    assert [growing.add(token) for token in [*letter, *e, *smile, *letter]] == ["a", "", "é", "", "", "", "😀", "a"]
    assert growing.starts == [0, 1, 1, 2, 2, 2, 2, 3]


def test_an_incomplete_character_ends_where_the_next_one_begins(bytewise: Tokenizer) -> None:
    smile, letter = bytewise.encode("😀"), bytewise.encode("a")
    growing = bytewise.detokenizer()
    assert [growing.add(token) for token in [*smile[:3], *letter]] == ["", "", "", "\ufffda"]
    assert growing.starts == [0, 0, 0, 1]


def test_bytes_of_tokens_join_to_the_text(bytewise: Tokenizer) -> None:
    rng = random.Random(2)
    for _ in range(100):
        ids = drawn(bytewise, rng)
        data = b"".join(bytewise.token_bytes(token) or b"" for token in ids)
        assert data.decode(errors="replace") == bytewise.decode_all(ids)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_with_spaces_give_the_text_of_all_at_once(sentencepiece: Tokenizer, sentence: str) -> None:
    ids = sentencepiece.encode(sentence * 3)
    ids = [*ids, sentencepiece.token_id("</s>") or 1, *ids]
    growing, text = sentencepiece.detokenizer(), ""
    for token in ids:
        text += growing.add(token)
        assert "\ufffd" not in text
    assert text + growing.rest() == sentencepiece.decode(ids)
    assert growing.starts == sorted(growing.starts)
    for characters in range(len(text) + 1):
        assert sentencepiece.decode(ids[: bisect_left(growing.starts, characters)])[:characters] == text[:characters]


def test_without_whole_characters_text_comes_late_but_comes(sentencepiece: Tokenizer) -> None:
    part = sentencepiece.token_id("<0xF0>") or 0
    growing = sentencepiece.detokenizer()
    written = [growing.add(part) for _ in range(2 * LONGEST)]
    assert [i for i, text in enumerate(written) if text] == [LONGEST - 1, 2 * LONGEST - 1]
    assert sentencepiece.token_bytes(part) is None
    assert sentencepiece.token_bytes(sentencepiece.token_id("▁cat") or 0) == b"cat"


def test_offsets_are_those_of_the_text_as_it_was_sent(bytewise: Tokenizer) -> None:
    end = bytewise.special_tokens["eos_token"]
    ids = bytewise.encode(f"é{end} = 3")
    at = ids.index(bytewise.token_id(end) or 0)
    for text, width in ((f"é{end} = 3", len(end)), ("é = 3", 0)):
        offsets = bytewise.offsets(ids, text)
        assert offsets[: at + 1] == [0] * at + [1]
        assert [text[offset] for offset in offsets[at + 1 :]] == [bytewise.token_text(id)[0] for id in ids[at + 1 :]]
        assert offsets[at + 1] == 1 + width
