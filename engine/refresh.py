"""Which columns a pass computes, and so which keys and values it refreshes; the others are read from the cache."""

from unmask.engine.caching import Cache
from unmask.engine.canvas import Canvas
from unmask.models.architecture import Architecture


def computed(canvas: Canvas, cache: Cache, a: Architecture) -> tuple[int, int, int]:
    """(start, stop, visible): the next pass computes columns start to stop, which attend to those before `visible`."""
    start, stop = max(0, canvas.column(canvas.block_start) - a.reach), canvas.column(canvas.block_end)
    if a.block_size is not None:
        stop = min(-(-stop // a.block_size) * a.block_size, len(canvas.ids))
        return (min(start, canvas.final) if cache.name == "block" else 0), stop, stop
    visible = len(canvas.ids)
    refreshed = canvas.block_step == 0 or (cache.refresh is not None and canvas.block_step % cache.refresh == 0)
    if cache.name == "none" or refreshed:
        return 0, visible, visible
    return start, (stop if cache.name == "dual" else visible), visible
