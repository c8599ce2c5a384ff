"""unmask under Ray Serve: replicas of the one app, each with its own model, batch and device.

serve run --working-dir docker docker/ray.yaml

A replica's settings are those of `unmask serve`, as environment variables: `runtime_env.env_vars` in ray.yaml. Host,
port and the time to drain are Ray's own. Streams pass through Ray's proxy event by event.
"""

import asyncio

import httpx
from fastapi import FastAPI
from ray import serve

from unmask.server.settings import ServeSettings

POLL = 0.1  # seconds


def build_app() -> FastAPI:
    """The app of one replica; Ray calls this where the replica runs, and nobody else needs torch."""
    from unmask.server.app import create_app

    return create_app(ServeSettings())


@serve.deployment
@serve.ingress(build_app)
class Unmask:
    """One replica."""

    app: FastAPI  # Ray puts it here

    async def check_health(self) -> None:
        """Return when the model answers; raise if it never will.

        Ray sends no requests before the first of these calls has returned, and replaces the replica when one raises.
        """
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as http:
            while (await http.get("/ready")).is_error:
                (await http.get("/health")).raise_for_status()
                await asyncio.sleep(POLL)


app = Unmask.bind()  # type: ignore[attr-defined]  # the decorators are typed as if they gave the class back
