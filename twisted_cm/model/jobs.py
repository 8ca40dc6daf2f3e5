"""Jobs, and the steps they may take from submission to their end."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Awaitable
from typing import Any, Protocol

from attrs import Factory, define, field, frozen

from .states import LEGAL_TRANSITIONS
from .states import JobState as JobState

#: How many attempts of a job are remembered: the latest ones.
ATTEMPTS_KEPT = 20

#: How many characters are kept of what a module wrote while it ran a job: the last ones.
OUTPUT_KEPT = 16_384


class JobSource(enum.Enum):
    """The kind of route a job was submitted through. Inspection shows the values (contract section 1)."""

    RUNTIME_DIRECT = "runtime-direct"
    CONTOUR_SYNC = "contour-sync"
    CONTOUR_ASYNC = "contour-async"
    FUNCTIONS_SYNC = "functions-sync"
    FUNCTIONS_ASYNC = "functions-async"

    @property
    def waited_for(self) -> bool:
        """Whether a caller parks until the job's result."""
        return self in (JobSource.CONTOUR_SYNC, JobSource.FUNCTIONS_SYNC)


class JobResult(Protocol):
    """The result of a job, for reading. A broker creates it and fills it.

    Attributes:
        content_type: The content type that the runtime posted.
        size: The number of bytes written so far.
        complete: Whether the last byte has arrived.
    """

    content_type: str | None
    size: int
    complete: bool

    def read(self, offset: int, size: int) -> Awaitable[bytes]:
        """Return up to ``size`` of the bytes written so far, from ``offset`` on; ``b""`` at the end."""

    def ends(self, start: int, end: int) -> Awaitable[list[int]]:
        """Return the offsets at which chunks of the post end, those after ``start`` and up to ``end``, in order.

        Only ends are noted after which a JSON value could run on, which is after a digit. A post of known length has no
        chunks. Ends after bytes that have not been delivered or read yet may be missing.
        """

    def deliver(self, consumer: Any) -> Awaitable[bool]:
        """Write the whole result to a Twisted ``IConsumer``, at the consumer's pace.

        If the result is still being written, its delivery follows it.

        Returns:
            ``True`` after the last byte; ``False`` if the result ends before it is complete.
        """


class IllegalTransition(Exception):
    """A job was told to take a step that its state does not allow. This is a bug in the emulator."""


def _size_of_query(submission: Submission) -> int:
    return 0 if submission.query is None else len(submission.query)


@frozen
class Submission:
    """A request to run one function with one query.

    Attributes:
        query_type: The function's name, as the runtime registered it.
        query: The function's input, as the bytes of JSON that were sent; ``None`` if a broker did not read them.
        deployed_app_rid: The deployed app that was addressed; ``None`` for a runtime-direct job.
        branch: The branch of the deployed app that was resolved, or ``None``.
        submitter: The login of the user that submitted it; ``userId`` in the envelope. Empty if a module did.
        scopes: The scopes of the submitter's token. The same submission with another token is still the same.
        admin: Whether the submitter had the rights of the admin token.
        size: The size of the query in bytes; known even where the query is not.
        key: Identifies the submission if it is sent again; ``None`` if each one makes a job.
    """

    query_type: str
    query: bytes | None
    source: JobSource
    deployed_app_rid: str | None = None
    branch: str | None = None
    submitter: str = ""
    size: int = field(default=Factory(_size_of_query, takes_self=True))
    key: str | None = None
    scopes: tuple[str, ...] = field(default=(), eq=False)
    admin: bool = field(default=False, eq=False)

    def with_query(self, query: bytes) -> Submission:
        """Return the same submission with its query, which a broker did not read."""
        # This is done for each job on Redis. attrs.evolve takes three times as long.
        return Submission(
            self.query_type,
            query,
            self.source,
            self.deployed_app_rid,
            self.branch,
            self.submitter,
            self.size,
            self.key,
            self.scopes,
            self.admin,
        )


