"""The metrics as Prometheus reads them, and the routes for health checks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import pytest
import pytest_twisted
from conftest import CONTOUR, ROOT, RUNTIMES, Harness, make_harness, pause, raw_poll, result_of, serve_one
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from twisted_cm.broker.interface import BrokerStopped
from twisted_cm.broker.memory import MemoryBroker
from twisted_cm.broker.results import ResultBody
from twisted_cm.metrics import Metrics
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.model.limits import JobLimits
from twisted_cm.model.registry import SessionRequest

APP = {"Authorization": "Bearer app-token"}
DASHBOARD = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def samples(text: str) -> dict[str, float]:
    """Return the value of every sample of an exposition, by its name and the values of its labels."""
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(harness: Harness) -> tuple[str, dict[str, float]]:
    status, text, headers = await harness.call("GET", "/metrics")
    assert status == 200
    assert headers.getRawHeaders("Content-Type")[0].startswith("text/plain; version=")
    return text.decode(), samples(text.decode())


def submission(source: JobSource = JobSource.CONTOUR_ASYNC) -> Submission:
    return Submission("f", b"{}", source)


def test_each_step_of_a_job_is_counted_once() -> None:
    clock = Clock()
    broker = MemoryBroker(clock, limits=JobLimits(lease=20, max_attempts=2))
    metrics = Metrics(lambda: 7)
    broker.observe(metrics.changed)
    result_of(broker.open_session(SessionRequest("one")))

    def counted() -> dict[str, float]:
        return samples(metrics.exposition(result_of(broker.load()))[0].decode())

    assert counted()["twisted_cm_jobs_submitted_total contour-async"] == 0
    # This job succeeds. It waits for 4 seconds and runs for 8.
    first = result_of(broker.enqueue("one", submission()))
    caller = broker.wait_result(first.job_id, 60)
    clock.advance(4)
    result_of(broker.poll("one", 0))
    clock.advance(8)
    found = counted()
    assert found["twisted_cm_parked_callers"] == found["twisted_cm_running_jobs"] == 1
    body = ResultBody()
    body.write(b"x" * 1000)
    result_of(broker.complete(first.job_id, body))
    assert result_of(caller) is first
    # One job is canceled in the queue. The lease of another runs out twice.
    result_of(broker.cancel(result_of(broker.enqueue("one", submission(JobSource.RUNTIME_DIRECT))).job_id, "no"))
    result_of(broker.enqueue("one", submission(JobSource.CONTOUR_SYNC)))
    result_of(broker.poll("one", 0))
    clock.advance(20)
    assert counted()["twisted_cm_queued_jobs"] == 1
    result_of(broker.poll("one", 0))
    clock.advance(20)
    result_of(broker.enqueue("one", submission()))
    result_of(broker.poll("one", 0))
    polls = [broker.poll("one", 60) for _ in range(2)]
    found = counted()
    assert {name: value for name, value in found.items() if "_jobs_" in name and value} == {
        "twisted_cm_jobs_submitted_total contour-async": 2,
        "twisted_cm_jobs_submitted_total contour-sync": 1,
        "twisted_cm_jobs_submitted_total runtime-direct": 1,
        "twisted_cm_jobs_finished_total contour-async succeeded": 1,
        "twisted_cm_jobs_finished_total runtime-direct canceled": 1,
        "twisted_cm_jobs_finished_total contour-sync failed": 1,
        "twisted_cm_jobs_queued_again_total": 1,
    }
    assert found["twisted_cm_job_dispatch_seconds_count"] == 3
    assert found["twisted_cm_job_dispatch_seconds_sum"] == 4
    assert [found[f"twisted_cm_job_dispatch_seconds_bucket {le}"] for le in ("0.001", "2.5", "5.0", "+Inf")] == [
        2,
        2,
        3,
        3,
    ]
    assert (found["twisted_cm_job_run_seconds_count"], found["twisted_cm_job_run_seconds_sum"]) == (2, 28)
    assert (found["twisted_cm_result_size_bytes_count"], found["twisted_cm_result_size_bytes_sum"]) == (1, 1000)
    assert (found["twisted_cm_runtimes"], found["twisted_cm_connected_runtimes"]) == (1, 1)
    assert (found["twisted_cm_parked_callers"], found["twisted_cm_parked_polls"]) == (0, 2)
    assert (found["twisted_cm_queued_jobs"], found["twisted_cm_running_jobs"]) == (0, 1)
    assert found["twisted_cm_open_connections"] == 7
    result_of(broker.stop())
    assert [result_of(poll) for poll in polls] == [None, None]


def test_a_value_on_a_bound_is_within_its_bucket() -> None:
    clock = Clock()
    broker = MemoryBroker(clock)
    metrics = Metrics(lambda: 0)
    broker.observe(metrics.changed)
    result_of(broker.open_session(SessionRequest("one")))
    for seconds in (0, 1, 1.5, 2.5, 3):
        result_of(broker.enqueue("one", submission()))
        clock.advance(seconds)
        result_of(broker.poll("one", 0))
    found = samples(metrics.exposition(result_of(broker.load()))[0].decode())
    buckets = [found[f"twisted_cm_job_dispatch_seconds_bucket {le}"] for le in ("1.0", "2.5", "5.0", "+Inf")]
    assert buckets == [2, 4, 5, 5]
    assert found["twisted_cm_job_dispatch_seconds_sum"] == 8


@pytest_twisted.ensureDeferred
async def test_connections_errors_and_the_process_are_counted_and_each_emulator_counts_for_itself(
    harness: Harness,
) -> None:
    other = make_harness()
    try:
        poller = await raw_poll(harness)
        await harness.until(lambda: harness.work("one").parked_polls)
        for path, token in (("/jobs", "wrong"), ("/jobs", "wrong"), ("/nowhere", "wrong")):
            await harness.call("GET", CONTOUR + path, Authorization=f"Bearer {token}")
        assert (await harness.call("GET", RUNTIMES))[0] == 401
        _, found = await scrape(harness)
        assert found["twisted_cm_open_connections"] == len(harness.service.site.channels) >= 2
        assert found["twisted_cm_parked_polls"] == 1
        errors = {name.split()[1]: value for name, value in found.items() if name.startswith("twisted_cm_error")}
        assert errors == {"method_not_allowed": 2, "not_found": 1, "invalid_token": 1}
        assert found["process_resident_memory_bytes"] > 10 * 1024**2
        poller.close()
        _, found = await scrape(other)
        assert (found["twisted_cm_parked_polls"], found["twisted_cm_open_connections"]) == (0, 1)
        assert not any(name.startswith("twisted_cm_error") for name in found)
    finally:
        await other.pool.closeCachedConnections()
        await other.service.stopService()


async def busy(harness: Harness, times: int = 1) -> None:
    """Let jobs end in each way, and send requests that are refused."""
    for _ in range(times):
        for runtime in ("one", "two"):
            caller = harness.execute(rid=f"ri.{runtime}")
            await serve_one(harness, b"x" * 5000, runtime)
            assert (await caller)[0] == 200
        _, handle, _ = await harness.app("POST", "/deployed-apps/jobs", {"deployedAppRid": "ri.one", "queryType": "f"})
        assert (await harness.app("DELETE", f"/jobs/{handle['id']}"))[0] == 204
        assert (await harness.call("GET", RUNTIMES, Authorization="Bearer wrong"))[0] == 401
        assert (await harness.app("GET", "/jobs/none/status"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_the_number_of_series_does_not_depend_on_what_runs(harness: Harness) -> None:
    await busy(harness)
    before, _ = await scrape(harness)
    for number in range(3):
        session = {"runtimeId": f"odd-{number}", "deployedAppRid": f"ri.odd-{number}"}
        assert (await harness.call("POST", RUNTIMES, session))[0] == 200
        body = {"deployedAppRid": f"ri.odd-{number}", "queryType": f"odd-{number}"}
        assert (await harness.app("POST", "/deployed-apps/jobs", body))[0] == 200
        assert (await harness.app("GET", f"/jobs/odd-{number}/status"))[0] == 404
        assert (await harness.call("GET", f"/odd-{number}"))[0] == 404
    after, found = await scrape(harness)
    assert "odd" not in after
    assert found["twisted_cm_runtimes"] == 5
    assert samples(before).keys() == found.keys()


@pytest_twisted.ensureDeferred
async def test_every_metric_is_documented_and_no_other(harness: Harness) -> None:
    await busy(harness)
    _, found = await scrape(harness)
    served = {name.split()[0] for name in found if name.startswith("twisted_cm_")}
    served = {re.sub("_(bucket|sum|count)$", "", name) for name in served}
    assert set(re.findall(r"twisted_cm_\w+(?=[`{])", (ROOT / "docs" / "monitoring.rst").read_text())) == served


def test_the_dashboard_does_not_add_up_what_all_emulators_share() -> None:
    shared = re.compile(r"twisted_cm_(queued_jobs|running_jobs|runtimes|connected_runtimes)\b")
    found = [each for each in EXPRESSIONS if shared.search(each)]
    assert len(found) == 4
    assert all(each.startswith("max(") for each in found)


@pytest_twisted.ensureDeferred
async def test_promtool_finds_nothing_to_say(harness: Harness) -> None:
    await busy(harness)
    text, _ = await scrape(harness)
    ran = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_command_that_serves_nothing_imports_nothing_of_prometheus() -> None:
    code = "import sys, twisted_cm.cli; print('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20).stdout == b"False\n"


class Prometheus:
    """A Prometheus server that scrapes one emulator every half second with a bearer token."""

    def __init__(self, directory: Path, target: str) -> None:
        configuration = directory / "prometheus.yml"
        configuration.write_text(
            "global: {scrape_interval: 500ms}\n"
            "scrape_configs:\n"
            "  - job_name: twisted-cm\n"
            "    authorization: {credentials: app-token}\n"
            f"    static_configs: [targets: ['{urlsplit(target).netloc}']]\n"
        )
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(r"Listening on.* address=(127\.0\.0\.1:\d+)", line)
            if found:
                self.url = f"http://{found[1]}"
            if "Server is ready" in line:
                break

    def query(self, expression: str) -> list[Any]:
        """Return the series that an expression has now."""
        with urlopen(f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=10) as answer:
            series: list[Any] = json.load(answer)["data"]["result"]
            return series


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """Start an emulator that believes other machines can reach it."""
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    made = make_harness(admin_token="boss")
    yield made
    pytest_twisted.blockon(made.pool.closeCachedConnections())
    pytest_twisted.blockon(made.service.stopService())


@pytest_twisted.ensureDeferred
async def test_prometheus_has_a_series_for_every_expression_of_the_dashboard(guarded: Harness, tmp_path: Path) -> None:
    assert len(EXPRESSIONS) > 20
    await busy(guarded)
    prometheus = await deferToThread(Prometheus, tmp_path, guarded.service.addresses.http)
    try:
        missing = EXPRESSIONS
        for _ in range(100):
            await busy(guarded)
            found = []
            for each in missing:
                expression = each.replace("$__rate_interval", "5s").replace("$instance", ".*")
                assert "$" not in expression
                found.append(await deferToThread(prometheus.query, expression))
            missing = [each for each, series in zip(missing, found, strict=True) if not series]
            if not missing:
                break
            await pause(0.1)
        assert missing == []
    finally:
        prometheus.process.terminate()
        await deferToThread(prometheus.process.communicate)


# Health


@pytest_twisted.ensureDeferred
async def test_it_is_alive_and_ready(harness: Harness) -> None:
    assert (await harness.call("GET", "/healthz"))[:2] == (200, b"ok\n")
    status, parts, _ = await harness.call("GET", "/readyz")
    assert (status, parts) == (200, {"listening": True, "broker": True, "seed": True})


async def ready(harness: Harness) -> tuple[int, Any]:
    status, answer, headers = await harness.call("GET", "/readyz")
    assert (answer["error"], headers.getRawHeaders("Retry-After")) == ("unavailable", ["1"])
    assert (await harness.call("GET", "/healthz"))[0] == 200
    return status, answer["parameters"]


@pytest_twisted.ensureDeferred
async def test_it_is_not_ready_while_its_broker_cannot_be_reached(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.service.PING_TIMEOUT", 0.05)
    for ping in (lambda: fail(BrokerStopped()), Deferred):
        monkeypatch.setattr(harness.broker, "ping", ping)
        assert await ready(harness) == (503, {"listening": True, "broker": False, "seed": True})
    monkeypatch.undo()
    assert (await harness.call("GET", "/readyz"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_it_is_not_ready_until_the_seed_has_taken_effect(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading: Deferred[None] = Deferred()
    monkeypatch.setattr(harness.broker, "reset", lambda registry: loading)
    reset = Deferred.fromCoroutine(harness.service.reset())
    assert await ready(harness) == (503, {"listening": True, "broker": True, "seed": False})
    loading.callback(None)
    await reset
    assert (await harness.call("GET", "/readyz"))[0] == 200
    # If the broker refuses the seed, the state before the reset stays in effect.
    monkeypatch.setattr(harness.broker, "reset", lambda registry: fail(BrokerStopped()))
    with pytest.raises(BrokerStopped):
        await harness.service.reset()
    assert (await harness.call("GET", "/readyz"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_it_is_not_ready_while_it_stops_though_alive() -> None:
    harness = make_harness()
    assert (await harness.call("GET", "/readyz"))[0] == 200
    # While it stops, the emulator still answers requests on connections that are open.
    stopping = harness.service.stopService()
    status, answer, _ = await harness.call("GET", "/readyz")
    assert (status, answer["parameters"]) == (503, {"listening": False, "broker": False, "seed": True})
    await stopping
    await harness.pool.closeCachedConnections()
