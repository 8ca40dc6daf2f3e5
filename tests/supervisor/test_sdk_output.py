"""What the official Python SDK writes belongs to the job that it writes it for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest_twisted
from conftest import ROOT
from sdk_processes import SDK_PYTHON
from supervised_emulator import Supervised

Start = Callable[..., Awaitable[Supervised]]
COMMAND = [SDK_PYTHON, str(ROOT / "tests" / "sdk" / "logs.py")]


async def output_of(emulator: Supervised, job_id: str) -> str:
    async def kept() -> str | None:
        return (await emulator.broker.job(job_id)).output

    found: str = await emulator.until(kept)
    return found


@pytest_twisted.ensureDeferred
async def test_one_job_at_a_time_has_all_lines(supervised: Start) -> None:
    emulator = await supervised(command=COMMAND)
    await emulator.until_connected()
    go = emulator.directory / "go"
    go.touch()
    for name in ("one", "two"):
        job_id = await emulator.submit("note", {"name": name, "until": str(go)})
        output = await output_of(emulator, job_id)
        assert [part in output for part in (f"begin {name}", f"print {name}", f"end {name}")] == [True] * 3
        assert "one" not in output or name == "one"


@pytest_twisted.ensureDeferred
async def test_of_several_jobs_each_has_the_lines_that_name_it(supervised: Start) -> None:
    emulator = await supervised(command=COMMAND, max_concurrent_tasks=2)
    await emulator.until_connected()
    go = emulator.directory / "go"
    ids = {name: await emulator.submit("note", {"name": name, "until": str(go)}) for name in ("one", "two")}
    await emulator.until(lambda: sum("begin " in line for line in emulator.lines()) == 2)
    go.touch()
    for name, job_id in ids.items():
        output = await output_of(emulator, job_id)
        assert f"begin {name}" in output and f'"job_id": "{job_id}"' in output
        assert all(job_id in line for line in output.splitlines() if "begin" in line)
