"""What a command imports decides how long it takes, since its request takes a few milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import click
import pytest
from conftest import Server
from terminal import module

from twisted_cm.cli.main import COMMANDS, main

pytestmark = pytest.mark.shared_server

#: What no client needs: what serves, what checks seeds, what draws tables and what watches processes.
NOT_FOR_CLIENTS = {
    *("jsonschema", "klein", "msgspec", "orjson", "prometheus_client", "psutil", "referencing", "requests", "rich"),
    *("hiredis", "trustme", "watchfiles", "werkzeug", "yaml"),
    *("twisted.trial", "twisted.web.server", "twisted.web.static"),
    *("twisted_cm.broker", "twisted_cm.config.seed", "twisted_cm.metrics", "twisted_cm.recording", "twisted_cm.server"),
    *("twisted_cm.service", "twisted_cm.supervisor", "twisted_cm.testing"),
    # Other clients, and records of the server.
    *("twisted_cm.client.api", "twisted_cm.client.replica", "twisted_cm.client.runtime"),
    *("twisted_cm.model.jobs", "twisted_cm.model.json_values", "twisted_cm.model.replicas"),
}

#: What a command needs for a request only.
NOT_FOR_HELP = {*NOT_FOR_CLIENTS, "OpenSSL", "asyncio", "attr", "cryptography", "treq", "twisted", "twisted_cm.client"}

REPORT = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr))"


def imported(server: Server, *arguments: str, **variables: str) -> set[str]:
    """Run a command; return the modules that it has imported at its end."""
    code = f"{REPORT}; from twisted_cm.cli import main; main(prog_name='twisted-cm')"
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**server.environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stderr))


def answer(server: Server) -> None:
    """Act as the runtime for one job."""
    envelope = json.loads(module(server, "one", "/job"))
    module(server, "one", f"/results/{envelope['computeModuleJobV1']['jobId']}", b"42")


def test_commands_import_only_what_they_need(server: Server) -> None:
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(answer, server)
        assert imported(server, "submit", "ri.one", "f") & NOT_FOR_CLIENTS == set()
        answering.result()
        polling = pool.submit(answer, server)
        assert imported(server, "wait", "one") & NOT_FOR_CLIENTS == set()
        assert imported(server, "submit", "--async", "ri.one", "f") & NOT_FOR_CLIENTS == set()
        polling.result()
    for command in (("jobs",), ("job", "last"), ("runtimes",), ("status",)):
        assert imported(server, *command) & NOT_FOR_CLIENTS == set(), command


def test_the_list_of_commands_imports_none_of_them(server: Server) -> None:
    assert imported(server, "--help") & NOT_FOR_HELP == set()
    assert imported(server, "--version") & NOT_FOR_HELP == set()
    completion = {"_TWISTED_CM_COMPLETE": "bash_complete", "COMP_WORDS": "twisted-cm ", "COMP_CWORD": "1"}
    assert imported(server, **completion) & NOT_FOR_HELP == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_the_first_sentence_of_each_help(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(limit=120) == COMMANDS[name][2]
