"""The routes that monitor the process: metrics, liveness and readiness."""

from __future__ import annotations

from attrs import frozen

from .. import errors
from ..auth import require_bearer_beyond_loopback
from ..context import Context
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest


@frozen
class MonitoringRoutes:
    """The monitoring routes."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        add_routes(
            app,
            [("GET", "/metrics", self.metrics), ("GET", "/healthz", self.alive), ("GET", "/readyz", self.ready)],
        )

    async def metrics(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /metrics`` for Prometheus; beyond loopback, any bearer token is required."""
        await require_bearer_beyond_loopback(self.context, request)
        return request.answer(*self.context.metrics.exposition(await self.context.broker.load()))

    async def alive(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /healthz``: the process is alive."""
        return request.answer(b"ok\n", "text/plain; charset=utf-8")

    async def ready(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /readyz``: 200 if the emulator accepts work, else 503 with the parts that are not ready."""
        parts = await self.context.readiness()
        missing = ", ".join(name for name, ready in parts.items() if not ready)
        if missing:
            raise errors.unavailable(f"The emulator is not ready: {missing}.", **parts)
        return request.json(parts)
