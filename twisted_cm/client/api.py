"""The clients: an application, a runtime, and whoever tests with an emulator."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from attrs import NOTHING
from twisted.web.iweb import IAgent
from typing_extensions import Self

from ..model.jobs import JobState
from ..model.paths import CONTOUR, EMULATOR, RUNTIMES, job_path, runtime_path
from ..model.types import JSONValue
from .connections import Answer, Connections, Repeat, Retries, understand
from .records import (
    EmulatorInfo,
    JobHandle,
    JobStatus,
    ModuleJob,
    Result,
    parse_emulator_info,
    parse_job_status,
    parse_module_job,
    parse_records,
    result_bytes,
)
from .streams import Body, ResultStream
from .uploads import IteratedBody

T = TypeVar("T")


#: Seconds that one request for a status parks while a job is waited for; the emulator allows 60.
_LONG_POLL = 50


#: The most jobs in one answer.
_PAGE = 1000


DEFAULT_RETRIES = Retries()


class _Client:
    """
    What the clients have in common: an emulator, and headers that say who asks.

    Each is closed with L{close}, or at the end of an C{async with}.
    """

    def __init__(self, connections: Connections, headers: dict[str, str]) -> None:
        self._connections = connections
        self._headers = headers

    @property
    def url(self) -> str:
        """The emulator's base URL."""
        return self._connections.url

    async def close(self) -> None:
        """Cancel what still runs and close every connection; returns when none is left."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _request(
        self,
        method: str,
        path: str,
        body: JSONValue = None,
        repeat: Repeat = Repeat.REFUSED,
        wait: float | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """
        @param body: sent as JSON, unless it is L{None}.
        @param wait: seconds that the request is to park, in whole ones rounded up.
        """
        headers = dict(self._headers)
        if wait is not None:
            headers["Prefer"] = f"wait={math.ceil(wait)}"
        if body is None:
            return await self._connections.request(method, path, headers, None, repeat, timeout)
        headers["Content-Type"] = "application/json"
        return await self._connections.request(method, path, headers, json.dumps(body).encode(), repeat, timeout)

    async def _ask(self, path: str, parse: Callable[[JSONValue], T], wait: float | None = None) -> T:
        return understand(await self._request("GET", path, None, Repeat.ALWAYS, wait), parse)


class _BearerClient(_Client):
    """A client that says with a bearer token who asks."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        reactor: Any = None,
        ca_certificate: str | None = None,
        agent: IAgent | None = None,
        retries: Retries | None = DEFAULT_RETRIES,
    ) -> None:
        """
        @param url: the emulator's base URL, http or https.
        @param token: the bearer token.
        @param reactor: time and sockets; the installed one if it is L{None}.
        @param ca_certificate: in PEM, what an https server is verified with; L{None} for what the system trusts.
        @param agent: takes the place of connections of its own, which are kept open between requests.
        @param retries: how often requests are sent again where that is safe; L{None} for never.
        @raise ValueError: C{url} is no http or https URL, or C{ca_certificate} holds no certificate.
        """
        super().__init__(Connections(url, reactor, ca_certificate, agent, retries), _bearer(token))


