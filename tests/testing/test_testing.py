"""Run the emulator and fake runtimes in the reactor, with sockets and without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet._signals import _SIGCHLDWaker
from twisted.internet.defer import Deferred
from twisted.web.client import ResponseNeverReceived

from twisted_cm.broker.interface import UnknownJob
from twisted_cm.config.seed_file import InvalidSeed
from twisted_cm.model.jobs import JobFilter
from twisted_cm.testing import Emulator, FakeRuntime
from twisted_cm.testing.transport import HIGH_WATER

CONTOUR = "/contour-backend-multiplexer/api/module-group-multiplexer"
RUNTIME = "/_emulate/foundry/compute-modules/runtimes/one"
SEED: dict[str, Any] = {
    "foundry": {
        "compute_modules": {
            "runtimes": [{"runtime_id": "one", "module_auth_token": "token-one"}],
            "deployed_apps": [{"deployed_app_rid": "ri.one", "runtime_id": "one"}],
        }
    }
}
MODULE = {"Module-Auth-Token": "token-one"}

both_forms = pytest.mark.parametrize("in_memory", [True, False], ids=["in memory", "sockets"])


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_reactor() -> Iterator[None]:
    sources: Any = reactor

    def kept() -> set[Any]:
        readers = [each for each in sources.getReaders() if not isinstance(each, _SIGCHLDWaker)]
        return {*sources.getDelayedCalls(), *readers, *sources.getWriters()}

    before = kept()
    yield
    assert kept() <= before


async def execute(emulator: Emulator, query: Any) -> bytes:
    body = {"deployedAppRid": "ri.one", "queryType": "f", "query": query}
    answer = await HTTPClient(emulator.agent).post(
        f"{emulator.url}{CONTOUR}/compute-modules/jobs/execute",
        json=body,
        headers={"Authorization": f"Bearer {emulator.token}"},
    )
    content: bytes = await answer.content()
    if answer.code != 200:
        raise LookupError(content)
    return content


async def take(emulator: Emulator) -> Any:
    answer = await HTTPClient(emulator.agent).get(f"{emulator.url}{RUNTIME}/job", headers=MODULE)
    return json.loads(await answer.content())["computeModuleJobV1"]


@both_forms
@pytest_twisted.ensureDeferred
async def test_it_starts_serves_and_leaves_a_clean_reactor(in_memory: bool) -> None:
    emulator = await Emulator.start(SEED, in_memory=in_memory)
    content = bytes(range(256)) * 40_000
    caller = Deferred.fromCoroutine(execute(emulator, "x" * HIGH_WATER * 10))
    job = await take(emulator)
    assert job["query"] == "x" * HIGH_WATER * 10
    posted = await HTTPClient(emulator.agent).post(
        f"{emulator.url}{RUNTIME}/results/{job['jobId']}", data=content, headers=MODULE
    )
    assert posted.code == 204
    assert await caller == content
    assert await emulator.result(job["jobId"]) == content
    assert (await emulator.enqueue("f", None, runtime_id="one")).submission.query == b"null"
    assert (await emulator.enqueue("f", runtime_id="one")).submission.query == b"{}"
    await emulator.stop()


@both_forms
@pytest_twisted.ensureDeferred
async def test_stopping_answers_whoever_is_parked(in_memory: bool) -> None:
    emulator = await Emulator.start(SEED, in_memory=in_memory)
    caller = Deferred.fromCoroutine(execute(emulator, None))
    poll = HTTPClient(emulator.agent).get(f"{emulator.url}{RUNTIME}/job?first", headers=MODULE)
    assert (await poll).code == 200
    stopping = Deferred.fromCoroutine(emulator.stop())
    with pytest.raises(LookupError, match="unavailable"):
        await caller
    await stopping


@pytest_twisted.ensureDeferred
async def test_a_caller_in_memory_that_goes_away_cancels_its_job() -> None:
    emulator = await Emulator.start(SEED, in_memory=True)
    caller = Deferred.fromCoroutine(execute(emulator, None))
    await queued_one(emulator)
    (job,) = await emulator.service.broker.jobs(JobFilter(), 2)
    caller.cancel()
    with pytest.raises(ResponseNeverReceived):
        await caller
    assert (await emulator.wait_for(job.job_id)).state.value == "canceled"
    await emulator.stop()


async def queued_one(emulator: Emulator) -> None:
    """Wait until a job of the runtime ``one`` is queued."""
    while not (await emulator.service.broker.snapshot("one")).queued:
        await turn()


def turn() -> Deferred[None]:
    """Return a Deferred that fires in a later turn of the reactor."""
    passed: Deferred[None] = Deferred()
    reactor.callLater(0, passed.callback, None)  # type: ignore[attr-defined]
    return passed


@pytest_twisted.ensureDeferred
async def test_jobs_by_hand() -> None:
    emulator = await Emulator.start(SEED, in_memory=True)
    await emulator.fail_next(message="no luck", function="f")
    failed = await emulator.enqueue("f", deployed_app_rid="ri.one")
    assert (failed.state.value, failed.error_message) == ("failed", "no luck")
    with pytest.raises(LookupError):
        await emulator.result(failed.job_id)
    job = await emulator.enqueue("f", [1], runtime_id="one")
    with pytest.raises(TimeoutError):
        await emulator.wait_for(job.job_id, timeout=0.01)
    assert (await take(emulator))["jobId"] == job.job_id
    assert (await emulator.job(job.job_id)).state.value == "running"
    await emulator.reset()
    assert job.error_message == "The emulator was reset."
    with pytest.raises(UnknownJob):
        await emulator.job(job.job_id)
    await emulator.stop()


@pytest_twisted.ensureDeferred
async def test_seeds_in_every_form(tmp_path: Path) -> None:
    file = tmp_path / "seed.yaml"
    file.write_text("tokens: {mine: {}}")
    for seed, token in ((None, "test_token_admin"), ("tokens: {mine: {}}", "mine"), (file, "mine")):
        emulator = await Emulator.start(seed, in_memory=True)
        assert emulator.token == token
        await emulator.stop()
    with pytest.raises(InvalidSeed):
        await Emulator.start({"tokens": []})


@pytest_twisted.ensureDeferred
async def test_over_tls() -> None:
    emulator = await Emulator.start(tls=True, poll_timeout=0.5)
    assert emulator.https_url is not None and emulator.https_url.startswith("https://127.0.0.1:")
    assert emulator.ca_certificate is not None and "BEGIN CERTIFICATE" in emulator.ca_certificate
    assert emulator.service.settings.limits.poll_timeout == 0.5
    await emulator.stop()


# Fake runtimes


APP = "ri.foundry.main.deployed-app.mine"


def arithmetic() -> FakeRuntime:
    runtime = FakeRuntime("mine", APP)

    @runtime.function
    def add(query: Any) -> int:
        return int(query["a"] + query["b"])

    @runtime.function(name="later")
    async def slowly(query: Any) -> Any:
        await turn()
        return {"later": query}

    @runtime.function
    def count(query: Any) -> Iterator[int]:
        yield from range(query)

    @runtime.function
    async def letters(query: Any) -> AsyncIterator[Any]:
        for letter in query:
            await turn()
            yield letter.encode()

    return runtime


@both_forms
@pytest_twisted.ensureDeferred
async def test_functions_of_every_kind(in_memory: bool) -> None:
    emulator = await Emulator.start(in_memory=in_memory)
    runtime = await emulator.run(arithmetic())
    application = emulator.application()
    assert (await application.execute(APP, "add", {"a": 2, "b": 40})).json() == 42
    assert (await application.execute(APP, "later", "ü")).json() == {"later": "ü"}
    assert (await application.execute(APP, "count", 5)).content == b"01234"
    assert [chunk async for chunk in application.stream(APP, "letters", "abc")] == [b"a", b"b", b"c"]
    assert "KeyError" in ((await application.execute(APP, "add")).exception or "")
    unknown = (await application.execute(APP, "none")).exception
    assert unknown is not None and "it has: add, count, later, letters" in unknown
    assert [call.query_type for call in runtime.calls] == ["add", "later", "count", "letters", "add", "none"]

    @runtime.function
    def echo(query: Any) -> Any:
        return query

    assert (await application.execute(APP, "echo", [1])).json() == [1]
    shown = await emulator.control().runtime("mine")
    assert [each["function_name"] for each in shown["schemas"]] == ["add", "count", "echo", "later", "letters"]
    await emulator.stop()


@both_forms
@pytest_twisted.ensureDeferred
async def test_a_runtime_goes_on_after_a_refused_poll(in_memory: bool) -> None:
    emulator = await Emulator.start(SEED, in_memory=in_memory)
    await emulator.run(arithmetic())
    fault = await emulator.control().add_fault(kind="poll_error", count=2)
    # The first job goes to the poll that is parked. The polls after it are refused.
    for number in range(3):
        assert (await emulator.application().execute(APP, "count", number)).content == b"01"[:number]
    faults = {each["fault_id"]: each["struck"] for each in await emulator.control().faults()}
    assert faults[fault["fault_id"]] == 2
    await emulator.stop()


@both_forms
@pytest_twisted.ensureDeferred
async def test_a_runtime_is_back_after_a_reset(in_memory: bool) -> None:
    emulator = await Emulator.start(SEED, in_memory=in_memory)
    seeded = FakeRuntime("one")
    seeded.function(lambda query: query, name="f")
    waiting = Deferred.fromCoroutine(emulator.application().execute("ri.one", "f", "waited"))
    await queued_one(emulator)
    await emulator.run(seeded)
    await emulator.run(arithmetic())
    assert (await waiting).json() == "waited"
    await emulator.reset()
    assert seeded.calls == []
    assert (await emulator.application().execute("ri.one", "f", 1)).json() == 1
    assert (await emulator.application().execute(APP, "count", 2)).content == b"01"
    await emulator.stop()


@pytest_twisted.ensureDeferred
async def test_a_function_that_never_returns_is_dropped_at_the_end() -> None:
    emulator = await Emulator.start(SEED, in_memory=True)
    runtime = FakeRuntime("one")
    runtime.function(lambda query: Deferred(), name="f")
    await emulator.run(runtime)
    job = await emulator.enqueue("f", runtime_id="one")
    while not runtime.calls:
        await turn()
    assert job.state.value == "running"
    await emulator.stop()


def test_trial_finds_a_clean_reactor(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TRIAL)
    ran = subprocess.run(
        [sys.executable, "-m", "twisted.trial", "test_mine"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "PASSED (successes=2)" in ran.stdout


TRIAL = """
from twisted.trial.unittest import TestCase
from twisted_cm.testing import EmulatorMixin, FakeRuntime

class InMemory(EmulatorMixin, TestCase):
    async def test_it(self):
        runtime = FakeRuntime("mine", "ri.mine")
        runtime.function(lambda query: query * 2, name="double")
        await self.emulator.run(runtime)
        result = await self.emulator.application().execute("ri.mine", "double", 21)
        self.assertEqual(result.json(), 42)

class OverSockets(InMemory):
    emulator_options = {}
"""
