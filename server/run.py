"""`unmask serve`: the app under uvicorn."""

import copy
import logging
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from models.loading import Model
from server.app import create_app
from server.settings import ServeSettings

log = logging.getLogger(__name__)


def serve(settings: ServeSettings) -> int:
    """Serve until a signal ends it; returns the exit code: 1 if the model could not be loaded, which is in the log."""
    failures: list[Exception] = []

    def ready(model: Model) -> None:
        name, dtype = settings.served_model_name or model.name, str(model.dtype).removeprefix("torch.")
        log.info("serving %s at http://%s:%d, on %s in %s", name, settings.host, settings.port, model.device, dtype)

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(settings, ready, failed),
        host=settings.host,
        port=settings.port,
        log_config=_logging(),
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = uvicorn.Server(config)
    server.run()
    for error in failures:
        log.error("%s", error, exc_info=None if isinstance(error, ValueError) else error)
    return 1 if failures else 0


def _logging() -> dict[str, Any]:
    """uvicorn's own logging, with ours beside it in the same format."""
    config = copy.deepcopy(LOGGING_CONFIG)
    for room in ("server", "engine"):
        config["loggers"][room] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
