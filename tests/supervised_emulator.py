"""An emulator in this process whose supervisor starts real processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from inspect import iscoroutine
from pathlib import Path
from typing import Any

from conftest import RUNTIMES, Harness, pause

from twisted_cm.broker.interface import ReplicaSnapshot
from twisted_cm.supervisor.service import SupervisedEmulator

MODULE = Path(__file__).parent / "supervisor" / "module.py"


def seed_of(runtime: dict[str, Any], **modules: Any) -> dict[str, Any]:
    """Return a seed with runtime ``one``, whose module is supervisor/module.py."""
    given = {"runtime_id": "one", "module_auth_token": "token-one", "command": [sys.executable, str(MODULE), "version"]}
    return {
        "tokens": {"app-token": {"login": "jane"}},
        "foundry": {
            "compute_modules": {
                "runtimes": [{**given, **runtime}],
                "deployed_apps": [{"deployed_app_rid": "ri.one", "runtime_id": "one"}],
                **modules,
            }
        },
    }


class Supervised(Harness):
    """An emulator and its supervisor.

    Attributes:
        version: A file that the module reads when it starts.
        directory: The directory of the module.
    """

    def __init__(self, both: SupervisedEmulator, directory: Path) -> None:
        super().__init__(both.emulator)
        self.both = both
        self.supervisor = both.supervisor
        self.directory = directory
        self.version = directory / "version"

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds, at most 30 seconds or so; return what it returned. It may be a coroutine."""
        for _ in range(1500):
            found = condition()
            if iscoroutine(found):
                found = await found
            if found:
                return found
            await pause(0.02)
        raise AssertionError(f"never became true: {self.lines()}")

    async def runtime(self) -> Any:
        """Return the runtime as inspection shows it."""
        status, body, _ = await self.call("GET", f"{RUNTIMES}/one", Authorization="Bearer app-token")
        assert status == 200, body
        return body

    async def until_state(self, state: str) -> Any:
        """Wait until the module's processes are in a state; return what inspection shows of them."""

        async def module() -> Any:
            found = (await self.runtime())["module"]
            return found if found["state"] == state else None

        return await self.until(module)

    async def open_replicas(self) -> list[ReplicaSnapshot]:
        """Return the replicas that are not gone, without the default one."""
        found = await self.broker.replicas("one")
        return [each for each in found if not each.replica.gone and each.replica.replica_id != "default"]

    async def until_connected(self, count: int = 1) -> None:
        """Wait until so many replicas are open, and all of them are connected."""

        async def connected() -> bool:
            found = await self.open_replicas()
            return len(found) == count and all(each.state.connected for each in found)

        await self.until(connected)

    async def until_running(self) -> None:
        """Wait until a replica runs a job."""

        async def running() -> bool:
            return any(each.job_ids for each in await self.open_replicas())

        await self.until(running)

    async def run(self, function: str, query: Any = None) -> Any:
        """Execute a function; return its result, or the error's description."""
        body = {"deployedAppRid": "ri.one", "queryType": function, "query": query}
        status, answer, _ = await self.app("POST", "/compute-modules/jobs/execute", body)
        return json.loads(answer) if status == 200 else answer["error_description"]

    async def submit(self, function: str, query: Any = None) -> str:
        """Submit a job; return its id."""
        body = {"deployedAppRid": "ri.one", "queryType": function, "query": query}
        status, answer, _ = await self.app("POST", "/deployed-apps/jobs", body)
        assert status == 200, answer
        job_id: str = answer["id"]
        return job_id

    def lines(self) -> list[str]:
        """Return what the module and the supervisor have written."""
        return [each.text for each in self.supervisor.output.last("one")]


def gone(pid: int) -> bool:
    """Return whether there is no process with an id, or only one that its parent has not waited for."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()
