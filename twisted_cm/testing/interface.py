"""Define the methods that all emulators for tests have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, Generic, TypeAlias, TypeVar

from attrs import NOTHING

from ..model.jobs import JobState
from ..model.types import JSONValue
from .faults import Faults
from .runtimes import CallableRuntime

T = TypeVar("T")
RuntimeT = TypeVar("RuntimeT", bound=CallableRuntime[Any])
JobT = TypeVar("JobT", covariant=True)

#: What a method returns: the value itself, if the method blocks, or an awaitable for it.
NowOrLater: TypeAlias = T | Awaitable[T]


class EmulatorInterface(ABC, Generic[RuntimeT, JobT]):
    """An emulator for tests.

    The methods of an emulator in the reactor are awaited. Those of an emulator in a process block.

    Attributes:
        url: The base URL over HTTP.
        https_url: The base URL over HTTPS, or ``None`` if the emulator has no TLS.
        ca_certificate: The certificate, in PEM, of the CA that signed the emulator's own, or ``None`` without TLS.
        token: A valid bearer token: the first one of the seed.
        faults: Makes things go wrong, with a method for each kind of fault.
    """

    url: str
    https_url: str | None
    ca_certificate: str | None
    token: str
    faults: Faults[Any]

    @abstractmethod
    def run(self, runtime: RuntimeT) -> NowOrLater[RuntimeT]:
        """Let a runtime take jobs until it is dismissed or the emulator stops; return the runtime.

        A runtime without a deployed app takes over the existing runtime with its id, such as one of the seed, with all
        jobs that wait for it. Otherwise a session is opened, which clears the jobs of a runtime with that id.
        """

    @abstractmethod
    def dismiss(self) -> NowOrLater[None]:
        """Stop all runtimes that :meth:`run` started. :meth:`reset` does not start them again."""

    @abstractmethod
    def reset(self) -> NowOrLater[None]:
        """Go back to the seed: no jobs, no schemas, and only the seed's runtimes and faults.

        Parked callers and polls are answered. The runtimes that :meth:`run` started run again afterwards.
        """

    @abstractmethod
    def stop(self) -> NowOrLater[None]:
        """Answer all parked callers and polls, then stop the emulator."""

    @abstractmethod
    def enqueue(
        self,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        runtime_id: str | None = None,
        deployed_app_rid: str | None = None,
        branch: str | None = None,
    ) -> NowOrLater[JobT]:
        """Queue a job for a runtime, or for the runtime of a deployed app; return the job.

        Args:
            query: Any JSON value; an empty object by default.
            branch: The branch of the deployed app; ``master`` by default.

        Raises:
            TypeError: Neither ``runtime_id`` nor ``deployed_app_rid`` is given.
            BrokerError: In the reactor: the runtime or the deployed app is unknown, or the queue is full.
            ApiError: In a process: the same.
        """

    @abstractmethod
    def job(self, job_id: str) -> NowOrLater[JobT]:
        """Return a job in its present state.

        Raises:
            UnknownJob: In the reactor: there is no such job.
            NotFound: In a process: the same.
        """

    @abstractmethod
    def wait_for(self, job_id: str, timeout: float = 30.0) -> NowOrLater[JobT]:
        """Wait until a job has ended; return the job.

        Args:
            timeout: The longest time to wait, in seconds. A process rounds it up to whole seconds.

        Raises:
            TimeoutError: The job has not ended in time.
        """

    @abstractmethod
    def result(self, job_id: str) -> NowOrLater[bytes]:
        """Return the bytes of a job's result.

        Raises:
            LookupError: In the reactor: the job has no result.
            ApiError: In a process: the same.
        """

    @abstractmethod
    def runtimes(self) -> NowOrLater[list[dict[str, JSONValue]]]:
        """Return all runtimes in the form of the inspection route (contract section 1)."""

    @abstractmethod
    def fail_next(
        self, count: int = 1, message: str | None = None, *, runtime_id: str | None = None, function: str | None = None
    ) -> NowOrLater[None]:
        """Let the next jobs fail before a runtime gets them.

        Args:
            count: The number of jobs.
            message: The error message of each job.
            runtime_id: Only jobs of this runtime fail; by default, jobs of any.
            function: Only jobs of this function fail; by default, jobs of any.
        """


def no_target() -> TypeError:
    """Return the error of ``enqueue`` without a runtime and without a deployed app."""
    return TypeError("enqueue needs a runtime_id or a deployed_app_rid")


def not_ended(job_id: str, state: JobState, timeout: float) -> TimeoutError:
    """Return the error of ``wait_for`` for a job that has not ended in time."""
    return TimeoutError(f"job {job_id} is {state.value} after {timeout:g} seconds")