@define(slots=True)
class Attempt:
    """One dispatch of a job to a poller.

    Attributes:
        started_at: Milliseconds since the epoch.
        ended_at: Milliseconds since the epoch, or ``None`` while the attempt runs.
        outcome: The state that the job went to, or the reason why it was queued again.
    """

    started_at: int
    ended_at: int | None = None
    outcome: str | None = None


@define(eq=False, slots=True)
class Job:
    """One job, from its submission to its end.

    Attributes:
        number: The position among all jobs of the broker; later jobs have larger numbers.
        queued_at: When it was submitted, in milliseconds since the epoch.
        started_at: When it was last dispatched, in milliseconds since the epoch.
        completed_at: When it ended, in milliseconds since the epoch.
        replica_id: The replica that runs it or ran it last; ``None`` while it is queued.
        attempts: How many times it was dispatched.
        attempt_log: The last :data:`ATTEMPTS_KEPT` attempts.
        result: The bytes that a runtime posted or is posting; ``None`` until then.
        error_message: Why it failed or was canceled.
        raised: What its function raised, if its result reports that.
        output: What its module wrote while it ran the job; ``None`` if that is not known or was not read.
    """

    job_id: str
    runtime_id: str
    submission: Submission
    queued_at: int
    number: int = 0
    state: JobState = field(default=JobState.QUEUED, init=False)
    started_at: int | None = field(default=None, init=False)
    completed_at: int | None = field(default=None, init=False)
    replica_id: str | None = field(default=None, init=False)
    attempts: int = field(default=0, init=False)
    attempt_log: list[Attempt] = field(factory=list, init=False)
    result: JobResult | None = field(default=None, init=False)
    error_message: str | None = field(default=None, init=False)
    raised: str | None = field(default=None, init=False)
    output: str | None = field(default=None, init=False)

    @property
    def size(self) -> int:
        """The size of query, result and output in bytes, as limits on kept jobs count it."""
        result = 0 if self.result is None else self.result.size
        return self.submission.size + result + (0 if self.output is None else len(self.output.encode("utf-8")))

    @property
    def never_ran(self) -> bool:
        """Whether it was canceled before it was ever dispatched."""
        return self.state is JobState.CANCELED and not self.attempts

    def transition(self, to: JobState, now: int, outcome: str | None = None, replica_id: str | None = None) -> None:
        """Change the state. Nothing else does.

        Args:
            to: The next state.
            now: Milliseconds since the epoch.
            outcome: The outcome of the attempt that this step ends; by default the value of ``to``.
            replica_id: The replica that runs it from now on.

        Raises:
            IllegalTransition: :data:`LEGAL_TRANSITIONS` has no such step.
        """
        if to not in LEGAL_TRANSITIONS[self.state]:
            raise IllegalTransition(f"job {self.job_id} cannot go from {self.state.value} to {to.value}")
        if self.state is JobState.RUNNING and self.attempt_log:
            self.attempt_log[-1].ended_at = now
            self.attempt_log[-1].outcome = outcome or to.value
        self.state = to
        if to is JobState.RUNNING:
            self.started_at = now
            self.replica_id = replica_id
            self.attempts += 1
            self.attempt_log.append(Attempt(now))
            del self.attempt_log[:-ATTEMPTS_KEPT]
        elif to is JobState.QUEUED:
            self.started_at = self.replica_id = None
        else:
            self.completed_at = now


def new_job_id() -> str:
    """Return a job id that cannot be guessed, in the form of contract section 1."""
    return "foundry_job_" + secrets.token_hex(16)


@frozen
class JobFilter:
    """Which jobs to list. A field that is ``None`` admits every job.

    Attributes:
        before: Admit jobs with a smaller number.
        raised: Whether the function of the job raised.
    """

    runtime_id: str | None = None
    query_type: str | None = None
    state: JobState | None = None
    before: int | None = None
    raised: bool | None = None

    def fits(self, job: Job) -> bool:
        """Return whether the filter admits ``job``."""
        return (
            (self.before is None or job.number < self.before)
            and self.runtime_id in (None, job.runtime_id)
            and self.query_type in (None, job.submission.query_type)
            and self.state in (None, job.state)
            and self.raised in (None, job.raised is not None)
        )
