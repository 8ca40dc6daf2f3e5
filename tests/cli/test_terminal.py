"""The commands that show a server, and jobs from files: as processes, on a terminal where that matters."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.request import Request, urlopen

import pytest
import pytest_twisted
from conftest import BIN, RUNTIMES, Harness, Server, kill, serve_one
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.cli.submit_file import KEPT_PER_JOB, BadLines, JobFile
from twisted_cm.client import EmulatorControl, RuntimeSession
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.server.routes import events
from twisted_cm.testing import FakeRuntime

EVIL = "\x1b[31mred\x07 [bold]mark[/bold] :smile: \x9b2J\u202e\n\tend"
SHOWN = "\\x1b[31mred\\x07 [bold]mark[/bold] :smile: \\x9b2J\\u202e\\n\\tend"


class Terminal:
    """A command whose output, or errors, go to a terminal of its own."""

    def __init__(self, server: Server, *arguments: str, stderr_only: bool = False) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        self.process = subprocess.Popen(
            [str(BIN / "twisted-cm"), *arguments],
            env={**server.environment, "TERM": "xterm"},
            stdin=slave,
            stdout=subprocess.PIPE if stderr_only else slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = b""

    def _read(self) -> bytes:
        try:
            return os.read(self._master, 65536)
        except OSError:
            # There is no other end any more.
            return b""

    def until(self, text: bytes) -> None:
        """Read on until that has been shown."""
        while text not in self.seen:
            more = self._read()
            assert more, self.seen
            self.seen += more

    def end(self) -> str:
        """What was shown, all in all."""
        while more := self._read():
            self.seen += more
        os.close(self._master)
        self.process.wait(timeout=10)
        return self.seen.decode()


def enqueue(server: Server, function: str, query: Any = None, runtime: str = "one") -> str:
    body = json.dumps({"queryType": function, "query": query}).encode()
    headers = {"Authorization": "Bearer app-token"}
    with urlopen(Request(f"{server.urls['http']}{RUNTIMES}/{runtime}/jobs", body, headers), timeout=10) as answer:
        job_id: str = json.load(answer)["job_id"]
        return job_id


def module(server: Server, runtime: str, path: str, body: bytes | None = None) -> bytes:
    url = f"{server.urls['http']}{RUNTIMES}/{runtime}{path}"
    with urlopen(Request(url, body, {"Module-Auth-Token": f"token-{runtime}"}), timeout=10) as answer:
        content: bytes = answer.read()
        return content


def cells(printed: bytes) -> list[list[str]]:
    return [line.split("\t") for line in printed.decode().splitlines()]


def test_status_and_runtimes(server: Server) -> None:
    enqueue(server, "f")
    enqueue(server, "f", runtime="two")
    module(server, "two", "/job")
    told = dict(cells(server.cm("status").stdout))
    assert (told["queued jobs"], told["running jobs"]) == ("1", "1")
    assert (told["http"], told["poll timeout"]) == (server.urls["http"], "30 s")
    assert told["started at"].endswith(" s ago")
    as_json = json.loads(server.cm("status", "--json").stdout)
    assert (as_json["runtimes"], as_json["connected_runtimes"], as_json["deployed_apps"]) == (2, 1, 2)
    assert 0 < as_json["started_at"] < json.loads(server.cm("runtimes", "--json").stdout)[1]["last_poll_at"]
    one, two = cells(server.cm("runtimes").stdout)
    assert one == ["one", "no", "-", "1", "0", "0", "ri.one@master"]
    assert (two[0], two[1], two[3:]) == ("two", "yes", ["0", "1", "0", "ri.two@dev, ri.off@master (inactive)"])
    shown = Terminal(server, "runtimes").end()
    assert "DEPLOYED APPS" in shown and "\t" not in shown
    assert "ri.off@master (inactive)" in shown


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
    job = await harness.broker.enqueue("one", Submission("f", {}, JobSource.RUNTIME_DIRECT))
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
    follow.until(failed.encode())
    follow.process.send_signal(signal.SIGINT)
    assert "\x1b[31mred" not in follow.end()
    assert SHOWN.encode() in follow.seen
    server.cm("faults", "add", "fail_job", "--message", EVIL)
    assert SHOWN in Terminal(server, "faults").end()
    assert SHOWN.replace("\\n", "\n").encode() in server.cm("submit", "ri.one", "f").stderr


def test_faults_are_added_listed_and_ended(server: Server) -> None:
    added = [
        server.cm("faults", "add", *options.split()).stdout.decode().strip()
        for options in (
            "delay_result --seconds 0.5 --runtime one --function f --count 2 --probability 0.5 --random-seed 7",
            "poll_error --status 401",
        )
    ]
    listed = cells(server.cm("faults").stdout)
    assert [row[0] for row in listed] == added
    assert listed[0][1:] == ["delay_result", "one", "f", "0", "2", "probability=0.5, random_seed=7, seconds=0.5"]
    assert listed[1][1:6] == ["poll_error", "any", "any", "0", "any number"]
    assert server.cm("faults", "remove", added[0]).returncode == 0
    (left,) = json.loads(server.cm("faults", "--json").stdout)
    assert (left["fault_id"], left["status"]) == (added[1], 401)
    assert server.cm("faults", "clear").returncode == 0
    assert "No faults." in Terminal(server, "faults").end()
    for arguments, says in (
        (("add", "delay_result"), b"seconds"),
        (("--url", "http://127.0.0.1:1", "clear"), b"options go after 'clear'"),
    ):
        ran = server.cm("faults", *arguments)
        assert ran.returncode != 0 and ran.stdout == b""
        assert says in ran.stderr and b"Traceback" not in ran.stderr


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
    assert b"the server has stopped" in printed and b"Traceback" not in printed


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
        ids = []
        for _ in range(6):
            ids.append((await harness.broker.enqueue("one", harness.broker._jobs[first].submission)).job_id)
        # More than were kept for it came at once, so it asked for them; none came twice.
        shown = [await deferToThread(next_job, follow.stdout) for _ in ids]
        assert shown == [(each, "queued") for each in ids]
        await serve_one(harness, b"1")
        assert (await deferToThread(next_job, follow.stdout))[0] == first
    finally:
        follow.kill()
        follow.communicate()


@pytest.fixture
def functions(server: Server) -> Iterator[FakeRuntime]:
    """A module of scripted functions at runtime one."""
    runtime = FakeRuntime("one")

    @runtime.function
    def double(query: Any) -> Any:
        return query * 2

    @runtime.function
    def raw(query: Any) -> bytes:
        return bytes(query)

    @runtime.function
    def raises(query: Any) -> None:
        raise ValueError("on purpose")

    pytest_twisted.blockon(
        Deferred.fromCoroutine(runtime.serve(RuntimeSession.join(server.urls["http"], "one", "token-one")))
    )
    yield runtime
    pytest_twisted.blockon(Deferred.fromCoroutine(runtime.stop()))


def printed_lines(ran: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest_twisted.ensureDeferred
async def test_queries_become_jobs_and_results_are_in_their_order(
    server: Server, functions: FakeRuntime, tmp_path: Path
) -> None:
    first: Deferred[int] = Deferred()

    @functions.function
    async def turns(query: int) -> int:
        if query == 0:
            return await first
        if query == 299:
            first.callback(-1)
        return query

    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join([*map(str, range(300)), "", " "]))
    # The first one is the last to be answered, with as many kept until then as may be.
    ran = await deferToThread(server.cm, "submit", "ri.one", "turns", "--jobs", str(file), "--concurrency", "10")
    assert ran.returncode == 0, ran.stderr
    assert 10 * KEPT_PER_JOB >= 300
    printed = printed_lines(ran)
    assert [(each["line"], each["status"], each["result"]) for each in printed] == [
        (n + 1, "succeeded", n or -1) for n in range(300)
    ]
    assert len({each["job_id"] for each in printed}) == 300
    assert ran.stderr == b"300 of 300 jobs: 300 succeeded.\n"


@pytest_twisted.ensureDeferred
async def test_objects_become_jobs_and_every_end_is_told(server: Server, functions: FakeRuntime) -> None:
    async with EmulatorControl(server.urls["http"], "app-token") as control:
        await control.add_fault(kind="fail_job", function="fails", message="out of luck")
    jobs: list[Any] = [
        {"function": "double", "query": 4},
        {"function": "raw", "query": [0xFF, 0]},
        {"function": "raw", "query": list(b"no JSON")},
        {"function": "raw", "query": list(b"1\0")},
        {"function": "raises"},
        {"function": "fails"},
        {"function": "double", "rid": "ri.none", "query": 1},
        {"function": "double", "query": 5, "branch": "master"},
    ]
    text = b"\n".join(json.dumps(each).encode() for each in jobs)

    def submit() -> subprocess.CompletedProcess[bytes]:
        return server.cm("submit", "ri.one", "--jobs", "-", "--concurrency", "3", input=text)

    ran = await deferToThread(submit)
    assert ran.returncode == 1
    printed = printed_lines(ran)
    assert [each["line"] for each in printed] == list(range(1, 9))
    assert [(each["status"], each.get("result")) for each in printed] == [
        ("succeeded", 8),
        ("succeeded", None),
        ("succeeded", None),
        ("succeeded", None),
        ("raised", None),
        ("failed", None),
        ("error", None),
        ("succeeded", 10),
    ]
    assert (printed[1]["result_base64"], printed[2]["result_text"], printed[3]["result_text"]) == (
        "/wA=",
        "no JSON",
        "1\0",
    )
    assert "on purpose" in printed[4]["error"]
    assert printed[5]["error"] == "out of luck"
    assert "'ri.none'" in printed[6]["error"] and printed[6]["job_id"] is None
    assert ran.stderr == b"8 of 8 jobs: 1 error, 1 failed, 1 raised, 5 succeeded.\n"


@pytest.mark.parametrize(
    ("rid", "function", "text", "says"),
    [
        ("ri.one", "f", b"1\n\n{\n3\n[\n", ["line 3: not JSON", "line 5: not JSON"]),
        ("ri.one", "f", b"1\n\xff\n", ["line 2: not JSON"]),
        ("ri.one", None, b'{"function": "f"}\n7\n{"function": ""}', ["line 2: not an object", "line 3: 'function'"]),
        (None, None, b'{"function": "f"}\n', ["line 1: 'rid' is missing"]),
        ("ri.one", None, b'{"function": "f", "qeury": 1}\n', ["line 1: unknown field 'qeury'"]),
        ("ri.one", None, b'{"function": "f", "branch": 1}\n', ["line 1: 'branch'"]),
        ("ri.one", "f", b"{\n" * 30, ["line 20: ", "the lines after that were not read"]),
        ("ri.one", "f", b"1\n" + b"[" * 100_000, ["line 2: "]),
    ],
)
def test_every_bad_line_is_told(
    tmp_path: Path, rid: str | None, function: str | None, text: bytes, says: list[str]
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(text)
    with pytest.raises(BadLines) as told:
        JobFile(file, rid, function, None)
    assert all(each in str(told.value) for each in says)


def test_bad_lines_are_told_before_anything_is_submitted(server: Server) -> None:
    ran = server.cm(
        "submit", "ri.one", "--jobs", "-", input=b'{"function": "f"}\n{"function": "\\u001b", "x\\u001b": 1}\n'
    )
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"nothing was submitted" in ran.stderr and b"line 2: unknown field" in ran.stderr
    assert b"\x1b" not in ran.stderr and b"Traceback" not in ran.stderr
    assert server.cm("jobs", "--json").stdout == b"[]\n"


def test_what_does_not_go_with_many_jobs_is_refused(server: Server, tmp_path: Path) -> None:
    for arguments, says in (
        (("ri.one", "f", "{}", "--jobs", "-"), b"--jobs takes its queries"),
        (("ri.one", "f", "--jobs", str(tmp_path)), b"Is a directory"),
        (("ri.one",), b"FUNCTION"),
    ):
        ran = server.cm("submit", *arguments)
        assert ran.returncode == 2 and ran.stdout == b""
        assert says in ran.stderr and b"Traceback" not in ran.stderr


@pytest_twisted.ensureDeferred
async def test_no_more_is_kept_than_a_window_of_results(server: Server, functions: FakeRuntime, tmp_path: Path) -> None:
    first: Deferred[int] = Deferred()

    @functions.function
    async def held(query: int) -> int:
        return await first if query == 0 else query

    window = 2 * KEPT_PER_JOB
    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join(map(str, range(window * 2))))
    batch = server.start("submit", "ri.one", "held", "--jobs", str(file), "--concurrency", "2")
    try:
        async with EmulatorControl(server.urls["http"], "app-token") as control:
            while len(functions.calls) < window:
                await control.info()
            # Long enough for a batch that does not wait to go on.
            again = await deferToThread(server.cm, "submit", "ri.one", "double", "4")
        assert again.stdout == b"8"
        assert sorted(job.query for job in functions.calls[:-1]) == [*range(window)]
        first.callback(0)
        printed, _ = await deferToThread(batch.communicate, timeout=30)
    finally:
        kill(batch)
    assert batch.returncode == 0
    assert printed.count(b'"succeeded"') == window * 2


@pytest_twisted.ensureDeferred
async def test_ctrl_c_prints_what_is_done_and_cancels_what_is_queued(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join(map(str, range(100))))
    batch = server.start("submit", "ri.one", "f", "--jobs", str(file), "--concurrency", "4")
    try:
        async with (
            RuntimeSession.join(server.urls["http"], "one", "token-one") as session,
            EmulatorControl(server.urls["http"], "app-token") as control,
        ):
            taken = [await session.poll() for _ in range(3)]
            jobs = {job.query: job.job_id for job in taken if job is not None}
            running = jobs.pop(min(jobs))
            for query, job_id in jobs.items():
                await session.post_result(job_id, query)
            # Four at a time: one runs, three wait.
            while not (len(await control.jobs()) == 6 and (await control.runtime("one"))["queued_jobs"] == 3):
                pass
            batch.send_signal(signal.SIGINT)
            printed = (await deferToThread(batch.communicate, timeout=20))[0]
            *lines, summary = printed.splitlines()
            found = [json.loads(line) for line in lines]
            assert batch.returncode == 130
            assert [each["line"] for each in found] == [1, 2, 3, 4, 5, 6]
            states = {each["job_id"]: each["status"] for each in found}
            assert states.pop(running) == "running"
            assert sorted(states.values()) == ["canceled"] * 3 + ["succeeded"] * 2
            assert summary == b"6 of 100 jobs: 3 canceled, 1 running, 2 succeeded."
            assert {job["job_id"]: job["status"] for job in await control.jobs()} == {**states, running: "running"}
    finally:
        kill(batch)


@pytest_twisted.ensureDeferred
async def test_a_job_that_takes_too_long_is_canceled(server: Server, functions: FakeRuntime) -> None:
    @functions.function
    async def forever(query: Any) -> None:
        await Deferred()

    def submit() -> subprocess.CompletedProcess[bytes]:
        return server.cm("submit", "ri.one", "forever", "--jobs", "-", "--timeout", "0.3", input=b"1\n2\n")

    ran = await deferToThread(submit)
    assert ran.returncode == 1
    assert [(each["status"], "0.3 seconds" in each["error"]) for each in printed_lines(ran)] == [("canceled", True)] * 2


def test_without_a_server_no_more_lines_are_tried(server: Server, tmp_path: Path) -> None:
    server.stop()
    ran = server.cm("submit", "ri.one", "f", "--jobs", "-", "--concurrency", "2", input=b"1\n" * 1000)
    assert ran.returncode == 1
    assert [(each["line"], each["status"]) for each in printed_lines(ran)] == [(1, "error"), (2, "error")]
    assert b"2 of 1000 jobs: 2 error." in ran.stderr
    assert b"No more were started: " in ran.stderr


@pytest_twisted.ensureDeferred
async def test_progress_is_shown_on_a_terminal(server: Server, functions: FakeRuntime, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text("1\n2\n3\n")
    batch = Terminal(server, "submit", "ri.one", "double", "--jobs", str(file), stderr_only=True)
    shown = await deferToThread(batch.end)
    assert batch.process.stdout is not None
    results = [json.loads(line)["result"] for line in batch.process.stdout.read().splitlines()]
    batch.process.stdout.close()
    assert results == [2, 4, 6]
    assert "100%" in shown and "3 of 3 jobs: 3 succeeded." in shown


@pytest_twisted.ensureDeferred
async def test_whoever_reads_no_more_ends_it(server: Server, functions: FakeRuntime, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text("1\n" * 20_000)
    batch = server.start("submit", "ri.one", "double", "--jobs", str(file))
    assert batch.stdout is not None
    await deferToThread(batch.stdout.readline)
    batch.stdout.close()
    await deferToThread(batch.wait, 20)
    assert batch.returncode == 1
    assert len(functions.calls) < 20_000


def test_a_command_starts_without_what_it_does_not_need() -> None:
    program = "import sys, twisted_cm.cli; print(*sorted({'rich', 'treq', 'twisted.web.client'} & {*sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout == "\n"
