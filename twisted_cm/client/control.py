"""The client of a tester or administrator: inspect an emulator, inject faults, reset it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from urllib.parse import quote, urlencode

from ..model.paths import EMULATOR, RUNTIMES, runtime_path
from ..model.types import JSONValue
from .base import BearerClient
from .connections import Request
from .errors import not_an_emulator
from .raw_json import KeptJob, RawJSON, with_query
from .records import EmulatorInfo, parse_emulator_info, parse_objects
from .retries import Repeat

#: The maximum number of jobs in one answer of the emulator.
_PAGE = 1000


class EmulatorControl(BearerClient):
    """A client that inspects an emulator, injects faults and resets the emulator.

    Its token is a bearer token, or the admin token if the emulator listens beyond loopback. The keyword arguments are
    those of :class:`ComputeModules`.
    """

    async def info(self) -> EmulatorInfo:
        """Return the emulator's addresses and limits. This needs no token."""
        return await self._get(f"{EMULATOR}/info", parse_emulator_info)

    async def runtimes(self) -> list[dict[str, JSONValue]]:
        """Return every runtime, as inspection shows it."""
        return await self._get(RUNTIMES, parse_objects)

    async def runtime(self, runtime_id: str) -> dict[str, JSONValue]:
        """Return one runtime with its queue counts, replicas, bindings, faults and schemas, as inspection shows it."""
        return await self._get(runtime_path(runtime_id), dict)

    async def replicas(self, runtime_id: str) -> list[dict[str, JSONValue]]:
        """Return the replicas of a runtime, as inspection shows them: the default one, then those that were opened.

        The last replicas that are gone are among them, each with the reason in ``ended_why``.
        """
        return await self._get(f"{runtime_path(runtime_id)}/replicas", parse_objects)

    async def module_output(self, runtime_id: str, lines: int | None = None) -> list[dict[str, JSONValue]]:
        """Return the last lines that the modules of a runtime wrote, if the emulator starts them.

        Args:
            runtime_id: The runtime.
            lines: The number of lines; ``None`` for all that are kept.

        Returns:
            Objects with the keys ``replica_id`` (``None`` if the emulator wrote it), ``written_at`` (milliseconds since
            the epoch) and ``text``.
        """
        query = "" if lines is None else f"?lines={lines}"
        answer = await self._send("GET", f"{runtime_path(runtime_id)}/module/output{query}", None, Repeat.ALWAYS)
        return [json.loads(line) for line in answer.content.splitlines()]

    async def follow_module_output(
        self, runtime_id: str, lines: int | None = None
    ) -> AsyncGenerator[dict[str, JSONValue], None]:
        """Yield the lines of :meth:`module_output`, and each new one until the emulator stops.

        Raises:
            ResultBrokenOff: The connection was lost.
        """
        query = "follow=true" if lines is None else f"follow=true&lines={lines}"
        path = f"{runtime_path(runtime_id)}/module/output?{query}"
        body = await self._connections.open(self._request("GET", path, None, Repeat.ALWAYS))
        try:
            text = b""
            while chunk := await self._connections.within(None, body.next()):
                *found, text = (text + chunk).split(b"\n")
                for line in filter(None, found):
                    yield json.loads(line)
        finally:
            body.close()

    async def restart_module(self, runtime_id: str) -> None:
        """Replace the processes of a runtime's module by new ones, if the emulator starts them."""
        await self._send("POST", f"{runtime_path(runtime_id)}/module/restart")

    async def delete_runtime(self, runtime_id: str) -> None:
        """Delete a runtime and end its jobs. This needs the admin token."""
        await self._send("DELETE", runtime_path(runtime_id))

    async def jobs(
        self,
        limit: int = 100,
        *,
        runtime_id: str | None = None,
        query_type: str | None = None,
        status: str | None = None,
    ) -> list[dict[str, JSONValue]]:
        """Return the jobs that the emulator keeps, the latest first, as inspection lists them.

        Args:
            limit: The maximum number of jobs.
            runtime_id: Only jobs of this runtime.
            query_type: Only jobs of this function.
            status: Only jobs with this status: the value of a state, or ``raised``. Jobs whose function raised are not
                among those that ``succeeded``.
        """
        wanted = {"runtime": runtime_id, "function": query_type, "status": status}
        found: list[dict[str, JSONValue]] = []
        before = None
        while len(found) < limit:
            page = {**wanted, "limit": min(limit - len(found), _PAGE), "before": before}
            query = urlencode({name: value for name, value in page.items() if value is not None})
            jobs, before = await self._get(f"{EMULATOR}/jobs?{query}", lambda value: (value["jobs"], value["next"]))
            found += jobs
            if before is None:
                break
        return found

    async def job(self, job_id: str) -> dict[str, JSONValue]:
        """Return everything that the emulator knows about one job, as inspection shows it."""
        return await self._get(f"{EMULATOR}/jobs/{quote(job_id, safe='')}", dict)

    async def job_with_query(self, job_id: str) -> KeptJob:
        """Return a job with its query as the bytes that were sent."""
        answer = await self._send("GET", f"{EMULATOR}/jobs/{quote(job_id, safe='')}", None, Repeat.ALWAYS)
        try:
            return KeptJob.parse(answer.content)
        except ValueError:
            raise not_an_emulator(answer.status) from None

    async def enqueue(self, runtime_id: str, query_type: str, query: JSONValue | RawJSON) -> str:
        """Queue a job at its runtime, without a deployed app; return its id."""
        headers = {**self._headers, "Content-Type": "application/json"}
        content = with_query({"queryType": query_type}, query)
        request = Request("POST", f"{runtime_path(runtime_id)}/jobs", headers, content)
        return (await self._connections.send(request)).parse(lambda value: str(value["job_id"]))

    async def events(self) -> AsyncGenerator[tuple[str, JSONValue], None]:
        """Yield the kind and data of each change in the emulator, until the emulator stops.

        The first event is ``reload``: every later change will be reported. Another ``reload`` means that changes were
        missed, so the caller asks for the current state again.

        Raises:
            ResultBrokenOff: The connection was lost.
        """
        body = await self._connections.open(self._request("GET", f"{EMULATOR}/events", None, Repeat.ALWAYS))
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
        """Return every fault with the number of times that it has struck."""
        return await self._get(f"{EMULATOR}/faults", parse_objects)

    async def add_fault(self, **fields: JSONValue) -> dict[str, JSONValue]:
        """Inject a fault; return it. Its ``fault_id`` identifies it.

        Args:
            fields: The fields of a fault in the seed: ``kind``, and what the kind takes.

        Raises:
            InvalidRequest: The fields describe no fault.
        """
        return (await self._send("POST", f"{EMULATOR}/faults", fields)).parse(dict)

    async def clear_faults(self) -> None:
        """Remove every fault."""
        await self._send("DELETE", f"{EMULATOR}/faults", None, Repeat.ALWAYS)

    async def remove_fault(self, fault_id: str) -> None:
        """Remove one fault."""
        await self._send("DELETE", f"{EMULATOR}/faults/{quote(fault_id, safe='')}")

    async def reset(self, keep_replicas: bool = False) -> None:
        """Reset the emulator to its seed: the seed's runtimes, bindings and faults, no jobs and no schemas.

        Args:
            keep_replicas: Keep the open replicas of the seed's runtimes, and the schemas of these runtimes: modules
                that run stay connected.
        """
        await self._send("POST", f"{EMULATOR}/reset" + ("?keep=replicas" if keep_replicas else ""))
