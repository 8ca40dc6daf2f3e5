"""A supervisor with real processes, on each kind of broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_twisted
from conftest import RUNTIMES, logged, result_of
from supervised_emulator import MODULE, Supervised, gone
from twisted.internet.defer import Deferred, gatherResults

from twisted_cm.model.jobs import JobState
from twisted_cm.supervisor.runtime import CRASHES

Start = Callable[..., Awaitable[Supervised]]


@pytest_twisted.ensureDeferred
async def test_a_module_of_the_seed_is_started(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    found = await emulator.run("who")
    assert found["directory"] == str(emulator.directory)
    (replica,) = await emulator.open_replicas()
    assert replica.replica.replica_id.startswith("replica-own-")
    module = await emulator.until_state("running")
    assert (module["wanted_replicas"], module["starts"], module["error"]) == (1, 1, None)
    await emulator.both.stopService()
    assert gone(found["pid"])


@pytest_twisted.ensureDeferred
async def test_each_process_is_a_replica(supervised: Start) -> None:
    emulator = await supervised(replicas=3)
    await emulator.until_connected(3)
    go = emulator.directory / "go"
    calls = [Deferred.fromCoroutine(emulator.run("wait", str(go))) for _ in range(3)]

    async def all_busy() -> bool:
        return [len(each.job_ids) for each in await emulator.open_replicas()] == [1, 1, 1]

    await emulator.until(all_busy)
    go.touch()
    assert await gatherResults(calls) == ["1", "1", "1"]


@pytest_twisted.ensureDeferred
async def test_a_module_finds_what_the_seed_says(supervised: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWISTED_CM_ADMIN_TOKEN", "secret")
    monkeypatch.setenv("COLOUR", "blue")
    emulator = await supervised(env={"OWN": "${COLOUR}"}, max_concurrent_tasks=2)
    await emulator.until_connected()
    names = ["OWN", "MAX_CONCURRENT_TASKS", "FOUNDRY_COMPUTE_MODULE_RID", "TWISTED_CM_ADMIN_TOKEN", "PYTHONUNBUFFERED"]
    assert await emulator.run("environment", names) == {
        "OWN": "blue",
        "MAX_CONCURRENT_TASKS": "2",
        "FOUNDRY_COMPUTE_MODULE_RID": "ri.one",
        "TWISTED_CM_ADMIN_TOKEN": None,
        "PYTHONUNBUFFERED": "1",
    }
    assert "secret" not in str(await emulator.runtime())


@pytest_twisted.ensureDeferred
async def test_a_process_that_ends_fails_its_job_and_is_started_again(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    first = (await emulator.run("who"))["pid"]
    with logged("the module ended with exit status 3") as lines:
        error = await emulator.run("crash", 3)
        assert error == "The module's process ended with exit status 3. It wrote last:\nabout to crash"
        await emulator.until(lambda: lines)
    waiting = Deferred.fromCoroutine(emulator.run("who"))
    second = (await waiting)["pid"]
    assert second != first
    module = await emulator.until_state("running")
    assert (module["starts"], module["error"]) == (2, None)


@pytest_twisted.ensureDeferred
async def test_a_killed_process_fails_only_its_own_job(supervised: Start) -> None:
    emulator = await supervised(replicas=2)
    await emulator.until_connected(2)
    go = emulator.directory / "go"
    pids = {(await emulator.run("who"))["pid"] for _ in range(6)}
    calls = [Deferred.fromCoroutine(emulator.run("wait", str(go))) for _ in range(2)]

    async def all_busy() -> bool:
        return [len(each.job_ids) for each in await emulator.open_replicas()] == [1, 1]

    await emulator.until(all_busy)
    os.kill(pids.pop(), signal.SIGKILL)
    await emulator.until(lambda: any(each.called for each in calls))
    go.touch()
    assert sorted(await gatherResults(calls)) == [
        "1",
        "The module's process ended with signal SIGKILL. It wrote nothing.",
    ]


@pytest_twisted.ensureDeferred
async def test_a_process_that_ends_five_times_in_a_minute_is_crash_looping(
    supervised: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.supervisor.pauses.FIRST_PAUSE", 0.01)
    emulator = await supervised()
    await emulator.until_connected()
    emulator.version.write_text("broken")
    with logged("crash looping") as lines:
        await emulator.run("crash", 0)
        module = await emulator.until_state("crash looping")
    assert module["starts"] == CRASHES
    assert (
        "the last time it ended with exit status 1" in module["error"] and "twisted-cm restart one" in module["error"]
    )
    assert lines and "this version is broken" in emulator.lines()
    # A job waits, and somebody who has mended the module asks for it to be started.
    waiting = Deferred.fromCoroutine(emulator.run("who"))
    emulator.version.write_text("2")
    status, _, _ = await emulator.call("POST", f"{RUNTIMES}/one/module/restart")
    assert status == 204
    assert (await waiting)["version"] == "2"


@pytest_twisted.ensureDeferred
async def test_a_program_that_is_not_there_is_an_error_that_names_it(
    supervised: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.supervisor.pauses.FIRST_PAUSE", 0.01)
    emulator = await supervised(command=["no-such-program", "x"])
    assert "exit status 127" in (await emulator.until_state("crash looping"))["error"]
    assert "Cannot run no-such-program: No such file or directory." in emulator.lines()


@pytest.mark.parametrize("at", ["inherited_environment", "SupervisedReplica.open"])
@pytest_twisted.ensureDeferred
async def test_any_error_at_the_start_of_a_process_is_shown(
    supervised: Start, monkeypatch: pytest.MonkeyPatch, no_failure_in_the_log: list[str], at: str
) -> None:
    def fail(*args: object) -> None:
        raise ValueError("a fault of the emulator")

    monkeypatch.setattr("twisted_cm.supervisor.pauses.FIRST_PAUSE", 0.01)
    monkeypatch.setattr(f"twisted_cm.supervisor.replica.{at}", fail)
    emulator = await supervised()
    module = await emulator.until_state("crash looping")
    assert "cannot be started: ValueError: a fault of the emulator" in module["error"]
    assert len(no_failure_in_the_log) == CRASHES
    assert all("builtins.ValueError: a fault of the emulator" in each for each in no_failure_in_the_log)
    no_failure_in_the_log.clear()
    assert await emulator.open_replicas() == []
    await emulator.both.stopService()


@pytest_twisted.ensureDeferred
async def test_nothing_that_a_module_has_started_outlives_it(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    child = await emulator.run("child")
    assert psutil.pid_exists(child)
    await emulator.run("crash", 1)
    await emulator.until(lambda: gone(child))
    await emulator.until_connected()
    child = await emulator.run("child")
    await emulator.both.stopService()
    await emulator.until(lambda: gone(child))


@pytest_twisted.ensureDeferred
async def test_a_module_that_ignores_sigterm_is_killed_after_the_grace(supervised: Start) -> None:
    emulator = await supervised(grace=0.2)
    await emulator.until_connected()
    pid = (await emulator.run("who"))["pid"]
    # The first line says that SIGTERM had a handler before.
    assert await emulator.run("stubborn") is True
    await emulator.both.stopService()
    assert gone(pid)


@pytest_twisted.ensureDeferred
async def test_a_deleted_replica_is_replaced(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    pid = (await emulator.run("who"))["pid"]
    (replica,) = await emulator.open_replicas()
    status, _, _ = await emulator.module("DELETE", f"/replicas/{replica.replica.replica_id}")
    assert status == 204
    assert (await emulator.run("who"))["pid"] != pid
    await emulator.until(lambda: gone(pid))
    assert (await emulator.runtime())["module"]["error"] is None


@pytest_twisted.ensureDeferred
async def test_a_reset_of_the_emulator_leaves_modules_and_schemas(supervised: Start) -> None:
    emulator = await supervised(modules={"validate_queries": True})
    await emulator.until_connected()
    before = await emulator.run("who")
    status, _, _ = await emulator.call("POST", "/_emulate/foundry/compute-modules/reset")
    assert status == 204
    assert (await emulator.run("who")) == before
    runtime = await emulator.runtime()
    assert "who" in [each["function_name"] for each in runtime["schemas"]]
    assert (runtime["module"]["starts"], runtime["module"]["error"]) == (1, None)


@pytest_twisted.ensureDeferred
async def test_a_session_of_its_runtime_leaves_the_module(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    before = await emulator.run("who")
    body = {"runtimeId": "one", "keepBindings": True}
    status, _, _ = await emulator.call("POST", RUNTIMES, body)
    assert status == 200
    assert (await emulator.run("who")) == before


# Output


@pytest_twisted.ensureDeferred
async def test_output_is_kept_with_the_job_that_it_belongs_to(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    for lines in (["one", "two ü"], ["three"], []):
        job_id = await emulator.submit("print", lines)

        async def kept(job_id: str = job_id) -> str | None:
            return (await emulator.broker.job(job_id)).output

        expected = "".join(f"{line}\n" for line in (*lines, "and to standard error"))
        assert await emulator.until(kept) == expected
        path = f"/_emulate/foundry/compute-modules/jobs/{job_id}"
        _, described, _ = await emulator.call("GET", path, Authorization="Bearer app-token")
        assert described["output"] == expected
    last = "and to standard error"
    assert [each.text for each in emulator.supervisor.output.last("one") if each.replica_id] == [
        *("one", "two ü", last),
        *("three", last),
        last,
    ]


@pytest_twisted.ensureDeferred
async def test_with_several_jobs_at_once_lines_of_json_name_theirs(supervised: Start) -> None:
    emulator = await supervised(max_concurrent_tasks=2)
    await emulator.until_connected()
    go = emulator.directory / "go"
    ids = [await emulator.submit("log", {"message": each, "until": str(go)}) for each in ("a", "b")]
    await emulator.until(lambda: sum("message" in line for line in emulator.lines()) == 2)
    go.touch()
    for job_id, message in zip(ids, ("a", "b"), strict=True):

        async def kept(job_id: str = job_id) -> str | None:
            return (await emulator.broker.job(job_id)).output

        output = await emulator.until(kept)
        assert f'"message": "{message}"' in output and output.count("\n") == 1


@pytest_twisted.ensureDeferred
async def test_the_output_of_a_job_that_failed_with_its_process_is_kept(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    job_id = await emulator.submit("crash", 4)

    async def failed() -> Any:
        job = await emulator.broker.job(job_id)
        return job.state is JobState.FAILED and job.output

    assert await emulator.until(failed) == "about to crash\n"


@pytest_twisted.ensureDeferred
async def test_a_route_sends_the_output_and_follows_it(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_state("running")
    await emulator.run("print", ["one"])
    path = f"{RUNTIMES}/one/module/output"
    status, body, headers = await emulator.call("GET", f"{path}?lines=2", Authorization="Bearer app-token")
    assert (status, headers.getRawHeaders("Content-Type")) == (200, ["application/x-ndjson"])
    assert [line.split(b'"text": ')[1] for line in body.splitlines()] == [b'"one"}', b'"and to standard error"}']
    for wrong in ("0", "1001", "x"):
        status, _, _ = await emulator.call("GET", f"{path}?lines={wrong}", Authorization="Bearer app-token")
        assert status == 400
    status, _, _ = await emulator.call("GET", path)
    assert status == 401
    status, _, _ = await emulator.call("GET", path.replace("one", "none"), Authorization="Bearer app-token")
    assert status == 404


@pytest_twisted.ensureDeferred
async def test_output_is_recorded_without_secrets(supervised: Start, tmp_path: Path) -> None:
    emulator = await supervised(record=tmp_path / "jobs.jsonl")
    await emulator.until_connected()
    await emulator.run("print", ["one", '{"password": "hunter2"}'])
    await emulator.run("crash", 1)
    await emulator.both.stopService()
    lines = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    assert [each["output"] for each in lines] == [
        'one\n{"password": "***"}\nand to standard error\n',
        "about to crash\n",
    ]


# Time limits


@pytest_twisted.ensureDeferred
async def test_a_job_that_takes_too_long_fails_and_its_process_is_replaced(supervised: Start, tmp_path: Path) -> None:
    emulator = await supervised(functions={"wait": {"job_timeout": 0.3}}, grace=0.2)
    await emulator.until_connected()
    pid = (await emulator.run("who"))["pid"]
    error = await emulator.run("wait", str(tmp_path / "never"))
    assert error == "The job ran for longer than its time limit of 0.3 seconds."
    assert (await emulator.run("who"))["pid"] != pid
    await emulator.until(lambda: gone(pid))
    assert (await emulator.runtime())["module"]["error"] is None


@pytest_twisted.ensureDeferred
async def test_a_time_limit_of_a_runtime_holds_for_functions_without_one(supervised: Start, tmp_path: Path) -> None:
    emulator = await supervised(job_timeout=0.3, functions={"log": {"job_timeout": 600}})
    await emulator.until_connected()
    error = await emulator.run("wait", str(tmp_path / "never"))
    assert error == "The job ran for longer than its time limit of 0.3 seconds."
    await emulator.until_connected()
    go = tmp_path / "go"
    slow = Deferred.fromCoroutine(emulator.run("log", {"message": "x", "until": str(go)}))
    await emulator.until(lambda: any("message" in line for line in emulator.lines()))
    emulator.both.emulator._reactor.callLater(0.6, go.touch)
    assert await slow is None


# Reload


@pytest_twisted.ensureDeferred
async def test_a_changed_file_replaces_the_module_and_loses_nothing(supervised: Start) -> None:
    emulator = await supervised(reload=True)
    await emulator.until_connected()
    source, go = emulator.directory / "source.py", emulator.directory / "go"
    running = Deferred.fromCoroutine(emulator.run("wait", str(go)))
    await emulator.until_running()
    done = await emulator.submit("who")
    emulator.version.write_text("2")
    source.write_text("")
    # The new process takes the job that waited, while the old one still runs its own.

    async def succeeded() -> bool:
        return (await emulator.broker.job(done)).state is JobState.SUCCEEDED

    await emulator.until(succeeded)
    assert not running.called
    go.touch()
    assert await running == "1"
    await emulator.until_connected(1)
    assert (await emulator.run("who"))["version"] == "2"
    assert "reloaded" in emulator.lines()


def test_the_thread_that_watches_files_imports_nothing() -> None:
    """It would miss the changes that are made meanwhile."""
    code = (
        "import sys; from pathlib import Path; from twisted.internet import reactor;"
        " from twisted_cm.supervisor.watching import FileWatcher;"
        " FileWatcher(reactor, print).start([Path()]); print('watchfiles' in sys.modules)"
    )
    # The thread does not start, because the reactor does not run.
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert ran.stdout == "True\n"


@pytest_twisted.ensureDeferred
async def test_a_module_that_does_not_start_any_more_leaves_the_old_one(supervised: Start) -> None:
    emulator = await supervised(reload=True)
    await emulator.until_connected()
    before = await emulator.run("who")
    emulator.version.write_text("broken")
    (emulator.directory / "source.py").write_text("")

    async def error() -> str | None:
        found: str | None = (await emulator.runtime())["module"]["error"]
        return found

    assert await emulator.until(error) == (
        "the changed module does not start: it ended with exit status 1; the old one stays"
    )
    assert "this version is broken" in emulator.lines()
    assert await emulator.run("who") == before
    emulator.version.write_text("3")
    (emulator.directory / "source.py").write_text("mended")

    async def mended() -> bool:
        return (await emulator.run("who"))["version"] == "3" and await error() is None

    await emulator.until(mended)


@pytest_twisted.ensureDeferred
async def test_files_that_are_no_source_change_nothing(supervised: Start) -> None:
    emulator = await supervised(reload=True)
    await emulator.until_connected()
    before = await emulator.run("who")
    for name in ("data.txt", "jobs.jsonl", ".git/x.py", "node_modules/x.js"):
        path = emulator.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    # A change that counts comes after them.
    with logged("source.py changed, reloading") as lines:
        (emulator.directory / "source.py").write_text("x")
        await emulator.until(lambda: lines)
    assert (await emulator.runtime())["module"]["starts"] <= 2
    assert before["version"] == "1"


# Scaling


@pytest_twisted.ensureDeferred
async def test_replicas_follow_the_load(supervised: Start) -> None:
    emulator = await supervised(replicas={"min": 0, "max": 2, "scale_up_delay": 0.1, "scale_down_delay": 0.3})

    async def zero() -> bool:
        return await emulator.open_replicas() == []

    await emulator.until(zero)
    await emulator.until_state("scaled to zero")
    go = emulator.directory / "go"
    first = Deferred.fromCoroutine(emulator.run("wait", str(go)))
    await emulator.until_connected(2)
    module = await emulator.until_state("running")
    assert 0 < module["cold_start_ms"] < 30_000
    assert any(line.startswith("cold start: connected ") for line in emulator.lines())
    go.touch()
    assert await first == "1"
    await emulator.until(zero)
    assert (await emulator.runtime())["module"]["error"] is None


@pytest_twisted.ensureDeferred
async def test_while_one_process_starts_again_the_others_stay(supervised: Start) -> None:
    emulator = await supervised(replicas=3)
    await emulator.until_connected(3)
    before = {each.replica.replica_id for each in await emulator.open_replicas()}
    await emulator.run("crash", 1)

    async def started() -> bool:
        return int((await emulator.runtime())["module"]["starts"]) > 3

    # The answer may arrive before the supervisor has noticed the crash.
    await emulator.until(started)
    await emulator.until_connected(3)
    after = {each.replica.replica_id for each in await emulator.open_replicas()}
    assert len(before & after) == 2
    assert (await emulator.runtime())["module"]["starts"] == 4


@pytest_twisted.ensureDeferred
async def test_a_reset_during_a_reload_leaves_one_process(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    old = (await emulator.run("who"))["pid"]
    emulator.supervisor.restart("one")
    status, _, _ = await emulator.call("POST", "/_emulate/foundry/compute-modules/reset")
    assert status == 204
    await emulator.until(lambda: gone(old))
    await emulator.until_connected(1)
    assert (await emulator.run("who"))["pid"] != old


@pytest_twisted.ensureDeferred
async def test_two_changes_at_once_leave_one_process(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    for version in ("2", "3", "4"):
        emulator.version.write_text(version)
        emulator.supervisor.restart("one")

    async def last() -> bool:
        return (await emulator.run("who"))["version"] == "4"

    await emulator.until(last)
    await emulator.until_connected(1)

    def one() -> bool:
        return sum(str(MODULE) in each.cmdline() for each in psutil.Process().children()) == 1

    await emulator.until(one)


# What went wrong once


@pytest_twisted.ensureDeferred
async def test_a_process_that_cannot_even_be_started_is_crash_looping_with_the_reason(
    supervised: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.supervisor.pauses.FIRST_PAUSE", 0.01)
    emulator = await supervised()
    await emulator.until_state("running")
    emulator.directory.rename(emulator.directory.with_name("elsewhere"))
    # A reload leaves the process that works.
    emulator.supervisor.restart("one")

    async def refused() -> Any:
        return (await emulator.runtime())["module"]["error"]

    assert "the changed module does not start: it cannot be started: there is no directory" in await emulator.until(
        refused
    )
    await emulator.run("crash", 1)
    module = await emulator.until_state("crash looping")
    assert "there is no directory" in module["error"] and module["starts"] == 1 + 1 + CRASHES - 1
    emulator.directory.with_name("elsewhere").rename(emulator.directory)
    emulator.supervisor.restart("one")
    assert (await emulator.run("who"))["version"] == "1"


@pytest_twisted.ensureDeferred
async def test_each_server_replaces_its_own_process_after_a_time_limit(supervised: Start, tmp_path: Path) -> None:
    limits = {"functions": {"wait": {"job_timeout": 0.5}}, "grace": 0.2}
    first = await supervised(**limits)
    await first.until_connected()
    second = await supervised(**limits)
    for emulator in (first, second):
        await emulator.until_state("running")
    pids = {each.pid for each in psutil.Process().children() if str(MODULE) in each.cmdline()}
    assert len(pids) == 2
    never = str(tmp_path / "never")
    for _ in range(2):
        errors = await gatherResults([Deferred.fromCoroutine(each.run("wait", never)) for each in (first, second)])
        assert errors == ["The job ran for longer than its time limit of 0.5 seconds."] * 2
    for emulator in (first, second):
        assert (await emulator.run("who"))["pid"] not in pids
    await first.until(lambda: all(gone(pid) for pid in pids))


@pytest_twisted.ensureDeferred
async def test_a_reload_during_a_reload_lets_new_processes_finish_their_jobs(supervised: Start) -> None:
    emulator = await supervised(replicas=2)
    await emulator.until_connected(2)
    (emulator.directory / "slow").touch()
    emulator.supervisor.restart("one")
    go = emulator.directory / "go"
    calls = [Deferred.fromCoroutine(emulator.run("wait", str(go))) for _ in range(3)]

    async def three_run() -> bool:
        return sum(len(each.job_ids) for each in await emulator.open_replicas()) == 3

    await emulator.until(three_run)
    emulator.supervisor.restart("one")
    await emulator.until_connected(5)
    go.touch()
    assert await gatherResults(calls) == ["1", "1", "1"]
    (emulator.directory / "slow.taken").unlink()
    await emulator.until_connected(2)
    assert (await emulator.runtime())["module"]["error"] is None


@pytest_twisted.ensureDeferred
async def test_a_new_process_whose_replica_is_deleted_is_started_again(supervised: Start) -> None:
    emulator = await supervised()
    await emulator.until_connected()
    (old,) = await emulator.open_replicas()
    emulator.version.write_text("2")
    emulator.supervisor.restart("one")

    async def new() -> Any:
        found = [each.replica.replica_id for each in await emulator.open_replicas()]
        return [each for each in found if each != old.replica.replica_id]

    (replica_id, *_) = await emulator.until(new)
    await emulator.module("DELETE", f"/replicas/{replica_id}")

    async def changed() -> bool:
        return (await emulator.run("who"))["version"] == "2"

    await emulator.until(changed)
    await emulator.until_connected(1)


@pytest_twisted.ensureDeferred
async def test_no_process_is_started_while_the_emulator_stops(supervised: Start, tmp_path: Path) -> None:
    emulator = await supervised(functions={"wait": {"job_timeout": 0.3}}, grace=1)
    await emulator.until_connected()
    await emulator.run("stubborn")
    waiting = Deferred.fromCoroutine(emulator.run("wait", str(tmp_path / "never")))
    await emulator.until_running()
    starts = (await emulator.runtime())["module"]["starts"]
    stopped = emulator.both.stopService()
    assert await waiting == "The job ran for longer than its time limit of 0.3 seconds."
    await stopped
    assert result_of(emulator.supervisor.describe("one"))["starts"] == starts
    assert not list((tmp_path / "state" / "runtimes" / "one").iterdir())
