"""Endpoints that generate nothing: models, schedulers, health, version, metrics."""

import inspect
import logging
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from unmask.engine.fit import Fit
from unmask.models.loading import Model
from unmask.schedulers import json_schema, scheduler_class, scheduler_names
from unmask.server.backend import Backend
from unmask.server.routes.common import ERRORS, BackendOf, check_model

log = logging.getLogger(__name__)

router = APIRouter(tags=["information"])


@router.get("/v1/models/", include_in_schema=False)  # the next route would take it for a model without a name
@router.get("/v1/models", responses={503: ERRORS[503]})
async def models(backend: BackendOf) -> dict[str, Any]:
    """The model that is served, and each of its adapters as one more."""
    return {"object": "list", "data": [_card(backend, name) for name in backend.model_names]}


@router.get("/v1/models/{model:path}", responses={404: ERRORS[404], 503: ERRORS[503]})
async def model(model: str, backend: BackendOf) -> dict[str, Any]:
    """The model by its name."""
    return _card(backend, check_model(model, backend))


@router.get("/v1/schedulers")
async def schedulers() -> dict[str, Any]:
    """The installed unmasking schedulers, each with the JSON schema of its options."""
    found = map(_scheduler, scheduler_names())
    return {"object": "list", "data": [scheduler for scheduler in found if scheduler is not None]}


@router.get("/health", responses={503: ERRORS[503]})
async def health(backend: BackendOf) -> dict[str, str]:
    """200 while the server loads or serves; 503 if it cannot recover."""
    backend.check_health()
    return {"status": "ok"}


@router.get("/ping", response_class=Response, responses={503: ERRORS[503]})
async def ping(backend: BackendOf) -> Response:
    """The same as /health without a body, at the path that SageMaker uses."""
    backend.check_health()
    return Response()


@router.get("/load")
async def load(backend: BackendOf) -> dict[str, int]:
    """How many requests run or wait."""
    return {"server_load": backend.load}


@router.get("/ready", responses={503: ERRORS[503]})
async def ready(backend: BackendOf) -> dict[str, str]:
    """200 once the model has answered; 503 while it loads."""
    return {"status": "ready", "model": backend.model_name}


@router.get("/version")
async def get_version() -> dict[str, str]:
    """The version of the server."""
    return {"version": version("unmask")}


@router.get("/metrics", response_class=Response)
async def metrics(backend: BackendOf) -> Response:
    """Prometheus metrics."""
    return Response(backend.metrics_text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _card(backend: Backend, name: str) -> dict[str, Any]:
    model = backend.model
    return {
        "id": name,
        "object": "model",
        "created": backend.created,
        "owned_by": "unmask",
        "root": model.name,
        "max_model_len": model.max_positions,
        "adapter": name if name in model.adapters else model.merged,
        "preset": _preset(model),
        "fit": None if backend.fit is None else {"device": str(model.device), **_fit(backend.fit)},
    }


def _preset(model: Model) -> dict[str, Any] | None:
    """The preset by whose name the model is served, and what it sets, though flags may have set something else."""
    preset = model.preset
    return None if preset is None else {"name": preset.name, "licence": preset.licence, "defaults": preset.defaults}


def _fit(fit: Fit) -> dict[str, Any]:
    return {
        "dtype": fit.dtype,
        "quantization": fit.quantization,
        "weight_bytes": fit.weights,
        "needed_bytes": fit.needed,
        "available_bytes": fit.available,
        "cached_tokens": fit.columns,
    }


def _scheduler(name: str) -> dict[str, Any] | None:
    """One entry of the list; None for a scheduler whose package cannot be imported, so that the others stay listed."""
    try:
        scheduler = scheduler_class(name)
        options = json_schema(scheduler.Options)
    except (Exception, SystemExit):
        log.exception("scheduler %r cannot be loaded", name)
        return None
    return {"name": name, "description": (inspect.getdoc(scheduler) or "").partition("\n")[0], "options": options}
