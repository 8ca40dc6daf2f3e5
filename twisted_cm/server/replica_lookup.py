"""One replica among those of its runtime."""

from __future__ import annotations

from ..broker.interface import IBroker, ReplicaSnapshot


async def find_replica(broker: IBroker, runtime_id: str, replica_id: str) -> ReplicaSnapshot | None:
    """Return a replica, open or gone, or ``None`` if the runtime has none with that id.

    Raises:
        UnknownRuntime: There is no such runtime.
    """
    for each in await broker.replicas(runtime_id):
        if each.replica.replica_id == replica_id:
            return each
    return None
