"""Replicas of runtimes: open, list and delete them (contract section 1a).

The routes that the process of a replica calls are in :mod:`.module`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from attrs import frozen

from ...broker.interface import ReplicaSnapshot
from ...model.paths import RUNTIMES, replica_path
from ...model.replicas import DEFAULT_CONCURRENT_TASKS, DEFAULT_REPLICA, MOST_CONCURRENT_TASKS, ReplicaRequest
from ...model.tokens import same_token
from ...model.types import JSONValue
from .. import errors
from ..auth import module_token, require_admin, require_admin_beyond_loopback, require_bearer, require_module
from ..context import Context
from ..descriptions import describe_replica
from ..parsing import flag_field, number_field, preferred_wait, query_parameter, text_field, token_field
from ..replica_lookup import find_replica
from ..replica_watch import watch_replica
from ..routing import App, add_routes
from ..sessions import describe_session
from ..transport.request import EmulatorRequest

#: What a request for one replica may wait for. A replica that is gone will not be connected.
_REACHED: dict[str, Callable[[ReplicaSnapshot], bool]] = {
    "connected": lambda snapshot: snapshot.state.connected or snapshot.replica.gone,
    "gone": lambda snapshot: snapshot.replica.gone,
}


@frozen
class ReplicaRoutes:
    """The routes that open, list and delete replicas."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        replicas = f"{RUNTIMES}/<id:runtime_id>/replicas"
        add_routes(
            app,
            [
                ("POST", replicas, self.open_replica),
                ("GET", replicas, self.list_replicas),
                ("GET", f"{replicas}/<id:replica_id>", self.show_replica),
                ("DELETE", f"{replicas}/<id:replica_id>", self.delete_replica),
            ],
        )

    async def open_replica(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``POST /runtimes/{runtimeId}/replicas``: open a replica, and reset nothing."""
        if module_token(request) is not None:
            await require_module(self.context, request, runtime_id)
        else:
            await require_admin_beyond_loopback(self.context, request)
        body = await request.read_json(self.context.limits.max_body)
        if flag_field(body, "existingRuntime"):
            await self.context.broker.runtime(runtime_id)
        wanted = ReplicaRequest(
            runtime_id,
            text_field(body, "replicaId"),
            number_field(body, "maxConcurrentTasks", DEFAULT_CONCURRENT_TASKS, 1, MOST_CONCURRENT_TASKS),
            text_field(body, "deployedAppRid"),
            text_field(body, "branch"),
            token_field(body, "moduleAuthToken"),
        )
        replica = await self.context.broker.open_replica(wanted)
        path = replica_path(runtime_id, replica.replica_id)
        session = describe_session(self.context, request, runtime_id, replica.token, path)
        return request.json(
            {**session, "replicaId": replica.replica_id, "maxConcurrentTasks": replica.limit}, status=201
        )

    async def list_replicas(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``GET /runtimes/{runtimeId}/replicas`` with every replica, those included that went last."""
        await require_bearer(self.context, request)
        return request.json([describe_replica(each) for each in await self.context.broker.replicas(runtime_id)])

    async def show_replica(self, request: EmulatorRequest, runtime_id: str, replica_id: str) -> bytes:
        """Answer ``GET /runtimes/{runtimeId}/replicas/{replicaId}`` with one replica and the names of the functions.

        With ``Prefer: wait=N``, park until the replica is ``connected`` or ``gone``, as ``until`` in the query says.
        With ``hold=true`` and the token of the replica, the request holds the replica: see :class:`.HeldReplicas`.
        """
        until = query_parameter(request, "until")
        if until not in (None, *_REACHED):
            raise errors.invalid_request(f"'until' must be {' or '.join(_REACHED)}.", field="until")
        holding: AbstractContextManager[None] = nullcontext()
        if module_token(request) is None:
            await require_bearer(self.context, request)
        elif not await self._was_token_of(module_token(request), runtime_id, replica_id):
            identity = await require_module(self.context, request, runtime_id, replica_id, or_runtime=True)
            if query_parameter(request, "hold") == "true" and identity.replica_id == replica_id != DEFAULT_REPLICA:
                holding = self.context.held_replicas.held(runtime_id, replica_id)
        wait = 0.0 if until is None else preferred_wait(request, 0)
        reached = _REACHED.get(until or "", lambda _: True)
        with holding:
            snapshot = await watch_replica(self.context, runtime_id, replica_id, reached, wait)
        schemas = (await self.context.broker.runtime(runtime_id)).schemas
        functions: JSONValue = None if schemas is None else sorted(schemas)
        return request.json({**describe_replica(snapshot), "functions": functions})

    async def _was_token_of(self, token: str | None, runtime_id: str, replica_id: str) -> bool:
        """Return whether a token is that of a replica that is gone: it may still be told why."""
        found = await find_replica(self.context.broker, runtime_id, replica_id)
        return found is not None and found.replica.gone and token is not None and same_token(token, found.replica.token)

    async def delete_replica(self, request: EmulatorRequest, runtime_id: str, replica_id: str) -> bytes:
        """Answer ``DELETE /runtimes/{runtimeId}/replicas/{replicaId}``: close a replica and end its jobs."""
        if module_token(request) is not None:
            await require_module(self.context, request, runtime_id, replica_id, or_runtime=True)
        else:
            await require_admin(self.context, request)
        if replica_id == DEFAULT_REPLICA:
            await self.context.broker.runtime(runtime_id)
            raise errors.invalid_request(
                f"The replica '{DEFAULT_REPLICA}' lasts as long as its runtime. Delete the runtime instead.",
                runtimeId=runtime_id,
                replicaId=replica_id,
            )
        await self.context.broker.close_replica(runtime_id, replica_id)
        return request.no_content()
