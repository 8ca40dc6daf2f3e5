"""Replicas that outlive a reset to the seed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..broker.interface import IBroker, ReplicaExists, RuntimeSnapshot, TokenInUse, UnknownRuntime
from ..model.replicas import DEFAULT_CONCURRENT_TASKS, DEFAULT_REPLICA, Replica, ReplicaRequest


async def reset_keeping(
    broker: IBroker, reset: Callable[[], Awaitable[None]], wanted: Callable[[Replica], bool]
) -> None:
    """Reset a broker; keep the open replicas that are wanted, and the schemas of their runtimes.

    SDKs post their schemas only when they start, so a module that outlives a reset cannot report them again. A broker
    in memory answers at once: no request arrives while the replicas are closed. On Redis, a poll that arrives in
    between is refused, and the module polls again.

    Parked polls are answered. A replica that is kept counts as connected again once it has polled.

    Args:
        broker: The broker.
        reset: Resets it.
        wanted: Picks the replicas that are kept.
    """
    before = await broker.snapshots()
    await reset()
    for snapshot in before:
        replicas = [each.replica for each in snapshot.replicas if _is_open(each.replica) and wanted(each.replica)]
        if replicas:
            # The seed does not have the runtime.
            with suppress(UnknownRuntime):
                await _restore(broker, snapshot, replicas)


def _is_open(replica: Replica) -> bool:
    return not replica.gone and replica.replica_id != DEFAULT_REPLICA


async def _restore(broker: IBroker, before: RuntimeSnapshot, replicas: list[Replica]) -> None:
    runtime_id = before.runtime.runtime_id
    await broker.runtime(runtime_id)
    for each in replicas:
        limit = each.limit or DEFAULT_CONCURRENT_TASKS
        # Its supervisor or its command may have opened it again already.
        with suppress(ReplicaExists, TokenInUse):
            await broker.open_replica(ReplicaRequest(runtime_id, each.replica_id, limit, token=each.token))
        if each.draining:
            await broker.drain_replica(runtime_id, each.replica_id)
    if before.runtime.schemas is not None:
        await broker.put_schemas(runtime_id, list(before.runtime.schemas.values()))