class ComputeModules(_BearerClient):
    """
    An application's client: submits jobs to deployed apps, asks how they stand, fetches their results.

    Every method raises L{ComputeModulesError}, mostly an L{ApiError} of the
    kind that the emulator names.
    """

    async def execute(
        self,
        deployed_app_rid: str,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        branch: str | None = None,
        timeout: float | None = None,
    ) -> Result:
        """
        Run a function, and wait for its result.

        @param query: the function's input, any JSON value; C{{}} by default.
        @param branch: of the deployed app; L{None} for any that is active.
        @param timeout: seconds to wait.  After that a job that is still queued is canceled, one that runs runs on.
        @raise JobFailed: the job failed or was canceled.  That the function raised is no such failure, see
            L{Result.exception}.
        @raise JobTimeout: the emulator lets nobody wait for so long; the job lives on.
        @raise ResultBrokenOff: the result did not arrive whole.
        """
        body = _submission(deployed_app_rid, query_type, query, branch)
        answer = await self._request("POST", f"{CONTOUR}/compute-modules/jobs/execute", body, timeout=timeout)
        return Result(answer.job_id, answer.content)

    def stream(
        self,
        deployed_app_rid: str,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        branch: str | None = None,
        timeout: float | None = None,
    ) -> ResultStream:
        """
        Run a function, and take its result as it arrives::

            async for chunk in modules.stream(rid, "tail", {"lines": 10}):
                ...
            async for value in modules.stream(rid, "count").values():
                ...

        The arguments and errors are those of L{execute}; C{timeout} is for all of it, from the first chunk that is
        asked for on.

        @return: an async iterator over chunks, and with its method C{values} over JSON values.
        """
        connections = self._connections
        headers = {**self._headers, "Content-Type": "application/json"}
        body = json.dumps(_submission(deployed_app_rid, query_type, query, branch)).encode()

        async def begin() -> Body:
            return await connections.open("POST", f"{CONTOUR}/compute-modules/jobs/execute", headers, body)

        return ResultStream(begin, connections.stream_within(timeout))

    async def submit(
        self,
        deployed_app_rid: str,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        branch: str | None = None,
        timeout: float | None = None,
    ) -> JobHandle:
        """
        Queue a job, and do not wait for it.

        The arguments are those of L{execute}.

        @return: the handle to ask for it with; its C{id} will do, too.
        """
        body = _submission(deployed_app_rid, query_type, query, branch)
        answer = await self._request("POST", f"{CONTOUR}/deployed-apps/jobs", body, timeout=timeout)
        return understand(
            answer, lambda value: JobHandle(value["id"], value["jobHandle"], parse_job_status(value["status"]))
        )

    async def status(self, job: str | JobHandle, wait: float = 0.0) -> JobStatus:
        """
        Ask how a job stands.

        @param job: its id or handle.
        @param wait: seconds that the emulator may hold the answer back until the job has ended, at most 60; in whole
            ones, rounded up.
        """
        return await self._ask(f"{_job_path(job)}/status", parse_job_status, wait)

    async def wait(self, job: str | JobHandle, timeout: float | None = None) -> JobStatus:
        """
        Wait until a job has ended, however it has.

        @param job: its id or handle.
        @param timeout: seconds to wait.
        @raise TimedOut: it has not ended by then.
        """

        async def until_ended() -> JobStatus:
            while not (status := await self.status(job, _LONG_POLL)).state.finished:
                pass
            return status

        return await self._connections.within(timeout, until_ended())

    async def result(self, job: str | JobHandle) -> Result:
        """
        Fetch a job's result, as often as one likes.

        @param job: its id or handle.
        @raise JobNotReady: it has none, or none yet.
        """
        answer = await self._request("GET", f"{_job_path(job)}/result", None, Repeat.ALWAYS)
        return Result(answer.job_id, answer.content)

    async def cancel(self, job: str | JobHandle, only_queued: bool = False) -> None:
        """
        Cancel a job; one that has ended stays as it is.

        @param job: its id or handle.
        @param only_queued: leave it alone if a runtime has it.
        """
        if only_queued:
            await self._request("PUT", f"{_job_path(job)}/soft-cancel", None, Repeat.ALWAYS)
        else:
            await self._request("DELETE", _job_path(job), None, Repeat.ALWAYS)


