"""The routes of whoever watches over the process: metrics, and whether it is alive and ready."""

from __future__ import annotations

from attrs import frozen
from klein import Klein

from .. import errors
from ..context import Context
from ..transport.request import EmulatorRequest


@frozen
class MonitoringRoutes:
    """The monitoring routes, over one L{Context}."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        app.route("/metrics", methods=["GET"])(self.metrics)
        app.route("/healthz", methods=["GET"])(self.alive)
        app.route("/readyz", methods=["GET"])(self.ready)

    async def metrics(self, request: EmulatorRequest) -> bytes:
        """C{GET /metrics}: for Prometheus; open on loopback, beyond it for any bearer token."""
        if self.context.credentials.guarded:
            await self.context.bearer(request)
        return request.answer(*self.context.metrics.exposition(await self.context.broker.load()))

    async def alive(self, request: EmulatorRequest) -> bytes:
        """C{GET /healthz}: the process answers."""
        return request.answer(b"ok\n", "text/plain; charset=utf-8")

    async def ready(self, request: EmulatorRequest) -> bytes:
        """C{GET /readyz}: it takes work; 503 says which part of it does not."""
        parts = await self.context.readiness()
        missing = ", ".join(name for name, ready in parts.items() if not ready)
        if missing:
            raise errors.unavailable(f"The emulator is not ready: {missing}.", **parts)
        return request.json(parts)
