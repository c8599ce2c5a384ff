"""Text to token ids and back, and the chat template. No remote code, no network, no questions on stdin."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tokenizers.decoders import ByteLevel

from unmask.models.detokenizer import REPLACEMENT, ByteDetokenizer, Detokenizer, WindowDetokenizer
from unmask.models.errors import ChatTemplateError, CheckpointError, first_line
from unmask.models.templates import compile_template, knows, render

if TYPE_CHECKING:
    from jinja2 import Template

T = TypeVar("T")

TokenizerKind = Literal["PreTrainedTokenizerFast", "Qwen2Tokenizer"]

# Any of these sets of files makes a tokenizer of the kind. transformers makes an empty one if it finds none.
_FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "PreTrainedTokenizerFast": (("tokenizer.json",),),
    "Qwen2Tokenizer": (("vocab.json", "merges.txt"), ("tokenizer.json",)),
}
# A Unicode noncharacter, which has no business in text: it marks where text is cut before it is encoded.
_CUT = "\ufdd0"
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
# How byte-level vocabularies write bytes (GPT-2): as the character of that number, the others as those from 256 on.
_BYTES = {chr(byte): byte for byte in _PRINTABLE}
_BYTES |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))}


class Tokenizer:
    """A checkpoint's tokenizer. Safe to use from several threads: nothing in it changes after it is made."""

    def __init__(self, folder: Path, kind: TokenizerKind, chat_template: str | None = None):
        """Read the tokenizer files in a folder; a chat template that is given stands in for that of the folder.

        Raises CheckpointError if files are missing or broken.
        """
        self.kind = kind
        self._full = _load(folder, kind)
        if chat_template is not None:
            self._full.chat_template = chat_template
        # transformers sets truncation anew at every call, which is not thread-safe; the backend alone is.
        self._backend = self._full.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        added = sorted((token.content for token in self._full.added_tokens_decoder.values()), key=len, reverse=True)
        self._special = frozenset(t.content for t in self._full.added_tokens_decoder.values() if t.special)
        self._byte_level = isinstance(self._backend.decoder, ByteLevel)
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)")
        self._begun = tuple({text[:length] for text in added for length in range(1, len(text))})
        self._length = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def __len__(self) -> int:
        """One past the highest token id; ids from this one on have no text."""
        return self._length

    @property
    def mask_id(self) -> int | None:
        """The id of the mask token, where the tokenizer declares one."""
        token = self._full.mask_token
        return None if token is None else self.token_id(str(token))

    @property
    def special_tokens(self) -> dict[str, str]:
        """The texts of tokens with a role, by role: `bos_token`, `eos_token`, ..."""
        return {role: str(text) for role, text in self._full.special_tokens_map.items() if isinstance(text, str)}

    @property
    def chat_template(self) -> str | None:
        """The template of conversations, in Jinja; None if there is none, or several."""
        template = self._full.chat_template
        return template if isinstance(template, str) else None

    @property
    def has_chat_template(self) -> bool:
        return self._full.chat_template is not None

    def token_id(self, text: str) -> int | None:
        """The id of the token with exactly this text, special tokens included; None if there is none."""
        return self._backend.token_to_id(text)

    def token_text(self, token_id: int) -> str:
        """The text of one token, special tokens included. A token that is part of a character gives U+FFFD."""
        return self._backend.decode([token_id], skip_special_tokens=False)

    def token_string(self, token_id: int) -> str:
        """One token as the vocabulary writes it, which may stand for bytes in ways of its own."""
        return self._backend.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes that one token writes, special tokens included; None if the vocabulary does not tell.

        It tells if it is byte-level, or if the token's text is whole characters.
        """
        if not self._byte_level:
            text = self.token_text(token_id)
            return None if REPLACEMENT in text else text.encode()
        written = self.token_string(token_id)
        if all(character in _BYTES for character in written):
            return bytes(_BYTES[character] for character in written)
        return written.encode()  # an added token, which is written as it is

    @property
    def byte_level(self) -> bool:
        """Whether a text is the bytes of its tokens, one after another."""
        return self._byte_level

    def text_bytes(self, token_id: int) -> bytes:
        """The bytes that one token adds to a text without special tokens: `token_bytes`, but none for these."""
        return b"" if self.token_string(token_id) in self._special else self.token_bytes(token_id) or b""

    def detokenizer(self, skip_special_tokens: bool = True) -> Detokenizer:
        """For the text of tokens that come one after another: that of `decode`, or of `decode_all`."""
        skipped = {"", *self._special} if skip_special_tokens else {""}

        def has_text(token_id: int) -> bool:
            return self.token_string(token_id) not in skipped

        def written(token_id: int) -> bytes:
            return (self.token_bytes(token_id) or b"") if has_text(token_id) else b""

        decode = self.decode if skip_special_tokens else self.decode_all
        return ByteDetokenizer(written) if self._byte_level else WindowDetokenizer(decode, has_text)

    def offsets(self, ids: Sequence[int], text: str) -> list[int]:
        """For each of some ids the characters of their text before it, with special tokens or without them."""
        detokenizer = self.detokenizer(skip_special_tokens=self.decode(ids) == text)
        for token_id in ids:
            detokenizer.add(token_id)
        return [min(start, len(text)) for start in detokenizer.starts]

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The ids of a raw text.

        Nothing is added at its ends, unless asked for. The text of a special token becomes that token, as vLLM does
        with raw prompts: a raw prompt contains its own control tokens.
        """
        # As a batch of one: a text alone is encoded without letting go of Python's lock, so that all else waits.
        return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids without special tokens; spaces are left as they are."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def decode_all(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def chat(
        self,
        messages: list[dict[str, Any]],
        values: Mapping[str, Any] = MappingProxyType({}),
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """The ids of a conversation up to where the assistant's answer begins.

        values  what else the template may know, by name: texts, numbers, and lists and mappings of such
        tools   functions that the answer may call, for a template that knows tools

        Only the template writes control tokens: their text inside a message or a value stays text, also where two
        messages make it together, so no message can end its turn and forge another. Raises ChatTemplateError if there
        is no template or it refuses the messages.
        """
        if not self.has_chat_template:
            raise ChatTemplateError("the model has no chat template; send a raw prompt instead of messages")
        given = self._cut(list(tools)) or None
        rendered = render(self._template, self._cut(messages), self.special_tokens, self._cut(dict(values)), given)
        return [token for piece in rendered.split(_CUT) for token in self.encode(piece)]

    def ask(self, question: str, raw: bool = False, end: str = "") -> list[int]:
        """The ids of a question: as a user message or, if `raw` or without a chat template, as a text with `end`."""
        if raw or not self.has_chat_template:
            return self.encode(question + end)
        return self.chat([{"role": "user", "content": question}])

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template says which functions an answer may call. Raises ChatTemplateError."""
        return self.has_chat_template and self._of_template(lambda text: knows(text, "tools"))

    @cached_property
    def _template(self) -> "Template":
        return self._of_template(compile_template)

    def _of_template(self, make: Callable[[str], T]) -> T:
        from jinja2 import TemplateError

        try:
            return make(self._full.get_chat_template())
        except (TemplateError, ValueError) as error:
            raise ChatTemplateError(f"the model's chat template cannot be used: {first_line(error)}") from error

    def _cut(self, value: Any) -> Any:
        """A value whose texts hold no control token: neither as an item, nor as the name of one."""
        if isinstance(value, str):
            return self._cut_control_tokens(value)
        if isinstance(value, list):
            return [self._cut(item) for item in value]
        return {self._cut(k): self._cut(v) for k, v in value.items()} if isinstance(value, dict) else value

    def _cut_control_tokens(self, text: str) -> str:
        """Mark a cut inside each text of an added token, and after one that has begun: the next message may end it."""
        cut = self._added.sub(lambda found: found[0][0] + _CUT + found[0][1:], text)
        return cut + _CUT if text.rstrip().endswith(self._begun) else cut  # templates may strip what is around it


def read_chat_template(file: Path) -> str:
    """The chat template in a file. Raises ChatTemplateError if there is none that can be read and parsed."""
    from jinja2 import TemplateSyntaxError

    try:
        template = file.read_text(encoding="utf-8")
        compile_template(template)
    except OSError as error:
        raise ChatTemplateError(f"give a file that can be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"give a file in UTF-8 ({error})") from error
    except TemplateSyntaxError as error:
        raise ChatTemplateError(f"give a template that can be parsed (line {error.lineno}: {error.message})") from error
    return template


def _load(folder: Path, kind: TokenizerKind) -> Any:
    if not any(all((folder / name).is_file() for name in names) for names in _FILES[kind]):
        wanted = " or ".join(" with ".join(names) for names in _FILES[kind])
        raise CheckpointError(f"{folder} has no tokenizer files ({wanted}); copy them from the original checkpoint")
    import transformers  # slow to import

    try:  # AutoTokenizer would ask to run a checkpoint's own code; a class named here never does
        return getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {first_line(error)}") from error