class RuntimeSession(_Client):
    """
    A runtime, to be scripted: takes jobs and posts their results, as a module's SDK does.

    Made by L{open} or L{join}.

    @ivar runtime_id: the runtime.
    @ivar module_auth_token: what it shows the emulator.
    @ivar get_job_uri: where a job is polled for.
    @ivar post_result_uri: where results are posted, with C{/} and the job's id behind it.
    @ivar post_schema_uri: where function schemas are posted.
    @ivar restart_notification_uri: where a process says that it has come up afresh.
    """

    def __init__(
        self, connections: Connections, runtime_id: str, module_auth_token: str, uris: tuple[str, str, str, str]
    ) -> None:
        super().__init__(connections, {"Module-Auth-Token": module_auth_token})
        self.runtime_id = runtime_id
        self.module_auth_token = module_auth_token
        self.get_job_uri, self.post_result_uri, self.post_schema_uri, self.restart_notification_uri = uris
        self._path = runtime_path(runtime_id)

    @classmethod
    async def open(
        cls,
        url: str,
        runtime_id: str,
        deployed_app_rid: str | None = None,
        branch: str | None = None,
        display_name: str | None = None,
        keep_bindings: bool = False,
        admin_token: str | None = None,
        *,
        reactor: Any = None,
        ca_certificate: str | None = None,
        agent: IAgent | None = None,
        retries: Retries | None = DEFAULT_RETRIES,
    ) -> RuntimeSession:
        """
        Open a session, or reset one: jobs, schemas and token of a runtime with this id are gone.

        The other arguments are those of L{ComputeModules}.

        @param deployed_app_rid: binds this deployed app to the runtime.
        @param branch: of the deployed app; C{master} if it is L{None}.
        @param display_name: of the deployed app.
        @param keep_bindings: leave the bindings that the runtime has.
        @param admin_token: for an emulator that listens beyond loopback.
        """
        connections = Connections(url, reactor, ca_certificate, agent, retries)
        body = {
            "runtimeId": runtime_id,
            "deployedAppRid": deployed_app_rid,
            "branch": branch,
            "displayName": display_name,
            "keepBindings": keep_bindings,
        }
        names = ("getJobUri", "postResultUri", "postSchemaUri", "restartNotificationUri")
        try:
            answer = await _Client(connections, _bearer(admin_token))._request("POST", f"{RUNTIMES}", body)
            return understand(
                answer,
                lambda value: cls(
                    connections, runtime_id, value["moduleAuthToken"], tuple(value[name] for name in names)
                ),
            )
        except BaseException:
            await connections.close()
            raise

    @classmethod
    def join(
        cls,
        url: str,
        runtime_id: str,
        module_auth_token: str,
        *,
        reactor: Any = None,
        ca_certificate: str | None = None,
        agent: IAgent | None = None,
        retries: Retries | None = DEFAULT_RETRIES,
    ) -> RuntimeSession:
        """
        Be a runtime whose token is known, such as one of the seed, as it is.

        The other arguments are those of L{ComputeModules}.
        """
        connections = Connections(url, reactor, ca_certificate, agent, retries)
        base = f"{connections.url}{runtime_path(runtime_id)}"
        uris = (f"{base}/job", f"{base}/results", f"{base}/schemas", f"{base}/restart")
        return cls(connections, runtime_id, module_auth_token, uris)

    async def poll(self, wait: float | None = None) -> ModuleJob | None:
        """
        Ask for a job.

        @param wait: seconds that the emulator may take to find one, at most 60, in whole ones rounded up; L{None} for
            what it is configured with.
        @return: the job, or L{None} if there was none in time.
        @raise AnswerLost: a job may have been on its way; L{restart} ends it.
        """
        answer = await self._request("GET", f"{self._path}/job", wait=wait)
        return None if answer.status == 204 else understand(answer, parse_module_job)

    async def post_result(self, job_id: str, content: JSONValue | Iterator[bytes] | AsyncIterator[bytes]) -> None:
        """
        Post a job's result.

        @param content: bytes; text, which is posted as UTF-8; an iterator or async iterator over chunks of bytes, which
            are streamed; or any other JSON value.
        @raise JobAlreadyCompleted: the job has another result.
        @raise NotFound: this runtime has no such job.
        """
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        path = f"{self._path}/results/{quote(job_id, safe='')}"
        if isinstance(content, Iterator | AsyncIterator):
            await self._connections.request("POST", path, headers, IteratedBody(content), Repeat.UNSENT)
        else:
            await self._connections.request("POST", path, headers, result_bytes(content), Repeat.ALWAYS)

    async def fail_job(self, job_id: str, message: str) -> None:
        """
        End a job as failed, as no SDK does: what a function raises is a result.  A job that has ended stays as it is.

        @param message: why, for the caller.
        @raise NotFound: this runtime has no such job.
        """
        path = f"{self._path}/jobs/{quote(job_id, safe='')}/fail"
        await self._request("POST", path, {"message": message}, Repeat.ALWAYS)

    async def post_schemas(self, schemas: JSONValue) -> None:
        """
        Say what functions there are.

        @param schemas: function schemas, in any form that Foundry takes.
        @raise InvalidRequest: some are none; C{parameters["violations"]} lists them, and nothing was kept.
        """
        await self._request("POST", f"{self._path}/schemas", schemas, Repeat.ALWAYS)

    async def restart(self) -> list[str]:
        """
        Say that the runtime has come up afresh: the jobs that it had have failed.

        @return: their ids.
        """
        return understand(
            await self._request("POST", f"{self._path}/restart"), lambda value: [str(each) for each in value]
        )


