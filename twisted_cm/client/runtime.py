"""The client of a runtime: take jobs and post results, as a module's SDK does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

from attrs import frozen
from typing_extensions import Unpack

from ..model.paths import RUNTIMES, runtime_path
from ..model.types import JSONValue
from .base import Client, bearer, json_request
from .connections import ConnectionOptions, Connections, Request
from .records import ModuleJob, parse_module_job
from .retries import Repeat
from .uploads import IteratedBody, result_bytes


@frozen
class SessionURIs:
    """The absolute URIs of a runtime's routes, as a session hands them out (contract section 1)."""

    get_job: str
    post_result: str
    post_schema: str
    restart_notification: str


class RuntimeSession(Client):
    """A runtime for scripts and tests. :meth:`open` or :meth:`join` makes one.

    Attributes:
        runtime_id: The runtime's id.
        module_auth_token: The token with which the runtime authenticates.
        get_job_uri: Where the runtime polls for jobs.
        post_result_uri: Where the runtime posts results, followed by ``/`` and the job's id.
        post_schema_uri: Where the runtime posts function schemas.
        restart_notification_uri: Where a process reports that it has restarted.
    """

    def __init__(self, connections: Connections, runtime_id: str, module_auth_token: str, uris: SessionURIs) -> None:
        super().__init__(connections, {"Module-Auth-Token": module_auth_token})
        self.runtime_id = runtime_id
        self.module_auth_token = module_auth_token
        self.get_job_uri = uris.get_job
        self.post_result_uri = uris.post_result
        self.post_schema_uri = uris.post_schema
        self.restart_notification_uri = uris.restart_notification
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
        **options: Unpack[ConnectionOptions],
    ) -> RuntimeSession:
        """Open a session for a runtime. If the runtime exists, this resets its jobs, schemas and token.

        The remaining keyword arguments are those of :class:`ComputeModules`.

        Args:
            url: The emulator's base URL, http or https.
            runtime_id: The runtime's id.
            deployed_app_rid: The deployed app that the runtime is to serve.
            branch: The branch of the deployed app; ``master`` by default.
            display_name: The display name of the deployed app.
            keep_bindings: Whether the runtime keeps the deployed apps that it serves already.
            admin_token: The admin token. An emulator that listens only on loopback needs none.
        """
        connections = Connections(url, **options)
        body = {
            "runtimeId": runtime_id,
            "deployedAppRid": deployed_app_rid,
            "branch": branch,
            "displayName": display_name,
            "keepBindings": keep_bindings,
        }
        try:
            answer = await connections.send(json_request("POST", RUNTIMES, bearer(admin_token), body))
            return answer.parse(
                lambda value: cls(
                    connections,
                    runtime_id,
                    value["moduleAuthToken"],
                    SessionURIs(
                        value["getJobUri"],
                        value["postResultUri"],
                        value["postSchemaUri"],
                        value["restartNotificationUri"],
                    ),
                )
            )
        except BaseException:
            await connections.close()
            raise

    @classmethod
    def join(
        cls, url: str, runtime_id: str, module_auth_token: str, **options: Unpack[ConnectionOptions]
    ) -> RuntimeSession:
        """Use a runtime with a known token, such as a seeded one, without opening a session.

        The remaining keyword arguments are those of :class:`ComputeModules`.

        Args:
            url: The emulator's base URL, http or https.
            runtime_id: The runtime's id.
            module_auth_token: The runtime's token.
        """
        connections = Connections(url, **options)
        base = f"{connections.url}{runtime_path(runtime_id)}"
        uris = SessionURIs(f"{base}/job", f"{base}/results", f"{base}/schemas", f"{base}/restart")
        return cls(connections, runtime_id, module_auth_token, uris)

    async def poll(self, wait: float | None = None) -> ModuleJob | None:
        """Poll for a job; return ``None`` if there was none in time.

        Args:
            wait: Seconds that the emulator may park the poll, at most 60, rounded up to whole seconds; by default, what
                the emulator is configured with.

        Raises:
            AnswerLost: The lost answer may have held a job. :meth:`restart` ends such a job.
        """
        answer = await self._send("GET", f"{self._path}/job", wait=wait)
        return None if answer.status == 204 else answer.parse(parse_module_job)

    async def post_result(self, job_id: str, content: JSONValue | Iterator[bytes] | AsyncIterator[bytes]) -> None:
        """Post a job's result.

        Args:
            job_id: The job's id.
            content: Bytes; text, posted as UTF-8; an iterator or async iterator over chunks of bytes, which are
                streamed; or any other JSON value.

        Raises:
            JobAlreadyCompleted: The job already has a different result.
            NotFound: The runtime has no such job.
        """
        # An iterator can be read only once, so a request that was sent cannot be repeated.
        iterated = isinstance(content, Iterator | AsyncIterator)
        request = Request(
            "POST",
            f"{self._path}/results/{quote(job_id, safe='')}",
            {**self._headers, "Content-Type": "application/octet-stream"},
            IteratedBody(content) if iterated else result_bytes(content),
            Repeat.UNSENT if iterated else Repeat.ALWAYS,
        )
        await self._connections.send(request)

    async def fail_job(self, job_id: str, message: str) -> None:
        """End a job as failed. A job that has ended stays as it is.

        No SDK does this: an SDK posts a function's exception as a result.

        Args:
            job_id: The job's id.
            message: The reason that the job's caller sees.

        Raises:
            NotFound: The runtime has no such job.
        """
        path = f"{self._path}/jobs/{quote(job_id, safe='')}/fail"
        await self._send("POST", path, {"message": message}, Repeat.ALWAYS)

    async def post_schemas(self, schemas: JSONValue) -> None:
        """Report which functions the runtime has. This replaces what it reported before.

        Args:
            schemas: Function schemas, in any form that Foundry accepts.

        Raises:
            InvalidRequest: Some schemas are invalid, and the emulator stored none.
                ``parameters["violations"]`` lists what is wrong.
        """
        await self._send("POST", f"{self._path}/schemas", schemas, Repeat.ALWAYS)

    async def restart(self) -> list[str]:
        """Report that the runtime's process has restarted. Its running jobs fail; return their ids."""
        answer = await self._send("POST", f"{self._path}/restart")
        return answer.parse(lambda value: [str(each) for each in value])
