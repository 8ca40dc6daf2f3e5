"""Go back to the seed without disconnecting the modules that run."""

from __future__ import annotations

from contextlib import suppress

from ..broker.interface import RuntimeSnapshot, UnknownRuntime
from ..model.replicas import DEFAULT_CONCURRENT_TASKS, DEFAULT_REPLICA, Replica, ReplicaRequest
from .context import Context


async def reset_keeping_replicas(context: Context) -> None:
    """Go back to the seed; keep the open replicas of the seed's runtimes, and the schemas of those runtimes.

    SDKs post their schemas only when they start, so a module that outlives a reset cannot report them again. A broker
    in memory answers at once: no request arrives while the replicas are closed. On Redis, a poll that arrives in
    between is refused, and the module polls again.

    Parked polls are answered. A replica that is kept counts as connected again once it has polled.
    """
    before = await context.broker.snapshots()
    await context.reset()
    for snapshot in before:
        replicas = [each.replica for each in snapshot.replicas if _is_open(each.replica)]
        if replicas:
            # The seed does not have the runtime.
            with suppress(UnknownRuntime):
                await _restore(context, snapshot, replicas)


def _is_open(replica: Replica) -> bool:
    return not replica.gone and replica.replica_id != DEFAULT_REPLICA


async def _restore(context: Context, before: RuntimeSnapshot, replicas: list[Replica]) -> None:
    runtime_id = before.runtime.runtime_id
    await context.broker.runtime(runtime_id)
    for each in replicas:
        limit = each.limit or DEFAULT_CONCURRENT_TASKS
        await context.broker.open_replica(ReplicaRequest(runtime_id, each.replica_id, limit, token=each.token))
    if before.runtime.schemas is not None:
        await context.broker.put_schemas(runtime_id, list(before.runtime.schemas.values()))
