"""When keys and values of settled columns are kept for later requests, and looked for. `engine.pages` keeps them.

A block is kept once a pass has computed it with its final tokens: those of a prompt after the first pass of its
request, those that it generated when it leaves. Products of other shapes round differently, so what is found equals
what a pass would compute up to that.

With `batch_invariant` it equals that bit for bit. There every CHUNK of settled columns is computed by a pass of its
own, whose shape depends on nothing else, whether or not anything is kept; and only these chunks are kept. The columns
after the last whole chunk are computed with the block, as ever.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from unmask.engine.canvas import Canvas
from unmask.engine.pages import Pages
from unmask.models.architecture import Architecture
from unmask.models.cache import KeyValues
from unmask.models.packing import NetworkInputs, Segment, Shapes, pack_segments

CHUNK = 64  # columns at least, rounded up to whole blocks


class Prefixes:
    """What an engine finds and keeps.

    pages  where it is kept; None if nothing is, as in models that attend in both directions

    alone  whether chunks are computed by themselves
    reuse  whether anything is kept
    """

    def __init__(self, cache: KeyValues, a: Architecture, alone: bool, reuse: bool):
        block = a.block_size or 0
        self._a = a
        self._chunk = -(-CHUNK // block) * block if block and alone else 0
        self.pages = Pages(cache, self._chunk or block) if block and reuse else None

    def missing(
        self, canvases: Sequence[Canvas], capacity: int, shapes: Shapes, first_slot: int
    ) -> Iterator[NetworkInputs]:
        """Take what is found for rows that have their first pass now. Then the passes of the chunks that are not found,
        each of which must be run before the next is asked for. The arguments are those of `plan_step`."""
        for canvas in canvases:
            if canvas.slot is None:
                continue
            if canvas.step == 0:
                self._find(canvas)
            whole = (canvas.open_column + canvas.lead) // self._chunk if self._chunk else 0
            if canvas.pages < whole:
                self._find(canvas)
            while canvas.pages < whole:
                yield self._chunk_inputs(canvas, capacity, shapes, first_slot)
                if self.pages is not None:
                    self.pages.keep(canvas, canvas.pages, canvas.pages + 1)
                self._has(canvas, canvas.pages + 1, self._chunk)

    def keep(self, canvases: Sequence[Canvas]) -> None:
        """Keep all that is settled of some rows, unless chunks are computed by themselves."""
        if self.pages is None or self._chunk:
            return
        for canvas in canvases:
            if canvas.slot is not None:
                self.pages.keep(canvas, 0, (canvas.cached_until + canvas.lead) // self.pages.size)

    def _find(self, canvas: Canvas) -> None:
        if self.pages is not None:
            self._has(canvas, self.pages.find(canvas), self.pages.size)
            if canvas.found is None:
                canvas.found = min(canvas.cached_until, canvas.given_columns)

    def _has(self, canvas: Canvas, pages: int, size: int) -> None:
        """The slot of a row has so many first pages."""
        canvas.pages = pages
        canvas.cached_until = max(canvas.cached_until, pages * size - canvas.lead)

    def _chunk_inputs(self, canvas: Canvas, capacity: int, shapes: Shapes, first_slot: int) -> NetworkInputs:
        """The pass over the next chunk of a row. It predicts one column, since no pass predicts none."""
        assert canvas.slot is not None
        start, stop = (max(0, page * self._chunk - canvas.lead) for page in (canvas.pages, canvas.pages + 1))
        wanted = np.array([stop - 1])
        slot, adapter = canvas.slot - first_slot, canvas.request.adapter
        segment = Segment(canvas.ids[start:stop], start, stop, wanted, slot, adapter, canvas.lead)
        return pack_segments([segment], self._a, capacity, shapes)
