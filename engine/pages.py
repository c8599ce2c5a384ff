"""Keys and values that stay after their request, and are found again by their tokens.

In a block-causal model the keys of a block depend on nothing but the tokens of that block and of those before it, the
adapter, and the column that the grid of blocks begins at. A page is a run of whole blocks. Its name is a hash of its
tokens and of the name of the page before it, so that one name stands for all that its keys depend on.

Pages take what memory the slots leave, from its end on. Where a slot needs more, those that were used least recently
go; the last pages of a text go before its first ones, without which they could not be found.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from heapq import heapify, heappop, heappush
from itertools import takewhile

import numpy as np
import torch

from unmask.engine.canvas import Canvas
from unmask.models.cache import KeyValues
from unmask.models.packing import Array


class Pages:
    """Copies pages out of slots and into them.

    size  columns of a page, a multiple of the model's block. Page i of a canvas is the columns from i * size - lead on;
          page 0 lacks its first `lead` columns, see `Architecture.lead`
    """

    def __init__(self, cache: KeyValues, size: int):
        self.size = size
        self._cache = cache
        self._room = 0  # pages that fit beside the slots
        self._kept: OrderedDict[bytes, int] = OrderedDict()  # place by name; the least recently used is the first
        self._at: dict[int, bytes] = {}  # name by place
        self._free: list[int] = []  # a heap: the places below `_high` that hold no page
        self._high = 0

    def __len__(self) -> int:
        """How many pages there are."""
        return len(self._kept)

    def make_room(self, used: int) -> None:
        """Leave the first `used` columns of the memory to the slots."""
        self._room = (self._cache.columns - used) // self.size
        if self._high <= self._room:
            return
        self._shrink(self._room)
        old = [place for place in range(self._room, self._high) if place in self._at]
        new = [heappop(self._free) for _ in old]  # all of them below `_room`, as so many pages fit there
        self._copy(self._columns(old), self._columns(new))
        for source, target in zip(old, new, strict=True):
            self._put(self._at.pop(source), target)
        self._free = [place for place in self._free if place < self._room]
        heapify(self._free)
        self._high = self._room

    def touch(self, canvas: Canvas) -> None:
        """What a row may find is used now, so that it goes last."""
        self._touch(self._settled(canvas))

    def find(self, canvas: Canvas) -> int:
        """Copy into the slot of a row what there is of its settled columns, from page `Canvas.pages` on. Returns how
        many pages the slot has then."""
        names = self._settled(canvas)
        found = list(takewhile(self._kept.__contains__, names[canvas.pages :]))
        pages = canvas.pages + len(found)
        self._touch(names[:pages])
        own = self._own(canvas, range(canvas.pages, pages))
        kept = self._columns([self._kept[name] for name in found])
        self._copy(kept[own >= 0], own[own >= 0])
        return pages

    def keep(self, canvas: Canvas, first: int, last: int) -> None:
        """Keep the pages from `first` up to `last`, excluding it, of a row's slot, as far as there is room."""
        names = self._names(canvas, min(last, self._room))
        self._touch(names)
        new = [page for page in range(first, len(names)) if names[page] not in self._kept]
        self._shrink(self._room - len(new))
        places = sorted((self._place() for _ in new), reverse=True)  # ascending in memory
        own, kept = self._own(canvas, new), self._columns(places)
        self._copy(own[own >= 0], kept[own >= 0])
        for page, place in zip(new, places, strict=True):
            self._put(names[page], place)
        self._touch(names)

    def drop(self, canvas: Canvas) -> None:
        """Forget the pages of a row whose keys may be NaN, and clear them: zero times a masked NaN is still NaN."""
        for name in canvas.page_names:
            if name in self._kept:
                place = self._remove(name)
                start = int(self._columns([place])[0])
                self._cache.clear(start, start + self.size)

    def _settled(self, canvas: Canvas) -> list[bytes]:
        return self._names(canvas, (canvas.open_column + canvas.lead) // self.size)

    def _names(self, canvas: Canvas, pages: int) -> list[bytes]:
        """The names of the first pages of a canvas, which must be settled."""
        names = canvas.page_names
        for page in range(len(names), pages):
            before = names[-1] if names else repr((canvas.request.adapter, canvas.lead)).encode()
            start, stop = (max(0, number * self.size - canvas.lead) for number in (page, page + 1))
            names.append(sha256(before + canvas.ids[start:stop].tobytes()).digest())
        return names[:pages]

    def _touch(self, names: Sequence[bytes]) -> None:
        """These are used now, the first one last."""
        for name in reversed(names):
            if name in self._kept:
                self._kept.move_to_end(name)

    def _shrink(self, count: int) -> None:
        """Forget pages until at most so many are left."""
        while len(self._kept) > count:
            self._remove(next(iter(self._kept)))

    def _put(self, name: bytes, place: int) -> None:
        self._kept[name] = place
        self._at[place] = name

    def _remove(self, name: bytes) -> int:
        place = self._kept.pop(name)
        del self._at[place]
        heappush(self._free, place)
        return place

    def _place(self) -> int:
        """A place that holds no page."""
        if self._free:
            return heappop(self._free)
        self._high += 1
        return self._high - 1

    def _columns(self, places: Sequence[int]) -> Array:
        """The columns of the memory at these places, page after page."""
        starts = self._cache.columns - (np.array(places, dtype=np.int64) + 1) * self.size
        return (starts[:, None] + np.arange(self.size)).ravel()

    def _own(self, canvas: Canvas, pages: Iterable[int]) -> Array:
        """The columns of the memory that these pages of a row's slot are in; -1 for those that page 0 lacks."""
        assert canvas.slot is not None
        starts = np.array(list(pages), dtype=np.int64) * self.size - canvas.lead
        columns = (starts[:, None] + np.arange(self.size)).ravel()
        return np.where(columns < 0, -1, columns + canvas.slot * self._cache.capacity)

    def _copy(self, source: Array, target: Array) -> None:
        if len(source):
            self._cache.copy(torch.from_numpy(np.stack([source, target])))
