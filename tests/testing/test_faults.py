"""A method for each kind of fault, on emulators in a process and in the reactor."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.request import Request, urlopen

import pytest
import pytest_twisted
from conftest import CONTOUR

from twisted_cm.client import InvalidRequest, JobFailed
from twisted_cm.model.faults import FaultKind
from twisted_cm.testing import Emulator, EmulatorProcess, FakeRuntime, ThreadRuntime
from twisted_cm.testing.faults import Faults

RID = "ri.faulty"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    started = EmulatorProcess.start(directory=tmp_path_factory.mktemp("emulator"))
    yield started
    started.stop()


@pytest.fixture
def emulator(process: EmulatorProcess) -> Iterator[EmulatorProcess]:
    process.reset()
    yield process
    process.dismiss()


@pytest.fixture
def runtime(emulator: EmulatorProcess) -> ThreadRuntime:
    made = ThreadRuntime("faulty", RID)
    made.function(lambda query: query, name="echo")
    return emulator.run(made)


def execute(emulator: EmulatorProcess, query: Any = 1) -> Any:
    return emulator.execute("echo", query, deployed_app_rid=RID).json()


def faults(emulator: EmulatorProcess) -> list[Any]:
    """Return the faults that can affect the runtime."""
    return list(emulator.runtimes()[0]["faults"])


def test_each_kind_has_a_method_of_its_name() -> None:
    kinds = {each.value for each in FaultKind}
    assert {name for name in vars(Faults) if not name.startswith("_")} == kinds
    # Each method adds its own kind.
    recorder: Faults[Any] = Faults(lambda fields: fields["kind"])
    arguments = {"delay_dispatch": {"seconds": 1.0}, "delay_result": {"seconds": 1.0}}
    assert {kind: getattr(recorder, kind)(**arguments.get(kind, {})) for kind in kinds} == {
        each: each for each in kinds
    }


@pytest.mark.parametrize("kind", ["delay_dispatch", "delay_result"])
def test_delays(emulator: EmulatorProcess, runtime: ThreadRuntime, kind: str) -> None:
    with getattr(emulator.faults, kind)(seconds=0.3, function="echo"):
        began = time.monotonic()
        assert execute(emulator) == 1
        assert time.monotonic() - began >= 0.3


def test_failed_jobs(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    with emulator.faults.fail_job(message="no luck"), pytest.raises(JobFailed, match="no luck"):
        execute(emulator)
    # The fault is gone at the end of the block.
    assert execute(emulator) == 1
    assert [each.query for each in runtime.calls] == [1]


def test_dropped_jobs(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    emulator.faults.drop_job(count=1)
    dropped = emulator.enqueue("echo", 1, deployed_app_rid=RID)
    assert execute(emulator, 2) == 2
    assert emulator.job(dropped.job_id).state.value == "queued"


def test_refused_polls(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    emulator.faults.poll_error(count=2)
    # The runtime polls again after each refusal, until it gets the third job.
    assert [execute(emulator, query) for query in range(3)] == [0, 1, 2]
    (fault,) = faults(emulator)
    assert (fault["kind"], fault["struck"]) == ("poll_error", 2)


def test_refused_tokens(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    with emulator.faults.expire_token():
        # The poll of the runtime is parked already; its result is refused.
        with pytest.raises(TimeoutError):
            emulator.execute("echo", 1, deployed_app_rid=RID, timeout=0.1)
        assert faults(emulator)[0]["struck"] >= 1
    assert execute(emulator, 2) == 2


def test_results_that_are_cut(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    body = {"deployedAppRid": RID, "queryType": "echo", "query": "x" * 100_000}
    asked = Request(
        f"{emulator.url}{CONTOUR}/compute-modules/jobs/execute",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {emulator.token}"},
    )
    emulator.faults.cut_result(count=1)
    with urlopen(asked, timeout=30) as answer, pytest.raises((IncompleteRead, ConnectionError)):
        answer.read()


def test_jobs_that_run_twice(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    # The second run does not begin if the first one has ended before.
    both = Barrier(2)

    @runtime.function
    def meet(query: Any) -> Any:
        both.wait(30)
        return query

    emulator.faults.duplicate_delivery(count=1)
    assert emulator.execute("meet", 1, deployed_app_rid=RID).json() == 1
    assert execute(emulator, 2) == 2
    assert [each.query for each in runtime.calls].count(1) == 2


def test_the_server_gets_all_options(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    options: Any = {"count": 3, "runtime_id": "faulty", "probability": 0.5, "random_seed": 7}
    emulator.faults.delay_result(seconds=1.5, function="echo", **options)
    emulator.faults.poll_error(status=401, **options)
    added = [{name: value for name, value in each.items() if name != "fault_id"} for each in faults(emulator)]
    counters = {"struck": 0, "spent": False}
    assert {**options, **counters, "kind": "delay_result", "seconds": 1.5, "function": "echo"} in added
    assert next(each for each in added if each["kind"] == "poll_error")["status"] == 401


def test_a_fault_that_is_not_valid(emulator: EmulatorProcess) -> None:
    with pytest.raises(InvalidRequest, match="seconds"):
        emulator.faults.delay_result(seconds=-1)


def test_a_reset_in_the_block(emulator: EmulatorProcess, runtime: ThreadRuntime) -> None:
    with emulator.faults.fail_job():
        emulator.reset()
        assert execute(emulator) == 1


@pytest_twisted.ensureDeferred
async def test_in_the_reactor() -> None:
    emulator = await Emulator.start(in_memory=True)
    runtime = FakeRuntime("faulty", RID)
    runtime.function(lambda query: query, name="echo")
    await emulator.run(runtime)
    application = emulator.application()
    try:
        async with emulator.faults.fail_job(message="no luck"):
            with pytest.raises(JobFailed, match="no luck"):
                await application.execute(RID, "echo", 1)
        assert (await application.execute(RID, "echo", 1)).json() == 1
        fault = await emulator.faults.fail_job(count=1, function="echo")
        assert [each["fault_id"] for each in await emulator.control().faults()] == [fault.fault_id]
        with pytest.raises(JobFailed):
            await application.execute(RID, "echo", 1)
        await fault.remove()
        assert await emulator.control().faults() == []
        with pytest.raises(InvalidRequest, match="seconds"):
            await emulator.faults.delay_dispatch(seconds=-1)
    finally:
        await emulator.stop()


def test_the_seed_file_of_a_process_is_known(tmp_path: Path) -> None:
    started = EmulatorProcess.start({"tokens": {"mine": {}}}, directory=tmp_path)
    try:
        assert started.directory == tmp_path
        assert started.seed_file is not None and "mine" in started.seed_file.read_text()
    finally:
        started.stop()
