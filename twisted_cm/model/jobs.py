"""What a job is, and which steps it may take."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Awaitable
from typing import Any, Protocol

from attrs import define, field, frozen

from .types import JSONValue


class JobState(enum.Enum):
    """Where a job is in its life.  The values are the words used on the wire (contract section 3)."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def finished(self) -> bool:
        """Whether no further step is possible."""
        return not LEGAL_TRANSITIONS[self]


#: For each state, the states a job may step to next.  A running job may be
#: queued again because a poller can vanish while the job is handed to it, and
#: a queued one may succeed because that poller may have had it after all.
LEGAL_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELED: frozenset(),
}


class JobSource(enum.Enum):
    """Which door a job came in by.  The values are those of inspection (contract section 1)."""

    RUNTIME_DIRECT = "runtime-direct"
    CONTOUR_SYNC = "contour-sync"
    CONTOUR_ASYNC = "contour-async"


class JobResult(Protocol):
    """
    What a job's result looks like to whoever has the job; a broker makes and fills it.

    @ivar content_type: as posted by the runtime.
    @ivar size: bytes written so far.
    @ivar complete: whether the last byte has arrived.
    """

    content_type: str | None
    size: int
    complete: bool

    def read(self, offset: int, size: int) -> Awaitable[bytes]:
        """
        @return: at most C{size} of the bytes that are there from C{offset} on; none at the end.
        """

    def deliver(self, consumer: Any) -> Awaitable[bool]:
        """
        Write it all to a consumer of Twisted's, at its pace, following the result while it is still being written.

        @return: C{True} after the last byte, C{False} if the result ends before it is whole.
        """


class IllegalTransition(Exception):
    """A job was asked for a step that its state does not allow: a bug in the caller, never in a client."""


@frozen
class Submission:
    """
    What an application asks for: run one function with one query.

    @ivar query_type: the function's name, as the runtime registered it.
    @ivar query: the function's input, any JSON value.
    @ivar deployed_app_rid: the deployed app it was addressed to, or L{None} for a runtime-direct job.
    @ivar branch: the branch of the deployed app that was matched, or L{None}.
    @ivar submitter: the login of whoever submitted it; it becomes C{userId} in the envelope.
    @ivar size: about how many bytes the query takes.
    """

    query_type: str
    query: JSONValue
    source: JobSource
    deployed_app_rid: str | None = None
    branch: str | None = None
    submitter: str = ""
    size: int = 0


@define(slots=True)
class Attempt:
    """
    One time that a job was handed to a poller.

    @ivar started_at: milliseconds since the epoch.
    @ivar ended_at: milliseconds since the epoch, or L{None} while it runs.
    @ivar outcome: how it ended: the state that the job went to, or why it was queued again.
    """

    started_at: int
    ended_at: int | None = None
    outcome: str | None = None


#: How many attempts of a job are remembered, the last ones.
ATTEMPTS_KEPT = 20


@define(eq=False, slots=True)
class Job:
    """
    One job, from submission to its end.

    @ivar number: its place among all jobs of its broker, later ones having larger numbers.
    @ivar attempts: how many times it was handed to a poller.
    @ivar attempt_log: those times, the last L{ATTEMPTS_KEPT} of them.
    @ivar result: the bytes a runtime posted, or is posting; L{None} until the first of them.
    @ivar error_message: why it failed or was canceled.
    """

    job_id: str
    runtime_id: str
    submission: Submission
    queued_at: int
    number: int = 0
    state: JobState = field(default=JobState.QUEUED, init=False)
    started_at: int | None = field(default=None, init=False)
    completed_at: int | None = field(default=None, init=False)
    attempts: int = field(default=0, init=False)
    attempt_log: list[Attempt] = field(factory=list, init=False)
    result: JobResult | None = field(default=None, init=False)
    error_message: str | None = field(default=None, init=False)

    @property
    def size(self) -> int:
        """What it is counted as where jobs are kept by their bytes: those of its query and its result."""
        return self.submission.size + (self.result.size if self.result is not None else 0)

    def transition(self, to: JobState, now: int, outcome: str | None = None) -> None:
        """
        Step to another state; the only place where C{state} changes.

        @param now: milliseconds since the epoch.
        @param outcome: how the attempt that this step ends went; by default the state's own word.
        @raise IllegalTransition: where the table has no such step.
        """
        if to not in LEGAL_TRANSITIONS[self.state]:
            raise IllegalTransition(f"job {self.job_id} cannot go from {self.state.value} to {to.value}")
        if self.state is JobState.RUNNING and self.attempt_log:
            self.attempt_log[-1].ended_at = now
            self.attempt_log[-1].outcome = outcome or to.value
        self.state = to
        if to is JobState.RUNNING:
            self.started_at = now
            self.attempts += 1
            self.attempt_log.append(Attempt(now))
            del self.attempt_log[:-ATTEMPTS_KEPT]
        elif to is JobState.QUEUED:
            self.started_at = None
        else:
            self.completed_at = now


def new_job_id() -> str:
    """
    @return: a job id that cannot be guessed, in the form of contract section 1.
    """
    return "foundry_job_" + secrets.token_hex(16)


@frozen
class JobFilter:
    """
    Which jobs to list.

    @ivar before: only those whose number is smaller.
    """

    runtime_id: str | None = None
    query_type: str | None = None
    state: JobState | None = None
    before: int | None = None

    def fits(self, job: Job) -> bool:
        """
        @return: whether C{job} is one of them.
        """
        return (
            (self.before is None or job.number < self.before)
            and self.runtime_id in (None, job.runtime_id)
            and self.query_type in (None, job.submission.query_type)
            and self.state in (None, job.state)
        )
