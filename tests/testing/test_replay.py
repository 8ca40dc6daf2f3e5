"""Replay recordings against runtimes and against a real module."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Server, kill
from sdk_processes import SDK_PYTHON, execute
from testing.module_project import Project

from twisted_cm.recording.read import InvalidRecording
from twisted_cm.testing import EmulatorProcess, ReplayMismatch, ThreadRuntime
from twisted_cm.testing.replay import NothingToReplay, Replayed, replay


def recorded(function: str, query: Any, answer: Any = None, **fields: Any) -> dict[str, Any]:
    """Return one line of a recording, of a job with an answer in JSON."""
    known = {
        "recording": 1,
        "job_id": "foundry_job_1",
        "function": function,
        "query": query,
        "state": "succeeded",
        "result": {"text": json.dumps(answer)},
        "message": None,
        "started_at": 1000,
        "completed_at": 2000,
    }
    return {**known, **fields}


def write(path: Path, *jobs: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in jobs), "utf-8")
    return path


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    started = EmulatorProcess.start(directory=tmp_path_factory.mktemp("emulator"))
    yield started
    started.stop()


Play = Callable[..., Replayed]


@pytest.fixture
def runtime(process: EmulatorProcess) -> Iterator[ThreadRuntime]:
    process.reset()
    yield process.run(ThreadRuntime("played", "ri.played"))
    process.dismiss()


@pytest.fixture
def play(process: EmulatorProcess, runtime: ThreadRuntime, tmp_path: Path) -> Play:
    """Return a function that replays jobs against the runtime."""

    def play_jobs(*jobs: dict[str, Any], **options: Any) -> Replayed:
        return replay(process, runtime.runtime_id, write(tmp_path / "jobs.jsonl", *jobs), **options)

    return play_jobs


def test_queries_are_sent_in_order_and_compared_as_json(play: Play, runtime: ThreadRuntime) -> None:
    @runtime.function
    def shape(query: Any) -> bytes:
        return b'{"query": %s,   "twice": true}' % json.dumps(query).encode()

    jobs = [recorded("shape", query, {"twice": True, "query": query}) for query in (3, 1, {"a": [1, "ü"]}, 3)]
    assert play(*jobs) == Replayed(compared=4, masked=0, too_large=0, canceled=0)
    assert [each.query for each in runtime.calls] == [3, 1, {"a": [1, "ü"]}, 3]


def test_differences_are_shown_with_their_places(play: Play, runtime: ThreadRuntime) -> None:
    runtime.function(lambda query: {"sum": sum(query["of"]), "meta": {"id": 2}, "rows": [{"at": 5}]}, name="add")
    before = {"sum": 4, "meta": {"id": 1}, "rows": [{"at": 4}]}
    jobs = [recorded("add", {"of": [1, 2]}, before), recorded("add", {"of": [2, 2]}, before)]
    with pytest.raises(ReplayMismatch) as caught:
        play(*jobs, ignore=["/meta/id", "/rows/*/at"])
    assert str(caught.value) == (
        '1 of 2 replayed jobs differ from jobs.jsonl:\n\nadd {"of": [1, 2]}\n  /sum\n    recorded: 4\n    now:      3'
    )
    ((job, (difference,)),) = caught.value.differences
    assert (job.function, job.query, difference.pointer) == ("add", {"of": [1, 2]}, "/sum")
    with pytest.raises(ReplayMismatch, match="/meta/id\n"):
        play(*jobs)


def test_only_some_of_many_differences_are_shown(play: Play, runtime: ThreadRuntime) -> None:
    runtime.function(lambda query: list(range(100)), name="many")
    with pytest.raises(ReplayMismatch, match="and 80 more differences") as caught:
        play(recorded("many", 1, [-1] * 100))
    assert str(caught.value).count("recorded:") == 20


def test_what_a_function_raises_is_compared_without_its_traceback(play: Play, runtime: ThreadRuntime) -> None:
    def fail(query: Any) -> None:
        raise ValueError(query)

    runtime.function(fail, name="fail")
    runtime.function(lambda query: b'{"exception": "no luck: Traceback (most recent call last):\\n  new"}', name="bad")
    runtime.function(lambda query: 1, name="fine")
    raised = {"exception": "no luck: Traceback (most recent call last):\n  old"}
    assert play(recorded("bad", {}, raised)).compared == 1
    with pytest.raises(ReplayMismatch, match=r"recorded: \(raised\) no luck\n    now:      1"):
        play(recorded("fine", {}, raised))
    with pytest.raises(ReplayMismatch, match=r"recorded: 1\n    now:      \(raised\) no luck"):
        play(recorded("bad", {}, 1))
    with pytest.raises(ReplayMismatch, match=r"recorded: \(raised\) other"):
        play(recorded("bad", {}, {"exception": "other"}))


def test_a_job_that_failed_has_to_fail(play: Play, runtime: ThreadRuntime, process: EmulatorProcess) -> None:
    runtime.function(lambda query: 1, name="f")
    failed = recorded("f", {}, state="failed", result=None, message="no luck")
    with pytest.raises(ReplayMismatch, match=r"recorded: \(failed\) no luck\n    now:      1"):
        play(failed)
    with process.faults.fail_job(message="other"):
        assert play(failed).compared == 1
        with pytest.raises(ReplayMismatch, match=r"recorded: 1\n    now:      \(failed\) other"):
            play(recorded("f", {}, 1))


def test_streams_texts_and_bytes(play: Play, runtime: ThreadRuntime) -> None:
    @runtime.function
    def count(query: Any) -> Iterator[Any]:
        for number in range(query):
            yield {"n": number}

    runtime.function(lambda query: query.encode(), name="text")
    runtime.function(lambda query: bytes(query), name="octets")
    same = (
        recorded("count", 2, result={"text": '{"n":0}\n{"n":1}'}),
        recorded("text", "plain text", result={"text": "plain text"}),
        recorded("text", "", result={"text": ""}),
        recorded("octets", [255, 0], result={"base64": b64encode(b"\xff\x00").decode()}),
    )
    assert play(*same).compared == 4
    for job, place in (
        (recorded("count", 2, result={"text": '{"n": 0}{"n": 7}'}), r"/1/n\n    recorded: 7\n    now:      1"),
        (recorded("count", 1, result={"text": "0 1"}), r"recorded: \[0, 1\]\n    now:      .\"n\": 0"),
        (recorded("text", "plain", result={"text": "text"}), 'recorded: "text"\n    now:      "plain"'),
        (recorded("octets", [255], result={"base64": "/v8="}), r"\(2 bytes\) feff\n    now:      \(1 bytes\) ff"),
    ):
        with pytest.raises(ReplayMismatch, match=place):
            play(job)


def test_jobs_that_cannot_be_replayed_are_counted(play: Play, runtime: ThreadRuntime) -> None:
    runtime.function(lambda query: {"token": "secret", "stars": query}, name="f")
    sent = recorded("f", "***", {"token": "***", "stars": "***"})
    masked = [recorded("f", query, 1) for query in ({"password": "***"}, [{"a": {"api_key": "***"}}])]
    large = recorded("f", 1, result={"bytes": 5_000_000, "sha256": "0" * 64})
    canceled = recorded("f", 1, state="canceled", result=None)
    replayed = play(*masked, sent, large, canceled)
    assert replayed == Replayed(compared=1, masked=2, too_large=1, canceled=1)
    assert replayed.skipped == 4
    with pytest.raises(NothingToReplay, match="2 have a masked secret in the query, and 1 have a result"):
        play(*masked, large)


def test_a_job_that_takes_too_long(play: Play, runtime: ThreadRuntime) -> None:
    released = threading.Event()
    runtime.function(lambda query: released.wait(30), name="stay")
    try:
        with pytest.raises(TimeoutError):
            play(recorded("stay", 1, 1), timeout=0.1)
    finally:
        released.set()


def test_a_file_that_is_no_recording(process: EmulatorProcess, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecording, match="No such file"):
        replay(process, "played", tmp_path / "none")


def test_fixture(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "recordings").mkdir()
    file = tmp_path / "recordings" / "jobs.jsonl"
    write(file, recorded("add", {"a": 1, "b": 2}, 3), recorded("add", {"a": 2, "b": 2}, 5))
    printed = project.run(
        """
