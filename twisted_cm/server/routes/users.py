"""Who the owner of a bearer token is, at the path of Foundry's admin API."""

from __future__ import annotations

from attrs import frozen

from ...model.paths import ADMIN
from ..auth import require_bearer
from ..context import Context
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest


@frozen
class UserRoutes:
    """The routes of users."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        add_routes(app, [("GET", f"{ADMIN}/users/getCurrent", self.current)])

    async def current(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /users/getCurrent`` with the user that the bearer token belongs to."""
        principal = await require_bearer(self.context, request)
        return request.json(self.context.credentials.user(principal).describe())
