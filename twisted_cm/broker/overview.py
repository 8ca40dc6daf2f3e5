"""What a broker in memory shows of itself and of its runtimes."""

from __future__ import annotations

from collections.abc import Collection

from attrs import evolve

from ..model.registry import Registry
from ..model.runtimes import Runtime
from .interface import BrokerLoad, RuntimeSnapshot
from .work import Work


def load_of(work: Collection[Work], now: int, parked_callers: int) -> BrokerLoad:
    """Return the numbers of runtimes, jobs, polls and callers at ``now``, in milliseconds since the epoch."""
    return BrokerLoad(
        runtimes=len(work),
        connected=sum(each.connected(now) for each in work),
        queued=sum(each.waiting for each in work),
        running=sum(len(each.running) for each in work),
        parked_polls=sum(each.parked_polls for each in work),
        parked_callers=parked_callers,
    )


def describe_runtime(work: Work, now: int) -> Runtime:
    """Return a runtime as it is at ``now``, in milliseconds since the epoch."""
    return evolve(work.runtime, connected=work.connected(now))


def snapshot_of(work: Work, registry: Registry, now: int) -> RuntimeSnapshot:
    """Return a runtime with its counts, its bindings and its replicas at ``now``, in milliseconds since the epoch."""
    runtime = describe_runtime(work, now)
    replicas = work.snapshots(registry.replicas[runtime.runtime_id].values(), now)
    bindings = registry.bindings_of(runtime.runtime_id)
    return RuntimeSnapshot(runtime, bindings, work.waiting, len(work.running), work.parked_polls, replicas)
