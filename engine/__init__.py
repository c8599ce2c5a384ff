"""Time: requests, canvases, the batch, and the one decode loop."""

from engine.engine import Engine
from engine.request import FinishReason, Request, Result, Reveal, Step
from engine.service import (
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
