"""A node that is suspended, as by a debugger or a paused container, while it has a poll of a module."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from urllib.request import Request, urlopen

import pytest
from conftest import ROOT
from emulator import RUNTIME, Emulator, read_answer
from redis_server import RedisServer

pytestmark = pytest.mark.long

POLL = f"GET {RUNTIME}/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: module-token\r\n\r\n".encode()


def parked_polls(emulator: Emulator) -> int:
    """Return the number of polls that are parked at all nodes."""
    request = Request(emulator.urls["http"] + RUNTIME, headers={"Authorization": "Bearer token"})
    with urlopen(request, timeout=30) as answer:
        return int(json.load(answer)["parked_polls"])


def until_parked(emulator: Emulator) -> None:
    """Wait until a poll is parked."""
    for _ in range(500):
        if parked_polls(emulator):
            return
        time.sleep(0.02)
    raise AssertionError("no poll was parked")


def post(emulator: Emulator, job_id: str, result: bytes) -> None:
    """Post the result of a job."""
    url = f"{emulator.urls['http']}{RUNTIME}/results/{job_id}"
    with urlopen(Request(url, result, {"Module-Auth-Token": "module-token"}), timeout=30) as answer:
        assert answer.status == 204


@pytest.mark.parametrize("lease", [None, 60], ids=["no lease", "lease"])
@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL], ids=["resumed", "killed"])
def test_its_job_goes_to_another_poll_and_to_that_alone(
    redis: RedisServer, end: signal.Signals, lease: int | None
) -> None:
    with ExitStack() as stack:
        frozen, living = (stack.enter_context(closing(Emulator("--broker", redis.url, lease=lease))) for _ in range(2))
        stack.callback(os.kill, frozen.process.pid, signal.SIGCONT)
        here, there, first, second = (
            stack.enter_context(each.connect("http")) for each in (living, frozen, living, living)
        )
        there.sendall(POLL)
        until_parked(living)
        os.kill(frozen.process.pid, signal.SIGSTOP)
        # The frozen node still looks alive, so its poll gets the job.
        living.call(first)
        job_id = living.take(here)
        post(living, job_id, b"once")
        assert read_answer(first)[1] == b"once"
        os.kill(frozen.process.pid, end)
        living.call(second)
        if end is signal.SIGCONT:
            # Its poll goes on, and does not get the job that another poll had.
            envelope = json.loads(read_answer(there)[1])["computeModuleJobV1"]
            assert envelope["jobId"] != job_id
            post(frozen, envelope["jobId"], b"again")
        else:
            post(living, living.take(here), b"again")
        assert read_answer(second)[1] == b"again"


def test_nothing_is_lost_stuck_or_dispatched_twice_when_nodes_are_suspended_under_load() -> None:
    options = ("--jobs", "1000", "--freeze", "3", "--freeze", "10", "--json")
    command = [sys.executable, str(ROOT / "tests/bench/nodes.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    for run in ("no lease", "lease of 5 s"):
        for fault in ("lost", "wrong results", "left queued", "left running"):
            assert figures[f"{run}: {fault}"] == 0, figures
    assert figures["no lease: at two pollers for no reason"] == 0
