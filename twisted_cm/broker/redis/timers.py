"""When do leases run out, and when are finished jobs forgotten?"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall

from ...model.limits import JobLimits
from ..timers import cancel_timer
from .connection import ignore_outage
from .node import RedisNode


class Timers:
    """Two timers of this node: one for the first of its leases to run out, one for the next job to be forgotten."""

    def __init__(self, node: RedisNode, limits: JobLimits) -> None:
        self._node = node
        self._clock = node.clock
        self._limits = limits
        self._lease: IDelayedCall | None = None
        self._retention: IDelayedCall | None = None
        self._stopped = False

    async def attached(self) -> None:
        """Start the timers for what this node has taken over while it joined."""
        ends_at = await self._node.send("expire")
        if ends_at is not None:
            self.lease_taken(ends_at)
        wait = await self._node.send("forget")
        if wait is not None:
            self.job_ended(wait)

    def lease_taken(self, ends_at: bytes | None = None) -> None:
        """Make sure that there is a timer for the leases of this node.

        Args:
            ends_at: When the first of them ends, in milliseconds since the epoch; ``None`` if it begins now.
        """
        lease = self._node.job_lease
        if self._stopped or lease is None or _active(self._lease):
            return
        wait = lease if ends_at is None else max(0.0, float(ends_at) / 1000 - self._clock.seconds())
        self._lease = self._clock.callLater(wait, self.expire)

    def expire(self) -> None:
        """End the leases of this node that have run out."""
        cancel_timer(self._lease)

        def expired(ends_at: bytes | None) -> None:
            if ends_at is not None:
                self.lease_taken(ends_at)
            self.job_ended()

        self._node.call("expire").addCallbacks(expired, ignore_outage)

    def job_ended(self, wait: int | None = None) -> None:
        """Make sure that there is a timer for the jobs that are to be forgotten by their age.

        Args:
            wait: Milliseconds until the next is due; by default the whole time for which jobs are retained.
        """
        if self._stopped or _active(self._retention):
            return
        seconds = self._limits.retained_seconds if wait is None else wait / 1000
        self._retention = self._clock.callLater(seconds, self._forget)

    def _forget(self) -> None:
        def forgotten(wait: int | None) -> None:
            if wait is not None:
                self.job_ended(wait)

        self._node.call("forget").addCallbacks(forgotten, ignore_outage)

    def stop(self) -> None:
        """Cancel both timers and start none any more."""
        self._stopped = True
        cancel_timer(self._lease)
        cancel_timer(self._retention)


def _active(timer: IDelayedCall | None) -> bool:
    return timer is not None and bool(timer.active())
