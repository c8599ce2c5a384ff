"""Slots of the cache, one per row that keeps keys and values. The used slots are always the first ones."""

from collections.abc import Sequence

from unmask.engine.canvas import Canvas
from unmask.engine.pages import Pages
from unmask.models.cache import KeyValues
from unmask.models.packing import power_of_two

BUCKET = 64  # capacities are multiples of this many columns


class Slots:
    """Gives slots to rows and takes them back.

    least  slots that a pass reads at least: compiled code reads two if other rows of the batch have none
    pages  what else is kept in the same memory, and makes room for slots; None for nothing
    """

    def __init__(self, cache: KeyValues, least: int = 1, pages: Pages | None = None):
        self.cache = cache
        self.least = least
        self._pages = pages
        self._holders: list[Canvas] = []  # holder i has slot i

    @property
    def usage(self) -> float:
        """Share of the cache that rows hold, from 0 to 1."""
        return len(self._holders) * self.cache.capacity / max(self.cache.columns, 1)

    def has_room(self, canvas: Canvas) -> bool:
        """Whether one more row of this length fits beside those that hold a slot."""
        return max(self.least, power_of_two(len(self._holders) + 1)) <= self.cache.slots(self._capacity_with(canvas))

    @property
    def longest(self) -> int:
        """Columns that a row may have at most."""
        return self.cache.columns // self.least

    def take(self, canvas: Canvas) -> None:
        """Give a row the next slot."""
        capacity = self._capacity_with(canvas)
        if self._pages is not None:
            self._pages.touch(canvas)
        self._leave_to_pages(after=(len(self._holders) + 1) * capacity)
        if capacity != self.cache.capacity:
            self.cache.resize(capacity, len(self._holders))
        canvas.slot = len(self._holders)
        self._holders.append(canvas)

    def release(self, canvas: Canvas) -> None:
        """Take a row's slot back; the last slot moves into the gap."""
        last = self._holders.pop()
        if last is not canvas and canvas.slot is not None:
            self.cache.move(last.slot or 0, canvas.slot)
            last.slot = canvas.slot
            self._holders[canvas.slot] = last
        canvas.slot = None
        self._leave_to_pages(after=len(self._holders) * self.cache.capacity)

    def wipe(self, request_ids: Sequence[str]) -> None:
        """Clear the slots and pages of rows that leave with NaN: zero times a masked NaN is still NaN."""
        for canvas in self._holders:
            if canvas.request.id in request_ids and canvas.slot is not None:
                start = canvas.slot * self.cache.capacity
                self.cache.clear(start, start + self.cache.capacity)
                canvas.cached_until = 0
                if self._pages is not None:
                    self._pages.drop(canvas)

    def _leave_to_pages(self, after: int) -> None:
        if self._pages is not None:
            self._pages.make_room(after)

    def _capacity_with(self, canvas: Canvas) -> int:
        needed = columns_needed(len(canvas.ids))
        return max(self.cache.capacity, needed) if self._holders else needed


def columns_needed(length: int) -> int:
    """Columns of a slot for a canvas of this length, rounded up to one of a few sizes, so that passes recur."""
    part = max(BUCKET, power_of_two(length) // 8)
    return -(-length // part) * part
