"""Names in bodies that mean nothing here: each is logged once, so that whoever misses an effect finds out why."""

import logging

from pydantic import BaseModel

from unmask.server.errors import show

log = logging.getLogger(__name__)

MOST = 256  # names; a client may send any number


class IgnoredNames:
    """Remembers which have been logged."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, body: BaseModel) -> None:
        """Log, at INFO, what a body holds beside the fields of its type and was not logged before."""
        for name in body.model_extra or ():
            if len(self._told) < MOST and name not in self._told:
                self._told.add(name)
                log.info("field %s is unknown, and ignored; this is said once", show(name))
