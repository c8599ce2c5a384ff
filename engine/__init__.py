"""Requests, canvases, batches, and the one decode loop."""

from unmask.engine.engine import Engine
from unmask.engine.request import FinishReason, Request, Result, Reveal, Step
from unmask.engine.service import (
    EngineError,
    EngineService,
    EngineStoppedError,
    ModelNotFiniteError,
    QueueFullError,
    SchedulerFailedError,
)

__all__ = [
    "Engine",
    "EngineError",
    "EngineService",
    "EngineStoppedError",
    "FinishReason",
    "ModelNotFiniteError",
    "QueueFullError",
    "Request",
    "Result",
    "Reveal",
    "SchedulerFailedError",
    "Step",
]
