"""What becomes of everybody else when a process is ended, by signals that it can or cannot answer."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from conftest import CONTOUR, ROOT, RUNTIMES, SEED, Server, kill
from test_sdks import SDK_PYTHON, Launch, contour, execute, get, launch, submission, until

__all__ = ["launch"]

MODULE = (SDK_PYTHON, str(ROOT / "tests/sdk/module.py"))
EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"


# The runtime's process


def test_jobs_of_a_runtime_that_was_killed_while_parked_go_to_the_next(server: Server, launch: Launch) -> None:
    first = launch(*MODULE)
    until(lambda: get(server, f"{RUNTIMES}/one")["parked_polls"], first)
    kill(first)
    with ThreadPoolExecutor(5) as pool:
        callers = [pool.submit(execute, server, "typed", {"a": n, "b": 2}) for n in range(5)]
        while get(server, f"{RUNTIMES}/one")["queued_jobs"] < 5:
            assert not any(caller.done() for caller in callers)
        launch(*MODULE)
        assert [caller.result(timeout=10) for caller in callers] == [b"0", b"2", b"4", b"6", b"8"]


@pytest.mark.parametrize("server", ["job_lease: 1"], indirect=True)
def test_a_job_of_a_runtime_that_was_killed_at_work_goes_to_the_next_once_its_lease_is_out(
    server: Server, launch: Launch, tmp_path: Path
) -> None:
    first = launch(*MODULE)
    room = tmp_path / "room"
    room.mkdir()
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(execute, server, "together", {"n": 7, "size": 2, "room": str(room)})
        until(lambda: list(room.iterdir()), first)
        kill(first)
        while get(server, f"{RUNTIMES}/one")["queued_jobs"] == 0:
            assert not caller.done()
        launch(*MODULE)
        assert json.loads(caller.result(timeout=10)) == {"n": 7, "seen": 2}


def test_a_runtime_that_is_killed_as_it_streams_breaks_its_callers_answer_off(server: Server, launch: Launch) -> None:
    first = launch(*MODULE)
    address = urlsplit(server.urls["http"])
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    headers = {"Authorization": "Bearer app-token"}
    connection.request("POST", EXECUTE, json.dumps(submission("stream", {"n": 10**9})), headers)
    answer = connection.getresponse()
    assert (answer.status, answer.read(10)) == (200, b"0123456789")
    kill(first)
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()
    job = get(server, f"{RUNTIMES}/one/jobs/{answer.headers['X-Job-Id']}")["job"]
    assert (job["status"], job["error_message"]) == (
        "failed",
        "The runtime's connection was lost while it streamed the result.",
    )
    launch(*MODULE)
    assert execute(server, "typed", {"a": 6, "b": 7}) == b"42"
