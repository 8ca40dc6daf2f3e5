"""How a client that found one address of the emulator learns the others."""

from __future__ import annotations

from attrs import frozen

from ... import __version__
from ...model.paths import EMULATOR
from ..context import Context
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest


@frozen
class DiscoveryRoutes:
    """The route that describes the emulator to its clients."""

    context: Context

    def register(self, app: App) -> None:
        """Put the route on ``app``."""
        add_routes(app, [("GET", f"{EMULATOR}/info", self.info)])

    async def info(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /info`` with the emulator's addresses and limits."""
        addresses, limits = self.context.addresses, self.context.limits
        return request.json(
            {
                "version": __version__,
                "http": addresses.http,
                "https": addresses.https,
                "caCertificate": addresses.ca_certificate,
                "pollTimeout": limits.poll_timeout,
                "syncTimeout": limits.sync_timeout,
                "maxBody": limits.max_body,
                "startedAt": self.context.started_at,
            }
        )