class EmulatorControl(_BearerClient):
    """
    What a tester or an administrator does with an emulator: look at it, make things go wrong, start over.

    Its token is a bearer token, or the admin token for an emulator that listens beyond loopback.
    """

    async def info(self) -> EmulatorInfo:
        """Ask how the emulator is reached; this takes no token."""
        return await self._ask(f"{EMULATOR}/info", parse_emulator_info)

    async def runtimes(self) -> list[dict[str, JSONValue]]:
        """
        @return: every runtime, as inspection shows it.
        """
        return await self._ask(f"{RUNTIMES}", parse_records)

    async def runtime(self, runtime_id: str) -> dict[str, JSONValue]:
        """
        @return: one runtime with its queue counts, bindings, faults and schemas, as inspection shows it.
        """
        return await self._ask(runtime_path(runtime_id), dict)

    async def delete_runtime(self, runtime_id: str) -> None:
        """Remove a runtime and end its jobs; only the admin token may."""
        await self._request("DELETE", runtime_path(runtime_id))

    async def jobs(
        self,
        limit: int = 100,
        *,
        runtime_id: str | None = None,
        query_type: str | None = None,
        state: JobState | None = None,
    ) -> list[dict[str, JSONValue]]:
        """
        @param limit: how many at most.
        @return: the jobs that are kept, the last submitted first, as inspection lists them.
        """
        wanted = {"runtime": runtime_id, "function": query_type, "status": None if state is None else state.value}
        found: list[dict[str, JSONValue]] = []
        before = None
        while len(found) < limit:
            page = {**wanted, "limit": min(limit - len(found), _PAGE), "before": before}
            query = urlencode({name: value for name, value in page.items() if value is not None})
            jobs, before = await self._ask(f"{EMULATOR}/jobs?{query}", lambda value: (value["jobs"], value["next"]))
            found += jobs
            if before is None:
                break
        return found

    async def job(self, job_id: str) -> dict[str, JSONValue]:
        """
        @return: all that is known of one job, as inspection shows it.
        """
        return await self._ask(f"{EMULATOR}/jobs/{quote(job_id, safe='')}", dict)

    async def events(self) -> AsyncIterator[tuple[str, JSONValue]]:
        """
        Take part in what changes, as it does, until the emulator stops.

        @return: an async iterator over the kind of each event and its data; the first is C{reload}, once nothing more
            can be missed, and another means that something was: ask anew.
        @raise ResultBrokenOff: the connection is lost.
        """
        body = await self._connections.open("GET", f"{EMULATOR}/events", self._headers, None, Repeat.ALWAYS)
        try:
            yield "reload", {}
            text = b""
            while chunk := await self._connections.within(None, body.next()):
                *events, text = (text + chunk).split(b"\n\n")
                for event in events:
                    kind, _, data = event.partition(b"\n")
                    if kind.startswith(b"event: "):
                        yield kind.decode()[len("event: ") :], json.loads(data[len(b"data: ") :])
        finally:
            body.close()

    async def faults(self) -> list[dict[str, JSONValue]]:
        """
        @return: every fault, and how often it has struck.
        """
        return await self._ask(f"{EMULATOR}/faults", parse_records)

    async def add_fault(self, **fields: JSONValue) -> dict[str, JSONValue]:
        """
        Make something go wrong.

        @param fields: as in the seed: C{kind}, and what the kind takes.
        @return: the fault; C{fault_id} names it.
        @raise InvalidRequest: this is no fault.
        """
        return understand(await self._request("POST", f"{EMULATOR}/faults", fields), dict)

    async def clear_faults(self) -> None:
        """End every fault."""
        await self._request("DELETE", f"{EMULATOR}/faults", None, Repeat.ALWAYS)

    async def remove_fault(self, fault_id: str) -> None:
        """End one fault."""
        await self._request("DELETE", f"{EMULATOR}/faults/{quote(fault_id, safe='')}")

    async def reset(self) -> None:
        """Go back to the seed: no jobs, no schemas, its runtimes, bindings and faults."""
        await self._request("POST", f"{EMULATOR}/reset")


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _job_path(job: str | JobHandle) -> str:
    return job_path(job.id if isinstance(job, JobHandle) else job)


def _submission(deployed_app_rid: str, query_type: str, query: JSONValue, branch: str | None) -> JSONValue:
    return {
        "deployedAppRid": deployed_app_rid,
        "deployedAppBranch": branch,
        "queryType": query_type,
        "query": {} if query is NOTHING else query,
    }
