"""What docs/debugging.rst says of limits, with a module of the official Python SDK that stands at a breakpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from conftest import RUNTIMES, Server, free_port, kill
from debug_adapter import DebugAdapter
from sdk_processes import SDK_PYTHON, contour, get, submission, until

from twisted_cm.model.replicas import SILENT_AT_WORK_AFTER, Replica, ReplicaState

APP = """\
from compute_modules.annotations import function
from compute_modules.startup import ConcurrencyType, start_compute_module


@function
def add(context, event):
    total = event["a"] + event["b"]
    return total


{start}
"""
BREAKPOINT_LINE = 8
PROCESSES = "start_compute_module()"
THREADS = "start_compute_module(ConcurrencyType.THREAD_POOL)"

#: Starts a module under debugpy and a debugger, which has set a breakpoint.
Debug = Callable[..., "tuple[DebugAdapter, Popen[bytes], tuple[Path, int]]"]


@pytest.fixture
def debug(tmp_path: Path) -> Iterator[Debug]:
    """Return a function that starts a module under debugpy and attaches to it; end both later."""
    started: list[Popen[bytes]] = []
    debuggers: list[DebugAdapter] = []

    def start(server: Server, start: str = PROCESSES) -> tuple[DebugAdapter, Popen[bytes], tuple[Path, int]]:
        breakpoint = (tmp_path / "app.py", BREAKPOINT_LINE)
        breakpoint[0].write_text(APP.format(start=start))
        port = free_port()
        join = ("exec", "--runtime", "one", "--module-auth-token", "token-one", "--", SDK_PYTHON)
        listen = ("-m", "debugpy", "--listen", f"127.0.0.1:{port}", "--wait-for-client", str(breakpoint[0]))
        process = server.start(*join, *listen)
        started.append(process)
        debuggers.append(DebugAdapter.connect("127.0.0.1", port, process))
        debuggers[0].debug(breakpoint, request="attach")
        return debuggers[0], process, breakpoint

    yield start
    for debugger in debuggers:
        debugger.close()
    for process in started:
        kill(process)


@pytest.fixture
def impatient(tmp_path: Path, state_dir: Path) -> Iterator[Server]:
    """Start a server whose synchronous callers and polls park for a second."""
    server = Server(tmp_path, state_dir, "--sync-timeout", "1", "--poll-timeout", "1")
    yield server
    server.stop()


def replica(server: Server) -> Any:
    """Return the replica that ``exec`` has opened."""
    (found,) = (each for each in get(server, f"{RUNTIMES}/one/replicas") if each["replica_id"] != "default")
    return found


def status(server: Server, job_id: str) -> str:
    """Return the status of a job."""
    kind: str = json.loads(contour(server, "GET", f"/jobs/{job_id}/status"))["type"]
    return kind


def submit(server: Server) -> str:
    """Submit a job that nobody waits for; return its id."""
    job_id: str = json.loads(contour(server, "POST", "/deployed-apps/jobs", submission("add", {"a": 2, "b": 40})))["id"]
    return job_id


@pytest.mark.parametrize(
    ("options", "said"),
    [((), b"Timed out waiting for"), (("--timeout", "0.9"), b"There was no answer within")],
)
def test_a_caller_gives_up_and_the_job_runs_on(
    impatient: Server, debug: Debug, options: tuple[str, ...], said: bytes
) -> None:
    debugger, process, breakpoint = debug(impatient)
    worker = debugger.subprocess(breakpoint, process)
    until(lambda: replica(impatient)["state"] == "responsive", process)
    caller = impatient.start("submit", *options, "ri.one", "add", '{"a": 2, "b": 40}')
    thread = worker.stopped()
    assert worker.local_variables(thread)["total"] == "42"
    assert said in caller.communicate(timeout=30)[0]
    (job,) = json.loads(impatient.cm("jobs", "--json").stdout)
    assert status(impatient, job["job_id"]) == "running"
    worker.request("continue", threadId=thread)
    until(lambda: status(impatient, job["job_id"]) == "succeeded", process)
    assert b"42" in impatient.cm("job", "last").stdout.splitlines()[-1]


def test_a_caller_that_gives_up_takes_a_queued_job_along(impatient: Server) -> None:
    impatient.start("submit", "--timeout", "0.5", "ri.one", "add", "{}").communicate(timeout=30)
    (job,) = json.loads(impatient.cm("jobs", "--json").stdout)
    assert job["status"] == "canceled"


def test_a_job_stays_queued_until_the_debugger_is_there(server: Server, debug: Debug) -> None:
    job_id = submit(server)
    debugger, process, breakpoint = debug(server)
    worker = debugger.subprocess(breakpoint, process)
    worker.request("continue", threadId=worker.stopped())
    until(lambda: status(server, job_id) == "succeeded", process)


@pytest.mark.parametrize("server", ["job_lease: 1"], indirect=True)
def test_a_job_with_a_lease_reaches_the_breakpoint_again(server: Server, debug: Debug) -> None:
    debugger, process, breakpoint = debug(server)
    job_id = submit(server)
    worker = debugger.subprocess(breakpoint, process)
    thread = worker.stopped()
    until(lambda: len(json.loads(server.cm("job", "--json", job_id).stdout)["attempts"]) == 2, process)
    worker.request("continue", threadId=thread)
    worker.request("continue", threadId=worker.stopped())
    until(lambda: status(server, job_id) == "succeeded", process)


def test_the_main_process_polls_while_a_worker_stands_still(impatient: Server, debug: Debug) -> None:
    debugger, process, breakpoint = debug(impatient)
    submit(impatient)
    worker = debugger.subprocess(breakpoint, process)
    worker.stopped()
    polled = replica(impatient)["last_poll_at"]
    until(lambda: replica(impatient)["last_poll_at"] > polled, process)


def test_all_threads_stand_still(impatient: Server, debug: Debug) -> None:
    debugger, process, _ = debug(impatient, THREADS)
    job_id = submit(impatient)
    thread = debugger.stopped()
    until(lambda: replica(impatient)["parked_polls"] == 0, process)
    assert debugger.local_variables(thread)["total"] == "42"
    debugger.request("continue", threadId=thread)
    until(lambda: status(impatient, job_id) == "succeeded", process)
    # It polls again.
    until(lambda: replica(impatient)["parked_polls"] == 1, process)


def test_a_replica_at_work_counts_as_silent_after_300_seconds_without_a_poll() -> None:
    assert SILENT_AT_WORK_AFTER == 300
    replica = Replica("one", "r", "token", 1, opened_at=0, last_poll_at=0, last_heard_at=0)
    assert replica.state(1, 0, 300_000) is ReplicaState.BUSY
    assert replica.state(1, 1, 300_001) is ReplicaState.BUSY
    assert replica.state(1, 0, 300_001) is ReplicaState.SILENT and not ReplicaState.SILENT.connected


def test_a_module_that_starts_at_the_exit_of_the_interpreter_has_no_debugger(server: Server, debug: Debug) -> None:
    debugger, process, _ = debug(server, "")
    debugger.event("terminated")
    until(lambda: replica(server)["state"] == "responsive", process)
    # There was no worker to attach to.
    assert not any(event["event"] == "debugpyAttach" for event in debugger.events)
