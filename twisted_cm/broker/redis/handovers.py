"""Which jobs is this node handing over to pollers?

A job that Redis has given to a poll of this node is the node's until its whole envelope has left, or until it is given
back. The node tells Redis of several delivered jobs at once. If the result of a job comes before that, the node tells
Redis with the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...model.jobs import Job
from ..interface import BrokerUnavailable
from ..timers import cancel_timer
from .connection import RedisAway, Refused, ignore_outage
from .node import RedisNode
from .values import in_pieces

#: Seconds until Redis is told of a job that was delivered.
SOON = 0.002


@define(eq=False)
class _Delivery:
    """A job that a poller has received.

    Attributes:
        handed: The job and its attempt, as ``ID:ATTEMPT``.
        told: Fires when Redis knows.
    """

    handed: str
    told: Deferred[None] = field(factory=Deferred, init=False)


class Handovers:
    """The jobs that this node is handing over, each as ``ID:ATTEMPT``, like in ``handing:`` on Redis."""

    _log = Logger()

    def __init__(self, node: RedisNode) -> None:
        self._node = node
        # Each with the id under which this node was known to hold it.
        self._open: dict[str, str] = {}
        # The deliveries that Redis does not know of yet: it may be away.
        self._unknown: dict[_Delivery, None] = {}
        # Of these, the ones that Redis is to be told of soon, by the ids of their jobs.
        self._untold: dict[str, _Delivery] = {}
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def known(self) -> list[str]:
        """Return what Redis must not give to another poll when this node joins again."""
        return [*self._open, *(each.handed for each in self._unknown)]

    def joined(self) -> None:
        """Tell Redis what was delivered while it was away. More may be delivered until the node has joined."""
        self._tell(list(self._unknown))

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
        if self._open.pop(handed, None) is None:
            return succeed(None)
        delivery = _Delivery(handed)
        self._unknown[delivery] = None
        if self._stopped:
            self._tell([delivery])
            return delivery.told
        if job_id in self._untold:
            # Another poll has the job, too, or had it in an earlier attempt.
            self._tell_untold()
        self._untold[job_id] = delivery
        if self._timer is None:
            self._timer = self._node.reactor.callLater(SOON, self._tell_late)
        return delivery.told

    def tell_with_result(self, job_id: str, send: Callable[[str], Deferred[Any]]) -> Deferred[Any]:
        """Tell Redis that a job was delivered, with its result.

        Args:
            send: Sends the result with a word for Redis: the job as ``ID:ATTEMPT``, or an empty text if Redis knows.

        Returns:
            The Deferred that ``send`` returned.
        """
        delivery = self._untold.pop(job_id, None)
        if delivery is None:
            return send("")

        def known(reply: Any) -> Any:
            self._known(None, [delivery])
            return reply

        def not_known(failure: Failure) -> Failure:
            self._tell([delivery])
            return failure

        return send(delivery.handed).addCallbacks(known, not_known)

    def stop(self) -> None:
        """Tell Redis which jobs were delivered, and from now on do so at once."""
        self._stopped = True
        cancel_timer(self._timer)
        self._untold.clear()
        self._tell(list(self._unknown))

    def _tell_late(self) -> None:
        self._timer = None
        self._tell_untold()

    def _tell_untold(self) -> None:
        untold = list(self._untold.values())
        self._untold.clear()
        self._tell(untold)

    def _tell(self, deliveries: Sequence[_Delivery]) -> None:
        if self._node.up:
            for piece in in_pieces(deliveries):
                told = self._node.send("delivered", *(each.handed for each in piece))
                told.addCallbacks(self._known, self._not_known, (piece,), {}, (piece,))
        elif self._stopped:
            self._give_up(deliveries)

    def _known(self, _: Any, deliveries: Sequence[_Delivery]) -> None:
        for each in deliveries:
            # It may have been told twice.
            if each in self._unknown:
                del self._unknown[each]
                each.told.callback(None)

    def _not_known(self, failure: Failure, deliveries: Sequence[_Delivery]) -> None:
        self._tell_again(failure).trap(BrokerUnavailable)
        if self._stopped:
            self._give_up(deliveries)

    def _give_up(self, deliveries: Sequence[_Delivery]) -> None:
        for each in deliveries:
            if each in self._unknown:
                del self._unknown[each]
                each.told.errback(RedisAway())
