"""The text of tokens that come one after another. It takes time linear in their number.

Tokens and characters do not match one to one: a character may take several tokens, and a special token has no text. For
each token a detokenizer says where its text begins, so that text can be cut without cutting a character's tokens apart.
"""

import codecs
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that make no character
LONGEST = 16  # tokens that one character may take, in vocabularies whose bytes are not known


class Detokenizer(Protocol):
    """Takes tokens and returns the text that no further token can change.

    starts  for each token the characters of the text before it. All tokens of one character have that of the
            character; a token without text has that of what follows
    """

    starts: list[int]

    @abstractmethod
    def add(self, token_id: int) -> str:
        """Add a token; returns the text that has become final, also of earlier tokens."""

    @abstractmethod
    def rest(self) -> str:
        """The text after the final text, if no more tokens come."""


class ByteDetokenizer:
    """For vocabularies whose tokens are bytes of UTF-8. Exact: the text is what decoding all tokens at once gives.

    Bytes that make no character become U+FFFD, one for each longest beginning of a character (Unicode, chapter 3.9,
    "Substitution of Maximal Subparts"), as Rust's `from_utf8_lossy` does, which the tokenizers library decodes with.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]):
        """token_bytes  of a token id, none for a special token"""
        self.starts: list[int] = []
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0  # characters of the certain text

    def add(self, token_id: int) -> str:
        data = self._token_bytes(token_id)
        if not data:
            self.starts.append(self._length)
            return ""
        head = self._decoder.decode(data[:1])
        # The first byte is part of the last character so far, which may be one that more bytes must complete.
        self.starts.append(self._length + len(head) + self._is_open - 1)
        text = head + self._decoder.decode(data[1:])
        self._length += len(text)
        return text

    def rest(self) -> str:
        return REPLACEMENT * self._is_open

    @property
    def _is_open(self) -> bool:
        """Whether a character has begun that is not complete."""
        return bool(self._decoder.getstate()[0])


class WindowDetokenizer:
    """For any other vocabulary: decodes the newest tokens together with those of the piece of text before them.

    A piece ends where the text does not end in U+FFFD, or after `LONGEST` tokens. What a token writes may depend on the
    piece before it, such as a space between words, and on nothing else. vLLM and TGI make the same assumption.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], has_text: Callable[[int], bool]):
        """
        decode    the text of some token ids
        has_text  whether a token may write anything
        """
        self.starts: list[int] = []
        self._decode = decode
        self._has_text = has_text
        self._length = 0
        self._before: list[int] = []  # tokens of the last piece, which is certain
        self._newest: list[int] = []  # those of the next one
        self._open = ""  # its text, which more tokens may change
        self._first = 0  # which token it begins with

    def add(self, token_id: int) -> str:
        self.starts.append(self._length + len(self._open))
        if not self._has_text(token_id):
            return ""
        self._newest.append(token_id)
        text = self._decode(self._before + self._newest)[len(self._decode(self._before)) :]
        if not text.startswith(self._open):  # what stood for the parts of a character has become the character
            self.starts[self._first :] = [self._length] * (len(self.starts) - self._first)
        self._open = text
        if (not text or text.endswith(REPLACEMENT)) and len(self._newest) < LONGEST:
            return ""
        self._before, self._newest = self._newest if text else self._before, []
        self._length, self._open, self._first = self._length + len(text), "", len(self.starts)
        return text

    def rest(self) -> str:
        return self._open
