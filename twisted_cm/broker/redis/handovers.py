"""Which jobs is this node handing over to pollers?

A job that Redis has given to a poll of this node is the node's until its whole envelope has left, or until it is given
back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...model.jobs import Job
from .connection import Refused, ignore_outage
from .node import RedisNode


class Handovers:
    """The jobs that this node is handing over, each as ``ID:ATTEMPT``, like in ``handing:`` on Redis."""

    _log = Logger()

    def __init__(self, node: RedisNode) -> None:
        self._node = node
        # Each with the id under which this node was known to hold it.
        self._open: dict[str, str] = {}
        # Delivered, but Redis does not know it yet: it may be away.
        self._delivered: set[str] = set()

    def known(self) -> list[str]:
        """Return what Redis must not give to another poll when this node joins again."""
        return [*self._open, *self._delivered]

    async def attached(self) -> None:
        """Confirm what was delivered while Redis was away."""
        for handed in list(self._delivered):
            await self._confirm(handed, self._node.send)

    def begin(self, job: Job) -> None:
        """Note that a job is on its way to a poller."""
        self._open[f"{job.job_id}:{job.attempts}"] = self._node.node_id

    def holds(self, job_id: str, attempt: int) -> Deferred[bool]:
        """Return whether this node still has to deliver a job.

        If it was away since it was given the job, another node may have given it to another poll. If Redis has been
        silent, another node may do so before Redis hears that this one has delivered the job.
        """
        node = self._node
        if node.in_touch and self._open.get(f"{job_id}:{attempt}") == node.node_id:
            return succeed(True)
        return Deferred.fromCoroutine(self._still_holds(job_id, attempt))

    async def _still_holds(self, job_id: str, attempt: int) -> bool:
        await self._node.when_up()
        if await self._node.call_again("holds", job_id, str(attempt)):
            self._open[f"{job_id}:{attempt}"] = self._node.node_id
            return True
        self._open.pop(f"{job_id}:{attempt}", None)
        return False

    def refuse(self, job: Job) -> None:
        """Give back a job whose poll has gone."""
        told = self._node.call("give_back", job.job_id, str(job.attempts))
        told.addErrback(self._tell_again).addErrback(ignore_outage)

    def _tell_again(self, failure: Failure) -> Failure:
        if failure.check(Refused):
            # When the node joins again, it confirms what it has delivered; jobs that it does not name go back.
            self._node.drop_link()
        return failure

    def give_back(self, job_id: str, attempt: int) -> Deferred[None]:
        """Put a job that its poller never had back to the front of its queue."""
        self._open.pop(f"{job_id}:{attempt}", None)

        def told(given_back: int) -> None:
            if given_back:
                self._log.info("job {job_id}: given back, its poller vanished", job_id=job_id)

        return self._node.call("give_back", job_id, str(attempt)).addErrback(self._tell_again).addCallback(told)

    def delivered(self, job_id: str, attempt: int) -> Deferred[None]:
        """Note that the poller has the job."""
        handed = f"{job_id}:{attempt}"
        if handed not in self._open:
            return succeed(None)
        del self._open[handed]
        self._delivered.add(handed)
        return self._confirm(handed, self._node.send_soon)

    def _confirm(self, handed: str, send: Callable[..., Deferred[Any]]) -> Deferred[None]:
        def confirmed(_: int) -> None:
            self._delivered.discard(handed)

        return send("delivered", *handed.rsplit(":", 1)).addCallbacks(confirmed, self._tell_again)
