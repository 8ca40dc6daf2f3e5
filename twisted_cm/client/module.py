"""What the clients of a runtime and of a replica have in common: they take jobs and post results, as an SDK does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar
from urllib.parse import quote

from attrs import frozen

from ..model.types import JSONValue
from .base import Client
from .connections import Connections, Request
from .records import ModuleJob, parse_module_job
from .retries import Repeat
from .uploads import IteratedBody, result_bytes

T = TypeVar("T")


@frozen
class SessionURIs:
    """The absolute URIs of the routes of a runtime or of a replica, as a session names them (contract section 1)."""

    get_job: str
    post_result: str
    post_schema: str
    restart_notification: str

    @classmethod
    def parse(cls, value: JSONValue) -> SessionURIs:
        """Return the URIs of a session on the wire."""
        return cls(value["getJobUri"], value["postResultUri"], value["postSchemaUri"], value["restartNotificationUri"])

    @classmethod
    def under(cls, base: str) -> SessionURIs:
        """Return the URIs of the routes under a URL."""
        return cls(f"{base}/job", f"{base}/results", f"{base}/schemas", f"{base}/restart")


async def send_opening(connections: Connections, request: Request, make: Callable[[JSONValue], T]) -> T:
    """Send the request that opens a session, and make a client of the answer. If that fails, close the connections."""
    try:
        return (await connections.send(request)).parse(make)
    except BaseException:
        await connections.close()
        raise


class ModuleClient(Client):
    """A client that acts as the process of a runtime or of a replica.

    Attributes:
        runtime_id: The runtime's id.
        module_auth_token: The token with which the process authenticates.
        get_job_uri: Where the process polls for jobs.
        post_result_uri: Where the process posts results, followed by ``/`` and the job's id.
        post_schema_uri: Where the process posts function schemas.
        restart_notification_uri: Where the process reports that it has restarted.
    """

    def __init__(
        self, connections: Connections, runtime_id: str, path: str, module_auth_token: str, uris: SessionURIs
    ) -> None:
        super().__init__(connections, {"Module-Auth-Token": module_auth_token})
        self.runtime_id = runtime_id
        self.module_auth_token = module_auth_token
        self.get_job_uri = uris.get_job
        self.post_result_uri = uris.post_result
        self.post_schema_uri = uris.post_schema
        self.restart_notification_uri = uris.restart_notification
        self._path = path

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
        """Report that the process has restarted. The jobs that it ran fail; return their ids."""
        answer = await self._send("POST", f"{self._path}/restart")
        return answer.parse(lambda value: [str(each) for each in value])
