"""The replicas of runtimes, which all nodes share.

Each node has their tokens and limits in its copy of the registry. What they have done is in Redis.
"""

from __future__ import annotations

from twisted.logger import Logger

from ...model.raised import first_line
from ...model.replicas import Replica, ReplicaRequest
from ..interface import ReplicaExists, ReplicaSnapshot, TokenInUse, UnknownReplica, UnknownRuntime
from .node import RedisNode
from .records import read_replicas, unknown
from .registry import Changes, Shared, SharedRegistry


class Replicas:
    """The replicas of all runtimes."""

    _log = Logger()

    def __init__(self, node: RedisNode, registry: SharedRegistry) -> None:
        self._node = node
        self._registry = registry

    def _now(self) -> int:
        return int(self._node.clock.seconds() * 1000)

    async def open(self, request: ReplicaRequest) -> Replica:
        """Open a replica: see :meth:`.IBroker.open_replica`. When this returns, every node accepts its token."""
        await self._node.ready()
        runtime_id, wanted = request.runtime_id, request.replica_id
        opened: list[Replica] = []

        def change(shared: Shared) -> Changes:
            if wanted is not None and shared.registry.has_replica(runtime_id, wanted):
                raise ReplicaExists(runtime_id, wanted)
            if request.token is not None and self._registry.module_runtime(request.token) is not None:
                raise TokenInUse(runtime_id)
            replica, added = shared.registry.open_replica(request, self._now())
            opened[:] = [replica]
            return Changes(
                admitted=[runtime_id] if added else [], opened=[(runtime_id, replica.replica_id, request.limit)]
            )

        await self._registry.change(change)
        self._log.info(
            "runtime {runtime_id}: replica {replica_id} opened, for {limit} jobs at once",
            runtime_id=runtime_id,
            replica_id=opened[0].replica_id,
            limit=request.limit,
        )
        return opened[0]

    async def all(self, runtime_id: str) -> list[ReplicaSnapshot]:
        """Return the replicas of a runtime: see :meth:`.IBroker.replicas`."""
        reply = await self._node.call("replicas", runtime_id)
        registry = self._registry.current
        runtime = registry.runtimes.get(runtime_id)
        if runtime is None or isinstance(reply, bytes):
            raise UnknownRuntime(runtime_id)
        opened_at, stored = reply
        return read_replicas(runtime, registry.replicas[runtime_id].values(), stored, self._now(), int(opened_at))

    async def drain(self, runtime_id: str, replica_id: str) -> None:
        """Give a replica no more jobs: see :meth:`.IBroker.drain_replica`."""
        reply = await self._node.call("drain", runtime_id, replica_id)
        if isinstance(reply, bytes):
            raise unknown(reply, runtime_id, replica_id)

    async def close(self, runtime_id: str, replica_id: str, reason: str) -> None:
        """Close a replica: see :meth:`.IBroker.close_replica`. When this returns, no node accepts its token."""
        await self._node.ready()

        def change(shared: Shared) -> Changes:
            registry = shared.registry
            if runtime_id not in registry.runtimes:
                raise UnknownRuntime(runtime_id)
            if registry.opened_replica(runtime_id, replica_id) is None:
                raise UnknownReplica(runtime_id, replica_id)
            forgotten = registry.close_replica(runtime_id, replica_id, reason, self._now())
            return Changes(
                closed=[(runtime_id, replica_id, reason)], forgotten=[(runtime_id, each) for each in forgotten]
            )

        await self._registry.change(change)
        self._log.info(
            "runtime {runtime_id}: replica {replica_id} closed: {why}",
            runtime_id=runtime_id,
            replica_id=replica_id,
            why=first_line(reason),
        )
