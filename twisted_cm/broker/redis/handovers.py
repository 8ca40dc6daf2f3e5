"""Which jobs is this node handing over to pollers?

A job that Redis has given to a poll of this node is the node's until its whole envelope has left, or until it is given
back. The node tells Redis of several delivered jobs at once. If the result of a job comes before that, the node tells
Redis with the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...model.jobs import Job
from ..timers import cancel_timer
from .connection import Refused, ignore_outage
from .node import RedisNode
from .values import in_pieces

#: Seconds until Redis is told of a job that was delivered.
SOON = 0.002


class Handovers:
    """The jobs that this node is handing over, each as ``ID:ATTEMPT``, like in ``handing:`` on Redis."""

    _log = Logger()

    def __init__(self, node: RedisNode) -> None:
        self._node = node
        # Each with the id under which this node was known to hold it.
        self._open: dict[str, str] = {}
        # Delivered, but Redis does not know it yet: it may be away.
        self._delivered: set[str] = set()
        # Of these, the jobs that Redis is to be told of, each with the Deferred that fires when it knows.
        self._untold: dict[str, tuple[str, Deferred[None]]] = {}
        self._timer: IDelayedCall | None = None

    def known(self) -> list[str]:
        """Return what Redis must not give to another poll when this node joins again."""
        return [*self._open, *self._delivered]

    async def attached(self) -> None:
        """Confirm what was delivered while Redis was away."""
        for delivered in in_pieces(list(self._delivered)):
            await self._node.send("delivered", *delivered)
            self._delivered.difference_update(delivered)

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
        if job_id in self._untold:
            # Another poll has the job, too, or had it in an earlier attempt.
            self.tell()
        told: Deferred[None] = Deferred()
        self._untold[job_id] = handed, told
        if self._timer is None:
            self._timer = self._node.reactor.callLater(SOON, self._tell_late)
        return told

    def _tell_late(self) -> None:
        self._timer = None
        self.tell()

    def tell(self) -> None:
        """Tell Redis which jobs were delivered."""
        if self._untold:
            untold, self._untold = self._untold, {}
            jobs = list(untold.values())
            words = [handed for handed, _ in jobs]
            self._node.send("delivered", *words).addCallbacks(self._known, self._not_known, (jobs,), {}, (jobs,))

    def stop(self) -> None:
        """Tell Redis which jobs were delivered, and of none later."""
        cancel_timer(self._timer)
        self.tell()

    def tell_with_result(self, job_id: str, send: Callable[[str], Deferred[Any]]) -> Deferred[Any]:
        """Tell Redis that a job was delivered, with its result.

        Args:
            send: Sends the result with a word for Redis: the job as ``ID:ATTEMPT``, or an empty text if Redis knows.

        Returns:
            The Deferred that ``send`` returned.
        """
        untold = self._untold.pop(job_id, None)
        if untold is None:
            return send("")

        def known(reply: Any) -> Any:
            self._known(None, [untold])
            return reply

        def not_known(failure: Failure) -> Failure:
            self._untold[job_id] = untold
            self.tell()
            return failure

        return send(untold[0]).addCallbacks(known, not_known)

    def _known(self, _: Any, jobs: Sequence[tuple[str, Deferred[None]]]) -> None:
        for handed, told in jobs:
            self._delivered.discard(handed)
            told.callback(None)

    def _not_known(self, failure: Failure, jobs: Sequence[tuple[str, Deferred[None]]]) -> None:
        self._tell_again(failure)
        for _, told in jobs:
            told.errback(failure)
