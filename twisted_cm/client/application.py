"""The client of an application: submit jobs and fetch their results."""

from __future__ import annotations

import secrets

from attrs import NOTHING
from twisted.internet.task import deferLater
from typing_extensions import TypedDict, Unpack

from ..model.paths import CONTOUR, job_path
from ..model.types import JSONValue
from .base import BearerClient
from .connections import Request
from .raw_json import RawJSON, with_query
from .records import JobHandle, JobStatus, Result, parse_job_handle, parse_job_status
from .retries import Repeat
from .streams import ResultStream

_EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"
_SUBMIT = f"{CONTOUR}/deployed-apps/jobs"

#: Seconds that the emulator may park one status request of :meth:`ComputeModules.wait`; its own limit is 60.
LONG_POLL = 50

#: Seconds between two status requests that the emulator did not park: at first, and after several.
FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0


class SubmitOptions(TypedDict, total=False):
    """The keyword arguments of every method that submits a job. Both are optional.

    Attributes:
        branch: The branch of the deployed app; by default, any branch with an active runtime.
        timeout: Seconds to wait for the answer; by default, there is no limit.
    """

    branch: str | None
    timeout: float | None


class ComputeModules(BearerClient):
    """An application's client: submit jobs to deployed apps, ask for their status, fetch their results.

    Every method raises :class:`ComputeModulesError`, usually the subclass of :class:`ApiError` for the kind of error
    that the emulator reports.

    Args:
        url: The emulator's base URL, http or https.
        token: The bearer token.
        reactor: The source of time and sockets; the installed reactor by default.
        ca_certificate: The certificate in PEM to verify an https server with; by default, what the system trusts.
        agent: Sends the requests instead of the client's own persistent connections.
        retries: How often a request is repeated if that is safe; ``None`` for never.

    Raises:
        ValueError: ``url`` is not an http or https URL, or ``ca_certificate`` holds no certificate.
    """

    async def execute(
        self,
        deployed_app_rid: str,
        query_type: str,
        query: JSONValue | RawJSON = NOTHING,
        **options: Unpack[SubmitOptions],
    ) -> Result:
        """Run a function and wait for its result.

        Args:
            deployed_app_rid: The deployed app.
            query_type: The function's name.
            query: The function's input, any JSON value; ``{}`` by default. :class:`RawJSON` is sent as it is.
            branch: The branch of the deployed app; by default, any branch with an active runtime.
            timeout: Seconds to wait; by default, there is no limit. When the timeout expires, a job that is still
                queued is canceled; a job that runs continues.

        Raises:
            JobFailed: The job failed or was canceled. If the function raised an exception, the job has succeeded, and
                :attr:`Result.exception` says what was raised.
            JobTimeout: The job takes longer than the emulator lets a caller wait. The job continues.
            ResultBrokenOff: The connection was lost before the end of the result, and to ask again for it failed, too.
        """
        request, timeout = self._submission(_EXECUTE, deployed_app_rid, query_type, query, **options)
        answer = await self._connections.send(request, timeout)
        return Result(answer.job_id, answer.content)

    def stream(
        self,
        deployed_app_rid: str,
        query_type: str,
        query: JSONValue | RawJSON = NOTHING,
        **options: Unpack[SubmitOptions],
    ) -> ResultStream:
        """Run a function and return an async iterator over the chunks of its result, as they arrive.

        The arguments and errors are those of :meth:`execute`. ``timeout`` covers everything from the first chunk that
        is read to the end of the result::

            async for chunk in modules.stream(rid, "tail", {"lines": 10}):
                ...
            async for value in modules.stream(rid, "count").values():
                ...
        """
        request, timeout = self._submission(_EXECUTE, deployed_app_rid, query_type, query, **options)
        return ResultStream(lambda: self._connections.open(request), self._connections.stream_within(timeout))

    async def submit(
        self,
        deployed_app_rid: str,
        query_type: str,
        query: JSONValue | RawJSON = NOTHING,
        **options: Unpack[SubmitOptions],
    ) -> JobHandle:
        """Queue a job without waiting for its result.

        The arguments are those of :meth:`execute`. The methods that ask about a job accept the handle or its ``id``.
        """
        request, timeout = self._submission(_SUBMIT, deployed_app_rid, query_type, query, **options)
        return (await self._connections.send(request, timeout)).parse(parse_job_handle)

    async def status(self, job: str | JobHandle, wait: float = 0.0) -> JobStatus:
        """Return a job's status.

        Args:
            job: The job's id or handle.
            wait: Seconds that the emulator may wait for the job to end before it answers, at most 60, rounded up to
                whole seconds.
        """
        return await self._get(f"{_path(job)}/status", parse_job_status, wait)

    async def wait(
        self, job: str | JobHandle, timeout: float | None = None, *, long_poll: float = LONG_POLL
    ) -> JobStatus:
        """Wait until a job has succeeded, failed or been canceled; return its status.

        Args:
            job: The job's id or handle.
            timeout: Seconds to wait; by default, there is no limit.
            long_poll: Seconds that the emulator may park each request for the status, at most 60.

        Raises:
            TimedOut: The job has not ended in time.
        """

        async def until_ended() -> JobStatus:
            pause = FIRST_PAUSE
            while True:
                asked = self.reactor.seconds()
                status = await self.status(job, long_poll)
                if status.state.finished:
                    return status
                if self.reactor.seconds() - asked < min(long_poll, LAST_PAUSE):
                    # The request was not parked: a proxy may drop the Prefer header.
                    await deferLater(self.reactor, pause)
                    pause = min(2 * pause, LAST_PAUSE)

        return await self._connections.within(timeout, until_ended())

    async def result(self, job: str | JobHandle) -> Result:
        """Fetch a job's result. It can be fetched more than once.

        Args:
            job: The job's id or handle.

        Raises:
            JobNotReady: The job has no result, or does not have it yet.
        """
        answer = await self._send("GET", f"{_path(job)}/result", None, Repeat.ALWAYS)
        return Result(answer.job_id, answer.content)

    async def cancel(self, job: str | JobHandle, only_queued: bool = False) -> None:
        """Cancel a job. A job that has ended stays as it is.

        Args:
            job: The job's id or handle.
            only_queued: Do not cancel the job if it already runs.
        """
        if only_queued:
            await self._send("PUT", f"{_path(job)}/soft-cancel", None, Repeat.ALWAYS)
        else:
            await self._send("DELETE", _path(job), None, Repeat.ALWAYS)

    def _submission(
        self,
        path: str,
        deployed_app_rid: str,
        query_type: str,
        query: JSONValue | RawJSON,
        branch: str | None = None,
        timeout: float | None = None,
    ) -> tuple[Request, float | None]:
        """Return the request that submits a job, and its timeout."""
        body = {
            "deployedAppRid": deployed_app_rid,
            "deployedAppBranch": branch,
            "queryType": query_type,
        }
        content = with_query(body, {} if query is NOTHING else query)
        # If the request is sent again, the emulator finds the job that it made before.
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            "Idempotency-Key": secrets.token_hex(16),
        }
        return Request("POST", path, headers, content, Repeat.KEYED), timeout


def _path(job: str | JobHandle) -> str:
    return job_path(job.id if isinstance(job, JobHandle) else job)
