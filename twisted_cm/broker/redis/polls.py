"""Which polls are parked on this node, and which job does each get?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...logs import debug_is_logged
from ...model.jobs import Job
from ..interface import BrokerUnavailable
from ..timers import cancel_timer
from .connection import RedisAway, Refused, ignore_outage
from .handovers import Handovers
from .node import RedisNode
from .records import JobRecords, unknown


@define(eq=False)
class _Poll:
    """A poll.

    Attributes:
        number: Its number on this node.
        runtime_id: The runtime that polls.
        replica_id: The replica of it.
        parks: Whether it waits for a job; otherwise it only asks whether there is one.
        ends_at: Seconds of the clock until which it waits.
        deferred: Fires with a job, or with ``None``.
        timer: Fires when it has waited long enough.
    """

    number: int
    runtime_id: str
    replica_id: str
    parks: bool
    ends_at: float
    deferred: Deferred[Job | None]
    timer: IDelayedCall | None = None


class Polls:
    """The polls of this node."""

    _log = Logger()

    def __init__(
        self, node: RedisNode, records: JobRecords, handovers: Handovers, dispatched: Callable[[Job], None]
    ) -> None:
        """Park nothing yet.

        Args:
            dispatched: Called with each job that has been given to a poll of this node, when its lease has begun.
        """
        self._node = node
        self._records = records
        self._handovers = handovers
        self._dispatched = dispatched
        self._polls: dict[int, _Poll] = {}
        self._last_number = 0
        # The runtimes for which jobs wait, as far as this node knows: its last poll got one at once.
        self._busy: set[str] = set()
        self._logs_debug = True
        node.handlers.update(job=self._job, nothing=self._nothing)

    def __len__(self) -> int:
        return len(self._polls)

    def start(self) -> None:
        """Find out what the log includes."""
        self._logs_debug = debug_is_logged(__name__)

    def joined(self) -> None:
        """Park all polls again. A runtime that gets its job may post the result at once."""
        for poll in list(self._polls.values()):
            self._ask(poll)

    def stop(self) -> None:
        """Answer all polls with no job."""
        for poll in list(self._polls.values()):
            self._unpark(poll).addErrback(ignore_outage)
            self._answer(poll, None)

    def poll(self, runtime_id: str, wait: float, replica_id: str) -> Deferred[Job | None]:
        """Ask for a job for a replica, and park for ``wait`` seconds if there is none."""
        if not self._node.up:
            return fail(RedisAway())
        self._last_number += 1
        ends_at = self._node.clock.seconds() + wait
        answer: Deferred[Job | None] = Deferred(lambda _: self._vanish(poll))
        poll = _Poll(self._last_number, runtime_id, replica_id, wait > 0, ends_at, answer)
        self._polls[poll.number] = poll
        self._ask(poll)
        return poll.deferred

    def _ask(self, poll: _Poll) -> None:
        parks = "1" if poll.parks else "0"
        # A poll that will only be parked need not be sent alone.
        at_once = not poll.parks or poll.runtime_id in self._busy
        send = self._node.send if at_once else self._node.send_soon
        asked = send("poll", poll.runtime_id, poll.replica_id, str(poll.number), parks)
        asked.addCallbacks(self._asked, self._not_asked, (poll,), {}, (poll,))

    def _asked(self, reply: Any, poll: _Poll) -> None:
        if isinstance(reply, bytes):
            if poll.number in self._polls:
                self._take_off(poll)
                poll.deferred.errback(unknown(reply, poll.runtime_id, poll.replica_id))
        elif reply is not None:
            self._busy.add(poll.runtime_id)
            record, query = reply
            self._hand(poll.number, self._records.job(record, query))
        else:
            self._busy.discard(poll.runtime_id)
            self._wait(poll)

    def _wait(self, poll: _Poll) -> None:
        """Let a poll wait that did not get a job, for as long as it may."""
        if poll.number not in self._polls:
            return
        if not poll.parks:
            self._answer(poll, None)
        elif poll.timer is None:
            left = poll.ends_at - self._node.clock.seconds()
            if left > 0:
                poll.timer = self._node.clock.callLater(left, self._expired, poll)
            else:
                self._expired(poll)

    def _not_asked(self, failure: Failure, poll: _Poll) -> None:
        failure.trap(BrokerUnavailable)
        # When Redis is back, a parked poll asks again. If Redis is there and refuses, it need not wait.
        if poll.parks and not failure.check(Refused):
            self._wait(poll)
        elif poll.number in self._polls:
            self._take_off(poll)
            poll.deferred.errback(failure)

    def _job(self, number: bytes | str, record: Any, query: bytes | str | bool | None) -> None:
        if isinstance(query, bytes | str):
            self._hand(int(number), self._records.job(record, query))
            return
        job = self._records.job(record)
        # A large query is not part of the publication.
        asked = self._node.call("job", job.job_id)
        asked.addCallbacks(self._found, self._not_found, (int(number), job), {}, (int(number), job))

    def _found(self, reply: Any, number: int, job: Job) -> None:
        poll = self._polls.get(number)
        if reply != b"unknown job":
            job.submission = job.submission.with_query(reply[1])
            self._hand(number, job)
        elif poll is not None:
            # The job was forgotten in the meantime, for example because its runtime was reset.
            self._ask(poll)

    def _not_found(self, failure: Failure, number: int, job: Job) -> None:
        poll = self._polls.get(number)
        if failure.check(Refused):
            self._handovers.refuse(job)
        if poll is not None:
            self._not_asked(failure, poll)

    def _hand(self, number: int, job: Job) -> None:
        poll = self._polls.get(number)
        if self._node.stale:
            # Another node may have given the job to another poll. After joining again, this node's polls ask again.
            self._node.drop_link()
            if poll is not None and poll.parks:
                self._wait(poll)
            return
        self._dispatched(job)
        if poll is None:
            self._handovers.refuse(job)
            return
        self._handovers.begin(job)
        if self._logs_debug:
            self._log.debug(
                "job {job_id}: dispatched to runtime {runtime_id}", job_id=job.job_id, runtime_id=job.runtime_id
            )
        self._answer(poll, job)

    def _nothing(self, number: bytes | str) -> None:
        poll = self._polls.get(int(number))
        if poll is not None:
            self._answer(poll, None)

    def _answer(self, poll: _Poll, job: Job | None) -> None:
        self._take_off(poll)
        poll.deferred.callback(job)

    def _take_off(self, poll: _Poll) -> None:
        del self._polls[poll.number]
        cancel_timer(poll.timer)

    def _unpark(self, poll: _Poll) -> Deferred[Any]:
        return self._node.call("unpark", poll.runtime_id, poll.replica_id, str(poll.number))

    def _vanish(self, poll: _Poll) -> None:
        self._take_off(poll)
        if poll.parks:
            self._unpark(poll).addErrback(ignore_outage)

    def _expired(self, poll: _Poll) -> None:
        poll.parks = False
        if not self._node.up:
            self._answer(poll, None)
            return

        def unparked(was_parked: int) -> None:
            # If it was not parked any more, a job is on its way to it.
            if was_parked and poll.number in self._polls:
                self._answer(poll, None)

        def not_unparked(failure: Failure) -> None:
            if failure.check(RedisAway) and poll.number in self._polls:
                # If the poll was given a job, the job is given back: this node does not know it when it joins again.
                self._answer(poll, None)
            else:
                self._not_asked(failure, poll)

        self._unpark(poll).addCallbacks(unparked, not_unparked)
