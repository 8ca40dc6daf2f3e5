"""The commands that show a server, its runtimes and its jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import IO, Any
from urllib.request import Request, urlopen

import pytest
import pytest_twisted
from conftest import BIN, RUNTIMES, Harness, Server, serve_one
from terminal import Terminal, cells, enqueue, module
from twisted.internet.threads import deferToThread

from twisted_cm.cli.output import show_time
from twisted_cm.client import EmulatorControl
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.server.routes import events

pytestmark = pytest.mark.shared_server

EVIL = "\x1b[31mred\x07 [bold]mark[/bold] :smile: \x9b2J\u202e\n\tend"
SHOWN = "\\x1b[31mred\\x07 [bold]mark[/bold] :smile: \\x9b2J\\u202e\\n\\tend"


def test_status_and_runtimes(server: Server) -> None:
    enqueue(server, "f")
    enqueue(server, "f", runtime="two")
    module(server, "two", "/job")
    shown_status = dict(cells(server.cm("status").stdout))
    assert (shown_status["queued jobs"], shown_status["running jobs"]) == ("1", "1")
    assert (shown_status["http"], shown_status["poll timeout"]) == (server.urls["http"], "30 s")
    assert shown_status["started at"].endswith(" s ago")
    as_json = json.loads(server.cm("status", "--json").stdout)
    assert (as_json["runtimes"], as_json["connected_runtimes"], as_json["deployed_apps"]) == (2, 1, 2)
    assert 0 < as_json["started_at"] < json.loads(server.cm("runtimes", "--json").stdout)[1]["last_poll_at"]
    one, two = cells(server.cm("runtimes").stdout)
    assert one == ["one", "0/1", "-", "1", "0", "0", "ri.one@master"]
    assert (two[0], two[1], two[3:]) == ("two", "1/1", ["0", "1", "0", "ri.two@dev, ri.off@master (inactive)"])
    shown = Terminal(server, "runtimes").end()
    assert "DEPLOYED APPS" in shown and "\t" not in shown
    assert "ri.off@master (inactive)" in shown


def call(server: Server, method: str, path: str, body: Any = None, token: str = "token-one") -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Module-Auth-Token": token, "Prefer": "wait=0"}
    with urlopen(Request(server.urls["http"] + path, data, headers, method=method), timeout=10) as answer:
        return json.loads(answer.read() or b"null")


def open_replicas(server: Server) -> dict[str, Any]:
    """Open a replica that runs a job, one that has not polled, and one that is gone; return them by id."""
    opened = {}
    for name, limit in (("busy", 1), ("idle", 3), ("gone", 1)):
        body = {"replicaId": name, "maxConcurrentTasks": limit}
        opened[name] = call(server, "POST", f"{RUNTIMES}/one/replicas", body)
    call(server, "DELETE", f"{RUNTIMES}/one/replicas/gone")
    enqueue(server, "f")
    call(server, "GET", f"{RUNTIMES}/one/replicas/busy/job", token=opened["busy"]["moduleAuthToken"])
    return opened


def test_replicas_are_counted_and_listed(server: Server) -> None:
    open_replicas(server)
    one, two = cells(server.cm("runtimes").stdout)
    assert (one[:2], two[:2]) == (["one", "1/2"], ["two", "0/1"])
    listed = json.loads(server.cm("runtimes", "one", "--json").stdout)
    assert json.loads(server.cm("runtimes", "--json").stdout)[0]["replicas"] == listed
    busy, idle, gone = listed
    assert (busy["state"], busy["last_poll_at"] >= busy["opened_at"]) == ("busy", True)
    (job_id,) = busy["running_jobs"]
    times = [show_time(moment) for moment in (busy["last_poll_at"], busy["opened_at"], idle["opened_at"])]
    assert cells(server.cm("runtimes", "one").stdout) == [
        ["busy", "busy", "1", times[0], times[1], job_id],
        ["idle", "starting", "3", "-", times[2], "-"],
        ["gone", "gone", "1", "-", show_time(gone["ended_at"]), "replica stopped"],
    ]
    (default,) = cells(server.cm("runtimes", "two").stdout)
    assert (default[:4], default[5]) == (["default", "starting", "-", "-"], "-")


def test_tables_of_replicas_fit_eighty_columns(server: Server) -> None:
    long = {
        "runtimeId": "a-runtime-with-a-long-name",
        "deployedAppRid": "ri.foundry.main.deployed-app.with-a-long-name",
    }
    call(server, "POST", RUNTIMES, long)
    with urlopen(Request(f"{server.urls['http']}{RUNTIMES}/{long['runtimeId']}/replicas", b"{}")):
        pass
    open_replicas(server)
    for arguments, headings in (
        (["runtimes"], ["RUNTIME", "REPLICAS", "LAST POLL", "QUEUED", "RUNNING", "POLLS", "DEPLOYED APPS"]),
        (["runtimes", "one"], ["REPLICA", "STATE", "LIMIT", "LAST POLL", "SINCE"]),
        (["runtimes", long["runtimeId"]], ["REPLICA", "STATE", "LIMIT", "LAST POLL", "SINCE"]),
    ):
        lines = re.sub(r"\x1b\[[0-9;]*m", "", Terminal(server, *arguments, columns=80).end()).splitlines()
        assert max(map(len, lines)) <= 80
        assert any(re.findall(r"\S+(?: \S+)*", line)[: len(headings)] == headings for line in lines), lines


def test_an_unknown_runtime_is_named_with_the_nearest(server: Server) -> None:
    for wanted, said in (
        ("onee", "Error: Unknown runtime 'onee'. Did you mean 'one'?\n"),
        ("xyz", "Error: Unknown runtime 'xyz'. 'twisted-cm runtimes' lists all of them.\n"),
        ("\x1b[31m", "Error: Unknown runtime '\\x1b[31m'. 'twisted-cm runtimes' lists all of them.\n"),
    ):
        refused = server.cm("runtimes", wanted)
        assert (refused.returncode, refused.stdout, refused.stderr.decode()) == (1, b"", said)


def test_jobs_are_listed_and_told(server: Server) -> None:
    ids = [enqueue(server, f"f{n}", {"n": n}, runtime) for n, runtime in enumerate(("one", "two", "one"))]
    module(server, "one", "/job")
    module(server, "one", f"/results/{ids[0]}", b"\xff\x00")
    module(server, "two", "/job")
    module(server, "two", f"/jobs/{ids[1]}/fail", json.dumps({"message": "out of luck"}).encode())
    listed = cells(server.cm("jobs").stdout)
    assert [(row[0], row[1]) for row in listed] == [(ids[2], "queued"), (ids[1], "failed"), (ids[0], "succeeded")]
    assert listed[2][6:] == ["1", "2 bytes", "-"]
    assert listed[1][8] == "out of luck"
    for options, expected in (
        (("--function", "f2"), [ids[2]]),
        (("--status", "succeeded", "--runtime", "one"), [ids[0]]),
        (("--limit", "2"), [ids[2], ids[1]]),
    ):
        assert [each["job_id"] for each in json.loads(server.cm("jobs", "--json", *options).stdout)] == expected
    story = dict(cells(server.cm("job", ids[0]).stdout))
    assert (story["query"], story["result"], story["status"]) == ('{"n": 0}', "base64: /wA=", "succeeded")
    assert story["attempt 1"].endswith(" s, succeeded")
    assert json.loads(server.cm("job", ids[1], "--json").stdout)["error_message"] == "out of luck"
    unknown = server.cm("job", "none")
    assert (unknown.returncode, unknown.stdout) == (1, b"")
    assert b"none" in unknown.stderr


@pytest_twisted.ensureDeferred
async def test_more_jobs_than_one_answer_holds_are_listed(harness: Harness) -> None:
    job = await harness.broker.enqueue("one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
    ids = [job.job_id] + [(await harness.broker.enqueue("one", job.submission)).job_id for _ in range(2100)]
    async with EmulatorControl(str(harness.service.addresses.http), "app-token") as control:
        assert [each["job_id"] for each in await control.jobs(2050)] == ids[:-2051:-1]
        assert len(await control.jobs(5000)) == 2101


def test_nothing_in_a_job_controls_the_terminal(server: Server) -> None:
    job_id = enqueue(server, EVIL, {EVIL: EVIL})
    module(server, "one", "/job")
    module(server, "one", f"/results/{job_id}", EVIL.encode())
    failed = enqueue(server, EVIL)
    module(server, "one", "/job")
    module(server, "one", f"/jobs/{failed}/fail", json.dumps({"message": EVIL}).encode())
    for printed in (
        Terminal(server, "jobs").end(),
        Terminal(server, "job", job_id).end(),
        server.cm("jobs").stdout.decode(),
        server.cm("job", job_id, "--json").stdout.decode(),
    ):
        assert "smile:" in printed
        assert "\x1b[31mred" not in printed
        assert not set("\x07\x9b\u202e") & set(printed)
        assert SHOWN in printed or printed.startswith("{")
    follow = Terminal(server, "jobs", "--follow")
    follow.until(failed[-4:].encode())
    follow.until(SHOWN.encode())
    follow.process.send_signal(signal.SIGINT)
    assert "\x1b[31mred" not in follow.end()
    assert SHOWN.encode() in follow.seen
    server.cm("faults", "add", "fail_job", "--message", EVIL)
    assert SHOWN in Terminal(server, "faults").end()
    assert SHOWN.replace("\\n", "\n").encode() in server.cm("submit", "ri.one", "f").stderr


def next_job(output: IO[bytes]) -> tuple[str, str]:
    job = json.loads(output.readline())
    return job["job_id"], job["status"]


def test_following_goes_on_until_it_is_interrupted(server: Server) -> None:
    before = [enqueue(server, "f"), enqueue(server, "f")]
    other = enqueue(server, "f", runtime="two")
    follow = server.start("jobs", "--follow", "--json", "--runtime", "one")
    output = follow.stdout
    assert output is not None
    assert [next_job(output), next_job(output)] == [(each, "queued") for each in before]
    module(server, "two", "/job")
    module(server, "two", f"/results/{other}", b"1")
    module(server, "one", "/job")
    assert next_job(output) == (before[0], "running")
    module(server, "one", f"/results/{before[0]}", b"1")
    assert next_job(output) == (before[0], "succeeded")
    follow.send_signal(signal.SIGINT)
    assert follow.communicate(timeout=10)[0] == b""
    assert follow.returncode == 0


def test_following_ends_with_the_server_and_says_so(server: Server) -> None:
    job_id = enqueue(server, "f")
    follow = server.start("jobs", "--follow")
    assert follow.stdout is not None
    assert follow.stdout.readline().decode().split("\t")[:2] == [job_id, "queued"]
    server.stop()
    printed = follow.communicate(timeout=10)[0]
    assert follow.returncode == 1
    assert b"The server stopped" in printed and b"Traceback" not in printed


@pytest_twisted.ensureDeferred
async def test_following_reads_again_what_it_missed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_PENDING", 3)
    follow = subprocess.Popen(
        [str(BIN / "twisted-cm"), "jobs", "--follow", "--json", "--url", str(harness.service.addresses.http)],
        env={**os.environ, "TWISTED_CM_TOKEN": "app-token"},
        stdout=subprocess.PIPE,
    )
    try:
        assert follow.stdout is not None
        first = (await harness.module("POST", "/jobs", {"queryType": "f"}))[1]["job_id"]
        assert await deferToThread(next_job, follow.stdout) == (first, "queued")
        submission = (await harness.broker.job(first)).submission
        ids = []
        for _ in range(6):
            ids.append((await harness.broker.enqueue("one", submission)).job_id)
        # More events came at once than the server keeps for a client, so the command read the list; no job came twice.
        shown = [await deferToThread(next_job, follow.stdout) for _ in ids]
        assert shown == [(each, "queued") for each in ids]
        await serve_one(harness, b"1")
        assert (await deferToThread(next_job, follow.stdout))[0] == first
    finally:
        follow.kill()
        follow.communicate()
