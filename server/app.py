"""The app factory, for uvicorn, for tests and for other hosts of ASGI apps."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from unmask.models.loading import Model
from unmask.models.presets import with_preset
from unmask.server.backend import Backend
from unmask.server.errors import add_error_handlers
from unmask.server.ops.access import PROBES, ApiKeys
from unmask.server.ops.middleware import KeepAlive, Observe
from unmask.server.routes import (
    anthropic,
    chat,
    completions,
    elsewhere,
    fim,
    generate,
    info,
    ollama,
    playground,
    responses,
    score,
    tokenize,
)
from unmask.server.settings import ServeSettings

log = logging.getLogger(__name__)


def log_ready(model: Model) -> None:
    log.info("%s is ready on %s in %s", model.name, model.device, model.dtype)


def log_failure(error: BaseException) -> None:
    log.error("%s", error)


def create_app(
    settings: ServeSettings,
    on_ready: Callable[[Model], None] = log_ready,
    on_failure: Callable[[BaseException], None] = log_failure,
) -> FastAPI:
    """The app. It answers at once; the model loads on a thread, and its engine stops with the app.

    on_ready    called on that thread after the first answer of the model
    on_failure  called on that thread if the model cannot be loaded; /health then answers 503
    """
    settings, chosen = with_preset(settings)
    backend = Backend(settings, on_ready, on_failure)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for line in chosen:
            log.info("%s", line)
        backend.start()
        try:
            yield
        finally:
            await asyncio.to_thread(backend.stop)

    # FastAPI's own /docs loads scripts from the Internet; this one serves them itself.
    app = FastAPIOffline(
        title="unmask", version=version("unmask"), lifespan=lifespan, static_url="/docs/static", redoc_url=None
    )
    app.state.backend = backend
    generating = (generate, completions, chat, responses, anthropic, ollama, fim)
    routers = [routes.router for routes in (*generating, score, tokenize, info)]
    for router in (*routers, elsewhere.router, playground.router):
        app.include_router(router)
    add_error_handlers(app, [route.path for router in routers for route in router.routes if isinstance(route, Route)])
    app.add_middleware(KeepAlive, seconds=settings.keep_alive_interval)
    if settings.api_key:
        app.add_middleware(ApiKeys, keys=settings.api_key, open_paths=PROBES | playground.PATHS)
    if settings.cors_origin:  # outside of the keys, as a browser's preflight request has none
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    if settings.otel:
        from unmask.server.ops.tracing import TraceContext  # an extra

        app.add_middleware(TraceContext)
    app.add_middleware(Observe, metrics=backend.metrics, limit=lambda: backend.max_body_bytes)
    _describe_errors_as_they_are(app)
    return app


def _describe_errors_as_they_are(app: FastAPI) -> None:
    """Take FastAPI's 422 out of the OpenAPI document: invalid requests are answered with 400."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
