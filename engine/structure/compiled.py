"""Automata of a model's vocabulary, made once per structure."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from unmask.engine.request import Request, writes_others
from unmask.engine.structure.automaton import Automaton, Tables, TokenBytes, token_automaton
from unmask.engine.structure.bytes import byte_automaton
from unmask.engine.structure.progress import Progress
from unmask.engine.structure.request import Structure, StructureError
from unmask.models.loading import Model

MAX_KEPT = 32


def check_fields(request: Request, structure: Structure) -> None:
    """Raise RequestError if other fields of a request exclude its structure."""
    if any(token is not None for token in request.template):
        raise structure.refused("the canvas holds given tokens between its masks; leave one of the two out")
    if request.draft:
        raise structure.refused("a 'prediction' may not have that form; leave one of the two out")
    if request.endless:
        name = "ignore_eos" if request.ignore_eos else "min_tokens"
        raise structure.refused(f"{name!r} asks for an answer without an end there; leave one of the two out")
    if writes_others(request):
        raise structure.refused(
            f"scheduler {request.scheduler.name!r} writes other tokens than the proposals; choose another"
        )


@dataclass
class _Entry:
    """One structure's automaton and its tables, or why there are none. Whoever holds the lock makes them."""

    lock: Lock
    made: tuple[Automaton, Tables] | None = None
    refusal: str | None = None


class Structures:
    """Makes automata, and keeps those used last. Any thread may ask: it makes what is missing, and others that ask for
    the same structure wait for it."""

    def __init__(self, model: Model):
        self._model = model
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._tokens_lock = Lock()
        self._tokens: TokenBytes | None = None

    def progress(self, request: Request) -> Progress | None:
        """What follows the answer of a request; None if it has no structure.

        Raises RequestError if the structure cannot be kept: it is wrong, too large, or needs more tokens.
        """
        structure, length = request.structure, request.max_tokens
        if structure is None:
            return None
        automaton, tables = self._of(request, structure)
        if automaton.needed > length:
            most = self._model.max_positions - len(request.prompt) - len(request.suffix)
            raise structure.no_room("answer with the end of text", automaton.needed, length, most)
        return Progress(automaton, tables)

    def needed(self, request: Request) -> int:
        """The tokens of the shortest answer of a request, the end of text included; 0 if it has no structure.

        Raises RequestError if the structure cannot be kept.
        """
        return 0 if request.structure is None else self._of(request, request.structure)[0].needed

    def _of(self, request: Request, structure: Structure) -> tuple[Automaton, Tables]:
        check_fields(request, structure)
        try:
            return self._made(structure.regex)
        except StructureError as error:
            raise structure.refused(str(error)) from None

    def _made(self, regex: str) -> tuple[Automaton, Tables]:
        with self._lock:
            entry = self._entries.setdefault(regex, _Entry(Lock()))
            self._entries.move_to_end(regex)
            if len(self._entries) > MAX_KEPT:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.refusal is not None:
                raise StructureError(entry.refusal)
            if entry.made is None:
                try:
                    automaton = token_automaton(byte_automaton(regex), self._vocabulary())
                except StructureError as error:
                    entry.refusal = str(error)
                    raise
                entry.made = automaton, automaton.tables(self._model.device)
            return entry.made

    def _vocabulary(self) -> TokenBytes:
        with self._tokens_lock:
            if self._tokens is None:
                self._tokens = TokenBytes.of(self._model)
            return self._tokens
