"""A request that waits for a replica to change."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from ..broker.interface import Change, ReplicaSnapshot, UnknownReplica
from .context import Context
from .replica_lookup import find_replica

#: Seconds for which changes of a runtime are gathered before its replicas are read again.
GATHER = 0.1


async def watch_replica(
    context: Context, runtime_id: str, replica_id: str, reached: Callable[[ReplicaSnapshot], bool], wait: float
) -> ReplicaSnapshot:
    """Return a replica once a condition holds, or as it is after some time.

    Args:
        context: What the routes share.
        runtime_id: The runtime.
        replica_id: The replica.
        reached: The condition.
        wait: Seconds to wait at most.

    Raises:
        UnknownRuntime: There is no such runtime, or it was deleted.
        UnknownReplica: It has no such replica, or its replicas were forgotten in a reset.
    """
    snapshot = await _find(context, runtime_id, replica_id)
    if reached(snapshot) or wait <= 0:
        return snapshot
    clock, end = context.reactor, context.reactor.seconds() + wait
    watch = _Watch(runtime_id)
    observing = context.broker.observe(watch.changed).addBoth(watch.ended)
    try:
        while True:
            snapshot = await _find(context, runtime_id, replica_id)
            left = end - clock.seconds()
            if reached(snapshot) or left <= 0 or watch.over:
                return snapshot
            await watch.next().addTimeout(left, clock, lambda *_: None)
            if not watch.over:
                await deferLater(clock, GATHER)
    finally:
        observing.cancel()


async def _find(context: Context, runtime_id: str, replica_id: str) -> ReplicaSnapshot:
    snapshot = await find_replica(context.broker, runtime_id, replica_id)
    if snapshot is None:
        raise UnknownReplica(runtime_id, replica_id)
    return snapshot


class _Watch:
    """Notes the changes of one runtime.

    Attributes:
        over: Whether the broker has stopped.
    """

    def __init__(self, runtime_id: str) -> None:
        self.over = False
        self._runtime_id = runtime_id
        self._noted = False
        self._waiting: Deferred[None] | None = None

    def next(self) -> Deferred[None]:
        """Return a Deferred that fires with the next change, or at once if there was one since the last call."""
        waiting: Deferred[None] = Deferred()
        self._waiting = waiting
        if self._noted:
            self._fire()
        return waiting

    def changed(self, change: Change) -> None:
        """Take a change from :meth:`~twisted_cm.broker.interface.IBroker.observe`."""
        # The jobs of a replica say nothing of whether it is there.
        if change.missed or (change.runtime_id == self._runtime_id and change.job is None):
            self._fire()

    def ended(self, result: Failure | None) -> None:
        """Take the end of the observation."""
        if isinstance(result, Failure):
            result.trap(CancelledError)
        self.over = True
        self._fire()

    def _fire(self) -> None:
        waiting, self._waiting = self._waiting, None
        self._noted = waiting is None
        if waiting is not None and not waiting.called:
            waiting.callback(None)
