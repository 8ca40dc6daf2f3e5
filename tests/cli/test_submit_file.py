"""Jobs from a file: ``submit --jobs``."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from conftest import Server, kill
from terminal import Terminal
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.cli.job_file import BadLines, JobFile
from twisted_cm.cli.submit_file import KEPT_PER_JOB
from twisted_cm.client import EmulatorControl, RuntimeSession
from twisted_cm.testing import FakeRuntime

pytestmark = pytest.mark.shared_server


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
    # The first job is answered last; until then, the results of all others are kept.
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
        ("ri.one", "f", b"{\n" * 30, ["line 20: ", "Later lines were not checked"]),
        ("ri.one", "f", b"1\n" + b"[" * 100_000, ["line 2: "]),
    ],
)
def test_every_bad_line_is_told(
    tmp_path: Path, rid: str | None, function: str | None, text: bytes, says: list[str]
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(text)
    with pytest.raises(BadLines) as raised:
        JobFile(file, rid, function, None)
    assert all(each in str(raised.value) for each in says)


def test_bad_lines_are_told_before_anything_is_submitted(server: Server) -> None:
    ran = server.cm(
        "submit", "ri.one", "--jobs", "-", input=b'{"function": "f"}\n{"function": "\\u001b", "x\\u001b": 1}\n'
    )
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"Nothing was submitted: 1 line is not a valid job." in ran.stderr and b"line 2: unknown field" in ran.stderr
    assert b"\x1b" not in ran.stderr and b"Traceback" not in ran.stderr
    assert server.cm("jobs", "--json").stdout == b"[]\n"


def test_what_does_not_go_with_many_jobs_is_refused(server: Server, tmp_path: Path) -> None:
    for arguments, says in (
        (("ri.one", "f", "{}", "--jobs", "-"), b"--jobs reads queries from FILE"),
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
            # This takes long enough that a batch without a limit would start more jobs.
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
            # Four jobs at a time: one runs, three are queued.
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
    assert b"No more jobs were started: " in ran.stderr


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