import pytest
from twisted_cm.testing import ReplayMismatch, ThreadRuntime

def test_module(compute_module_replay):
    compute_module_replay("recordings/jobs.jsonl")

def test_runtime(compute_modules, compute_module_runtime, compute_module_replay):
    compute_module_runtime.function(lambda query: 3 if query["a"] == 1 else 5, name="add")
    assert compute_module_replay("recordings/jobs.jsonl", runtime=compute_module_runtime).compared == 2
    assert compute_module_replay("recordings/jobs.jsonl", runtime="pytest").skipped == 0

def test_it_can_be_caught(compute_module_replay):
    with pytest.raises(AssertionError, match="1 of 2"):
        compute_module_replay("recordings/jobs.jsonl", ignore=["/id"])
""",
        status=1,
    )
    assert "1 failed, 2 passed" in printed
    shown = [line[1:].strip() for line in printed.splitlines() if line.startswith("E ")]
    assert shown[0].endswith("ReplayMismatch: 1 of 2 replayed jobs differ from jobs.jsonl:")
    assert shown[-4:] == ['add {"a": 2, "b": 2}', "(whole result)", "recorded: 5", "now:      4"]
    # The traceback ends in the test.
    assert "pytest_plugin.py" not in printed


def test_a_real_module_answers_as_it_was_recorded(tmp_path: Path) -> None:
    module = str(ROOT / "tests" / "sdk" / "module.py")
    project = Project(tmp_path)
    # The killed command leaves files behind, which other tests must not find.
    server = Server(tmp_path, tmp_path / "state", "--record", str(tmp_path / "jobs.jsonl"))
    try:
        options = ("--runtime", "one", "--seed", str(server.seed_file))
        process = server.start("exec", *options, "--", SDK_PYTHON, module)
        try:
            for function, query in (
                ("typed", {"a": 6, "b": 7}),
                ("untyped", {"x": ["ü", None]}),
                ("untyped", {"password": "hunter2"}),
                ("raises", {}),
                ("stream", {"n": 5}),
            ):
                execute(server, function, query)
        finally:
            kill(process)
    finally:
        server.stop()
    project.configure(f"compute_modules_command = {SDK_PYTHON} {module}")
    printed = project.run(
        """
def test_module(compute_module_replay):
    replayed = compute_module_replay("jobs.jsonl", ignore=["/jobId", "/userId"])
    assert (replayed.compared, replayed.masked) == (4, 1)

def test_what_is_not_ignored(compute_module_replay):
    compute_module_replay("jobs.jsonl", ignore=["/userId"])
""",
        status=1,
    )
    assert "1 failed, 1 passed" in printed
    assert "1 of 4 replayed jobs differ" in printed and "/jobId" in printed
