"""The format of the log: lines for people, or JSON for machines. Prompts and answers are not logged."""

import copy
import json
import logging
from datetime import UTC, datetime
from typing import Any

from uvicorn.config import LOGGING_CONFIG

from unmask.server.settings import LogFormat

# Attributes that every record has; others were given as `extra`. `color_message` is uvicorn's copy with colours.
_COMMON = {*vars(logging.makeLogRecord({})), "asctime", "color_message", "message", "taskName"}


class JSONFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the `extra` of the record."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _COMMON},
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def logging_config(log_format: LogFormat) -> dict[str, Any]:
    """The configuration of uvicorn's loggers, and of ours in the same format."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["unmask"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    if log_format == "json":
        config["formatters"]["default"] = {"()": "unmask.server.ops.logs.JSONFormatter"}
    return config
