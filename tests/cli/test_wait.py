"""``twisted-cm wait``, and the short ids of jobs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import BIN, Server, free_port
from sdk_processes import until
from terminal import cells, enqueue, module

pytestmark = pytest.mark.shared_server


def started(server: Server, *arguments: str) -> subprocess.Popen[bytes]:
    return server.start("wait", *arguments)


def test_it_waits_until_a_module_polls(server: Server) -> None:
    waiting = started(server, "one")
    # That of the events, that of its look at the runtime, and that of curl.
    until(lambda: "twisted_cm_open_connections 3.0" in metrics(server), waiting)
    assert waiting.poll() is None
    enqueue(server, "f")
    module(server, "one", "/job")
    assert waiting.communicate(timeout=20) == (b"", None)
    assert waiting.returncode == 0
    # It is there already.
    assert server.cm("wait", "one").returncode == 0


def metrics(server: Server) -> str:
    ran = subprocess.run(["curl", "-s", f"{server.urls['http']}/metrics"], capture_output=True, check=True)
    return ran.stdout.decode()


def test_it_says_what_is_lacking(server: Server) -> None:
    for runtime, lacking in (
        ("one", "no module of it polls for jobs"),
        ("new\x1b", "the server has no such runtime"),
    ):
        ran = server.cm("wait", runtime, "--timeout", "0.5")
        assert (ran.returncode, ran.stdout) == (1, b"")
        shown = runtime.encode("unicode_escape").decode()
        expected = f"Error: No replica of runtime '{shown}' was connected within 0.5 seconds: {lacking}.\n"
        assert ran.stderr.decode() == expected


def test_it_waits_for_the_server_and_the_runtime(tmp_path: Path, state_dir: Path) -> None:
    port = str(free_port())
    url = ("--url", f"http://127.0.0.1:{port}", "--token", "app-token")
    ran = subprocess.run([BIN / "twisted-cm", "wait", "one", "--timeout", "0.5", *url], capture_output=True, timeout=30)
    assert ran.returncode == 1 and b"cannot be reached" in ran.stderr, ran.stderr
    waiting = subprocess.Popen([BIN / "twisted-cm", "wait", "one", *url], stderr=subprocess.PIPE)
    server = Server(tmp_path, state_dir, "--port", port)
    try:
        enqueue(server, "f")
        module(server, "one", "/job")
        assert waiting.communicate(timeout=30)[1] == b"" and waiting.returncode == 0
    finally:
        waiting.kill()
        server.stop()


def test_a_wrong_token_is_an_error_at_once(server: Server) -> None:
    ran = server.cm("wait", "one", "--token", "wrong")
    assert ran.returncode == 1 and b"bearer token" in ran.stderr


def test_the_end_of_an_id_is_enough(server: Server) -> None:
    assert server.cm("job", "last").stderr == b"Error: There are no jobs yet.\n"
    ids = [enqueue(server, "f", {"n": n}) for n in range(40)]
    for given in ("last", ids[-1], ids[-1][-12:]):
        assert json.loads(server.cm("job", given, "--json").stdout)["job_id"] == ids[-1]
    assert dict(cells(server.cm("job", ids[0][-12:]).stdout))["query"] == '{"n": 0}'
    # There are forty ids and sixteen digits.
    digit = next(each for each in "0123456789abcdef" if sum(one.endswith(each) for one in ids) > 1)
    ran = server.cm("job", digit)
    assert ran.returncode == 1 and f"jobs have ids that end with '{digit}': foundry_job_" in ran.stderr.decode()
    ran = server.cm("job", "zz\x1b")
    assert ran.stderr.decode() == (
        "Error: No job that is kept has an id that ends with 'zz\\x1b'. 'twisted-cm jobs' lists the latest.\n"
    )
    unknown = "foundry_job_" + "0" * 32
    assert b"Unknown compute-module job" in server.cm("job", unknown).stderr
