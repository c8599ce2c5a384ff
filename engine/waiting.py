"""Requests that wait for a row, and whose turn it is."""

from collections import OrderedDict
from typing import Union

from unmask.engine.canvas import Canvas

# Ordered: the first entry of a plain dict is found only after a walk over all deleted ones.
_Branch = OrderedDict[object, Union["_Branch", Canvas]]


class Waiting:
    """A queue in which clients take turns, and so do the parts of a client; within a part, first come, first served.

    A request's place is its path, `Request.client`. At each level, a name that has had its turn goes to the end, so a
    client with many requests delays another by one request at most. All operations take the same time, however many
    requests wait.
    """

    def __init__(self) -> None:
        self._canvases: dict[str, Canvas] = {}  # by request
        self._root: _Branch = OrderedDict()  # by name; leaves by (request,), which no name is

    def __len__(self) -> int:
        return len(self._canvases)

    def put(self, canvas: Canvas) -> None:
        """Add a request."""
        branch = self._root
        for name in canvas.request.client:
            branch = _inner(branch.setdefault(name, OrderedDict()))
        branch[(canvas.request.id,)] = canvas
        self._canvases[canvas.request.id] = canvas

    def first(self) -> Canvas:
        """The next request. It stays the next until it is taken, even if others arrive."""
        node: _Branch | Canvas = self._root
        while not isinstance(node, Canvas):
            node = next(iter(node.values()))
        return node

    def take(self, canvas: Canvas) -> None:
        """Remove the next request; its client goes to the end, at each level."""
        self._remove(canvas, turn_over=True)

    def drop(self, request_id: str) -> Canvas | None:
        """Remove a request, if it waits; the order of the others stays."""
        canvas = self._canvases.get(request_id)
        if canvas is not None:
            self._remove(canvas, turn_over=False)
        return canvas

    def _remove(self, canvas: Canvas, turn_over: bool) -> None:
        path = canvas.request.client
        branches = [self._root]
        for name in path:
            branches.append(_inner(branches[-1][name]))
        del branches.pop()[(canvas.request.id,)]
        del self._canvases[canvas.request.id]
        for branch, name in zip(reversed(branches), reversed(path), strict=True):
            if not branch[name]:
                del branch[name]
            elif turn_over:
                branch.move_to_end(name)


def _inner(node: _Branch | Canvas) -> _Branch:
    assert isinstance(node, OrderedDict)
    return node
