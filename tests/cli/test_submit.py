"""``twisted-cm submit`` for one job, and ``twisted-cm exec``."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Server
from terminal import Terminal, cells, module

pytestmark = pytest.mark.shared_server

EVIL = "\x1b[31mred\x07 \x9b2J\u202e \u2066\r\n\tgr\u00fcn \U0001f600"
SHOWN = "\\x1b[31mred\\x07 \\x9b2J\\u202e \\u2066\\r\r\n\tgr\u00fcn \U0001f600"


def answer(server: Server, result: bytes) -> None:
    """Act as the runtime for one job."""
    envelope = json.loads(module(server, "one", "/job"))
    module(server, "one", f"/results/{envelope['computeModuleJobV1']['jobId']}", result)


def test_a_result_on_a_terminal_controls_nothing_and_ends_with_a_newline(server: Server) -> None:
    with ThreadPoolExecutor() as pool:
        for result, shown in (
            (EVIL.encode(), f"{SHOWN}\r\n"),
            (b"42", "42\r\n"),
            (b"42\n", "42\r\n"),
            (b"\xff\xc3", "\\xff\\xc3\r\n"),
            (b"", ""),
        ):
            terminal = Terminal(server, "submit", "ri.one", "f")
            answering = pool.submit(answer, server, result)
            assert terminal.end() == shown
            answering.result()


def test_a_result_in_a_pipe_is_written_exactly(server: Server) -> None:
    with ThreadPoolExecutor() as pool:
        for result in (EVIL.encode(), bytes(range(256)), b""):
            answering = pool.submit(answer, server, result)
            assert server.cm("submit", "ri.one", "f").stdout == result
            answering.result()


def test_a_module_does_not_see_the_tokens_of_the_emulator(server: Server) -> None:
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    server.environment |= {
        "TWISTED_CM_ADMIN_TOKEN": "the admin token",
        "TWISTED_CM_TOKEN": "app-token",
        "OTHER": "kept",
    }
    options = ("--runtime", "one", "--module-auth-token", "token-one")
    ran = server.cm("exec", *options, "--", sys.executable, "-c", show)
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert (seen["OTHER"], "GET_JOB_URI" in seen) == ("kept", True)
    assert not {"the boss", "app-token"} & set(seen.values())


def test_a_function_that_raised_is_an_error(server: Server) -> None:
    raised = b'{"exception": "on \\u001b[31mpurpose: Traceback (most recent call last):\\n"}'
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(answer, server, raised)
        ran = server.cm("submit", "ri.one", "f")
        answering.result()
    assert (ran.returncode, ran.stdout) == (1, raised)
    assert ran.stderr == b"Error: f raised: on \\x1b[31mpurpose\n"
    (job,) = json.loads(server.cm("jobs", "--json", "--status", "raised").stdout)
    assert job["raised"] and job["status"] == "succeeded"
    (row,) = cells(server.cm("jobs").stdout)
    assert row[1] == "raised" and row[8] == "on \\x1b[31mpurpose"
    story = dict(cells(server.cm("job", job["job_id"]).stdout))
    assert story["status"] == "raised" and story["raised"].startswith("on \\x1b[31mpurpose: Traceback")
    assert server.cm("jobs", "--status", "succeeded").stdout == b""
