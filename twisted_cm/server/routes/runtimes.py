"""Sessions of runtimes, and the runtimes there are (contract section 1)."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from ...broker.interface import RuntimeSnapshot
from ...model.faults import Fault
from ...model.paths import RUNTIMES, runtime_path
from ...model.registry import SessionRequest
from ...model.replicas import ModuleIdentity
from ...model.types import JSONValue
from .. import errors
from ..auth import (
    has_admin_token,
    has_module_token,
    require_admin,
    require_admin_beyond_loopback,
    require_bearer,
)
from ..context import Context
from ..descriptions import describe_schemas, describe_snapshot
from ..parsing import flag_field, required_text, text_field, token_field
from ..routing import App, add_routes
from ..sessions import describe_session
from ..transport.request import EmulatorRequest


@frozen
class RuntimeRoutes:
    """The routes that open, show and delete runtimes."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        one = f"{RUNTIMES}/<id:runtime_id>"
        add_routes(
            app,
            [
                ("POST", RUNTIMES, self.open_session),
                ("GET", RUNTIMES, self.list_runtimes),
                ("GET", one, self.show_runtime),
                ("DELETE", one, self.delete_runtime),
            ],
        )

    async def open_session(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST /runtimes``: open a session, or reset the one that the runtime has."""
        await require_admin_beyond_loopback(self.context, request)
        body = await request.read_json(self.context.limits.max_body)
        runtime_id = required_text(body, "runtimeId")
        session = SessionRequest(
            runtime_id,
            text_field(body, "deployedAppRid"),
            text_field(body, "branch"),
            text_field(body, "displayName"),
            flag_field(body, "keepBindings"),
            token_field(body, "moduleAuthToken"),
        )
        if session.token is not None:
            owner = await self.context.broker.module_runtime(session.token)
            if owner not in (None, ModuleIdentity(runtime_id)):
                raise errors.token_in_use(runtime_id)
        runtime = await self.context.broker.open_session(session)
        token, path = runtime.module_auth_token, runtime_path(runtime_id)
        return request.json(describe_session(self.context, request, runtime_id, token, path))

    async def list_runtimes(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /runtimes`` with every runtime."""
        await require_bearer(self.context, request)
        snapshots = await self.context.broker.snapshots()
        faults = await self.context.faults.all()
        return request.json([await self._describe(request, snapshot, faults) for snapshot in snapshots])

    async def show_runtime(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``GET /runtimes/{runtimeId}`` with one runtime, its queue, bindings and schemas."""
        await require_bearer(self.context, request)
        snapshot = await self.context.broker.snapshot(runtime_id)
        description = await self._describe(request, snapshot, await self.context.faults.all())
        return request.json({**description, "schemas": describe_schemas(snapshot.runtime.schemas)})

    async def _describe(
        self, request: EmulatorRequest, snapshot: RuntimeSnapshot, faults: Sequence[Fault]
    ) -> dict[str, JSONValue]:
        token_shown = has_module_token(request, snapshot.runtime) or has_admin_token(self.context, request)
        module = await self.context.supervision.describe(snapshot.runtime.runtime_id)
        return describe_snapshot(snapshot, faults, token_shown, module)

    async def delete_runtime(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``DELETE /runtimes/{runtimeId}``: remove a runtime and end its jobs."""
        await require_admin(self.context, request)
        await self.context.broker.delete_runtime(runtime_id)
        return request.no_content()
