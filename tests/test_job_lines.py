"""The line in the log for each finished job."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest_twisted
from conftest import Server, logged, make_harness, pause, serve_one
from redis_server import RedisServer
from terminal import enqueue, module
from twisted.logger import Logger, LogPublisher

from twisted_cm.logs import FinishedJob, log_observer

RAISED = b'{"exception": "hush"}'
LINE = re.compile(r"\d\d:\d\d:\d\d (\S+) (\S+) \d+ ms (\S+) …(\w{4})")


class Tty(io.StringIO):
    """A file that counts as a terminal."""

    def isatty(self) -> bool:
        return True


def finish_four(server: Server) -> list[tuple[str, str]]:
    """Let a job end in each way; return the state and the id of each."""
    ended = []
    for state, path, body in (
        ("succeeded", "/results/{}", b'"hush"'),
        ("raised", "/results/{}", RAISED),
        ("failed", "/jobs/{}/fail", b'{"message": "hush"}'),
    ):
        job_id = enqueue(server, "add", {"password": "hush"})
        module(server, "one", "/job")
        module(server, "one", path.format(job_id), body)
        ended.append((state, job_id))
    # A caller that gives up cancels its job.
    ran = server.cm("submit", "ri.one", "add", "--timeout", "0.2")
    assert ran.returncode == 1
    listed = json.loads(server.cm("jobs", "--json", "--status", "canceled").stdout)
    return [*ended, ("canceled", listed[0]["job_id"])]


def test_serve_logs_a_line_for_each_finished_job(server: Server) -> None:
    ended = finish_four(server)
    server.stop()
    found = [match.groups() for match in map(LINE.fullmatch, server.log.splitlines()) if match]
    assert found == [("add", state, "one", job_id[-4:]) for state, job_id in ended]
    assert "hush" not in server.log


def test_the_same_is_in_fields_of_json(tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir, "--log-format", "json")
    try:
        ended = finish_four(server)
    finally:
        server.stop()
    events: list[dict[str, Any]] = [json.loads(line) for line in server.log.splitlines() if "job_lines" in line]
    assert [(each["state"], each["job_id"]) for each in events] == ended
    for each in events:
        assert (each["level"], each["function"], each["runtime_id"]) == ("info", "add", "one")
        assert each["message"] == f"add {each['state']} {each['duration_ms']} ms one …{each['job_id'][-4:]}"
    assert "hush" not in server.log


def test_a_job_that_never_ran_took_the_time_since_it_was_submitted(server: Server) -> None:
    assert server.cm("submit", "ri.one", "add", "--timeout", "0.3").returncode == 1
    (job,) = json.loads(server.cm("jobs", "--json", "--status", "canceled").stdout)
    server.stop()
    assert job["completed_at"] > job["queued_at"]
    assert f" add canceled {job['completed_at'] - job['queued_at']} ms one " in server.log


def written(file: io.StringIO, function: str = "add", duration: int = 7) -> str:
    log = Logger("twisted_cm.job_lines", observer=LogPublisher(log_observer(file, "text")))
    log.info(
        "{finished_job}", finished_job=FinishedJob("foundry_job_aa4aa5", "my-runtime", function, "raised", duration)
    )
    return file.getvalue()


def test_the_state_is_colored_on_a_terminal_only() -> None:
    assert written(Tty())[8:] == " add \x1b[31mraised\x1b[0m 7 ms my-runtime …4aa5\n"
    assert written(io.StringIO())[8:] == " add raised 7 ms my-runtime …4aa5\n"


def test_a_name_cannot_control_the_terminal() -> None:
    assert written(Tty(), "a\n\x1b[2J\u202e")[8:].startswith(" a\\n\\x1b[2J\\u202e \x1b[31mraised")


def test_a_long_time_is_in_seconds() -> None:
    assert " raised 9999 ms " in written(io.StringIO(), duration=9999)
    assert " raised 12.3 s " in written(io.StringIO(), duration=12_345)


@pytest_twisted.ensureDeferred
async def test_of_two_nodes_one_logs_a_job(redis_server: RedisServer) -> None:
    assert redis_server.command("FLUSHALL") == b"+OK\r\n"
    nodes = [make_harness(broker=redis_server.url) for _ in range(2)]
    try:
        seen: list[list[str]] = [[], []]
        for node, states in zip(nodes, seen, strict=True):
            while not (await node.service.readiness())["seed"]:
                await pause(0.01)
            node.broker.observe(_finished(states))
        with logged(" succeeded ") as lines:
            caller = nodes[0].execute()
            await serve_one(nodes[1], b"1")
            assert (await caller)[:2] == (200, b"1")
            # When both nodes know of the end, a second line would be there.
            await nodes[0].until(lambda: all(seen))
        assert len(lines) == 1 and lines[0].startswith("f succeeded ")
    finally:
        for node in nodes:
            await node.pool.closeCachedConnections()
            await node.service.stopService()


def _finished(states: list[str]) -> Callable[[Any], None]:
    def changed(change: Any) -> None:
        if change.job is not None and change.job.state.finished:
            states.append(change.job.state.value)

    return changed
