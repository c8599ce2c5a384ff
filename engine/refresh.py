"""Which columns a pass computes, and so which keys and values it refreshes. It reads the others from the cache."""

from unmask.engine.caching import Cache
from unmask.engine.canvas import Canvas
from unmask.models.architecture import Architecture


def columns_to_compute(canvas: Canvas, cache: Cache, a: Architecture) -> tuple[int, int, int]:
    """(start, stop, key_length): the next pass computes the columns from start to stop, excluding stop. They attend to
    the columns before `key_length`."""
    start, stop = max(0, canvas.column(canvas.block_start) - a.reach), canvas.column(canvas.block_end)
    if (size := canvas.model_block) is not None:
        if canvas.seeding:
            start, stop = start - 1, start  # the column before predicts it
        else:
            stop = min(-(-(stop + canvas.lead) // size) * size - canvas.lead, len(canvas.ids))
        return (min(start, canvas.keys.until) if cache.name == "block" else 0), stop, stop
    key_length = len(canvas.ids)
    refreshed = canvas.block_step == 0 or (cache.refresh is not None and canvas.block_step % cache.refresh == 0)
    if cache.name == "none" or refreshed:
        return 0, key_length, key_length
    return start, (stop if cache.name == "dual" else key_length), key_length
