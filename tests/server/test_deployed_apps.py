"""The routes of deployed apps and module groups over real sockets, and as Foundry's generated clients call them."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import pytest_twisted
from conftest import CONTOUR, ROOT, RUNTIMES, Harness
from server.contour_steps import take
from twisted.internet.threads import deferToThread

from twisted_cm.model.jobs import JobFilter

APPS = "/contour-backend-multiplexer/api/deployed-apps"
TYPESCRIPT = ROOT / "tests" / "sdk" / "typescript"


async def ask(harness: Harness, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Send a request of an application; return the status and the body of the answer."""
    return (await harness.call(method, APPS + path, body, Authorization="Bearer app-token"))[:2]


@pytest_twisted.ensureDeferred
async def test_schemas_of_a_deployed_app(harness: Harness) -> None:
    by_query = f"{CONTOUR}/schemas?rid=ri.one&branch=master"
    by_path = "/contour-backend-multiplexer/api/deployed-apps/ri.one/master/function-schemas"
    for path in (by_query, by_path, f"{CONTOUR}/schemas?rid=ri.one"):
        assert (await harness.call("GET", path, Authorization="Bearer app-token"))[:2] == (200, None)
    await harness.module("POST", "/schemas", [])
    assert (await harness.call("GET", by_query, Authorization="Bearer app-token"))[1] == []
    output = {"type": "single", "single": {"dataType": {"type": "string", "string": {}}}}
    posted = [
        {"functionName": "g", "inputs": [{"name": "x"}], "output": output, "ontologyProvenance": None},
        {"functionName": "f", "inputs": [], "output": output, "new": 1},
    ]
    await harness.module("POST", "/schemas", posted)
    expected = [
        {"functionName": "f", "inputs": [], "output": output, "issues": []},
        {"functionName": "g", "inputs": [{"name": "x"}], "output": output, "issues": ["CANNOT_PARSE_INPUTS"]},
    ]
    for path in (by_query, by_path):
        assert (await harness.call("GET", path, Authorization="Bearer app-token"))[1] == expected
    for path, code in (
        (f"{CONTOUR}/schemas", 400),
        (f"{CONTOUR}/schemas?rid=%20", 400),
        (f"{CONTOUR}/schemas?rid=%ff", 400),
        (f"{CONTOUR}/schemas?rid=ri.one&rid=ri.two", 400),
        (f"{CONTOUR}/schemas?rid=ri.none", 404),
        (f"{CONTOUR}/schemas?rid=ri.one&branch=dev", 404),
        (by_path.replace("ri.one", "ri.off"), 404),
    ):
        assert (await harness.call("GET", path, Authorization="Bearer app-token"))[0] == code, path
        assert (await harness.call("GET", path))[0] == 401


@pytest_twisted.ensureDeferred
async def test_the_status_of_a_deployed_app(harness: Harness) -> None:
    path = "/contour-backend-multiplexer/api/deployed-apps/ri.one/master/status"
    states = []
    for _ in range(2):
        _, answer, _ = await harness.call("GET", path, Authorization="Bearer app-token")
        states.append((answer["currentReplicaSet"]["state"], answer["currentReplicaSet"]["responsiveReplicas"]))
        await harness.call("GET", f"{RUNTIMES}/one/job", Module_Auth_Token="token-one", Prefer="wait=0")
    assert states == [("STARTING", 0), ("ACTIVE", 1)]
    assert answer["computeModuleId"] == "ri.one"
    assert (await harness.call("GET", path.replace("ri.one", "ri.none"), Authorization="Bearer app-token"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_the_configuration_of_a_deployed_app(anywhere: Harness) -> None:
    for name, branch in (("one", "dev"), ("three", "feature/x")):
        session = {"runtimeId": name, "deployedAppRid": "ri.one", "branch": branch, "displayName": f"On {branch}"}
        assert (await anywhere.call("POST", RUNTIMES, {**session, "keepBindings": True}))[0] == 200
    _, two, _ = await anywhere.call("POST", f"{RUNTIMES}/one/replicas", {"maxConcurrentTasks": 3})
    await anywhere.call("POST", f"{RUNTIMES}/three/replicas", {"maxConcurrentTasks": 5})
    await anywhere.call(
        "POST",
        f"{RUNTIMES}/one/replicas/{two['replicaId']}/schemas",
        [{"name": "g"}, {"name": "f"}],
        Module_Auth_Token=two["moduleAuthToken"],
    )
    status, found = await ask(anywhere, "GET", "/ri.one/v2")
    assert status == 200
    assert found["deployedAppRid"] == "ri.one"
    assert found["runtimeParameters"]["type"] == "runtimeParamsV1"
    scaling = found["runtimeParameters"]["runtimeParamsV1"]["scalingConfig"]
    assert (scaling["minReplicas"], scaling["maxReplicas"], scaling["concurrencyLimit"]) == (1, 1, 3)
    assert found["computationParameters"]["computationParamsV1"]["foundryDataAccess"] is False
    shown = [(each["branch"], each["displayName"], each["runtimeId"], each["functions"]) for each in found["branches"]]
    assert shown == [
        ("master", None, "one", ["f", "g"]),
        ("dev", "On dev", "one", ["f", "g"]),
        ("feature/x", "On feature/x", "three", None),
    ]
    assert await ask(anywhere, "GET", "/ri.one") == (200, found)
    _, other = await ask(anywhere, "GET", "/ri.two/v2")
    assert other["jobSpecRid"] != found["jobSpecRid"]
    # Clients of the first version expect an empty answer.
    for rid in ("ri.none", "ri.off"):
        assert await ask(anywhere, "GET", f"/{rid}") == (204, b"")
        assert (await ask(anywhere, "GET", f"/{rid}/v2"))[0] == 404


def in_hours(hours: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(hours=hours)).isoformat()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"automaticUpgradesUntil": in_hours(1)}, 204),
        ({"automaticUpgradesUntil": in_hours(1).replace("+00:00", "Z")}, 204),
        ({"automaticUpgradesUntil": "2020-01-31T12:00Z"}, 204),
        ({"automaticUpgradesUntil": "2020-01-31T12:00:00.123456789+05:30"}, 204),
        ({"automaticUpgradesUntil": None}, 204),
        ({}, 204),
        ({"automaticUpgradesUntil": "9999-12-31T23:59:59-23:59"}, 400),
        ({"automaticUpgradesUntil": in_hours(6)}, 400),
        ({"automaticUpgradesUntil": "2020-01-31T12:00:00"}, 400),
        ({"automaticUpgradesUntil": "2020-02-31T12:00:00Z"}, 400),
        ({"automaticUpgradesUntil": "tomorrow"}, 400),
        ({"automaticUpgradesUntil": 5}, 400),
        ([], 400),
        (b"{", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_dev_mode_is_checked(harness: Harness, body: Any, status: int) -> None:
    found, answer = await ask(harness, "PUT", "/ri.one/master/dev-mode", body)
    assert found == status
    if isinstance(body, dict) and status == 400:
        assert answer["parameters"] == {"field": "automaticUpgradesUntil"}
    for path in ("/ri.none/master", "/ri.one/dev", "/ri.off/master"):
        assert (await ask(harness, "PUT", f"{path}/dev-mode", body))[0] == (404 if status == 204 else 400)


@pytest_twisted.ensureDeferred
async def test_a_job_is_submitted_to_a_module_group(anywhere: Harness) -> None:
    _, status = await ask(anywhere, "GET", "/ri.one/master/status")
    group = status["currentReplicaSet"]["moduleGroupName"]
    # What Foundry's client requires. All but the first three have no effect.
    body: dict[str, Any] = {
        "moduleGroupName": group,
        "queryType": "f",
        "query": {"x": 9007199254740993},
        "extraResourceManagementAttributionRids": [],
        "resourceManagementAttributionRid": "ri.compass.main.folder.x",
        "resourceManagementMetadata": [],
        "cacheKey": "key",
        "jobId": None,
    }
    code, handle, _ = await anywhere.app("POST", "/jobs", body)
    assert (code, handle["status"]) == (200, {"type": "queued", "queued": {"queueInfo": "NORMAL_OPERATION"}})
    _, envelope, _ = await anywhere.module("GET", "/job")
    job = envelope["computeModuleJobV1"]
    assert (job["jobId"], job["queryType"], job["query"], job["userId"]) == (handle["id"], "f", body["query"], "jane")
    await anywhere.module("POST", f"/results/{handle['id']}", b"done")
    assert (await anywhere.app("PUT", "/jobs/result/v2", {"jobHandle": handle["jobHandle"]}))[:2] == (200, b"done")
    for wrong, expected in (
        ({**body, "moduleGroupName": "none"}, (404, "runtimeId", "none")),
        ({**body, "moduleGroupName": " "}, (400, "field", "moduleGroupName")),
        ({**body, "moduleGroupName": 1}, (400, "field", "moduleGroupName")),
        ({"deployedAppRid": "ri.one", "queryType": "f"}, (400, "field", "moduleGroupName")),
        ({"moduleGroupName": "one"}, (400, "field", "queryType")),
        ({**body, "jobId": "mine"}, (400, "field", "jobId")),
    ):
        code, answer, _ = await anywhere.app("POST", "/jobs", wrong)
        assert (code, answer["parameters"].get(expected[1])) == (expected[0], expected[2])
    # None of these made a job.
    assert [each.job_id for each in await anywhere.broker.jobs(JobFilter(), 9)] == [handle["id"]]


@pytest_twisted.ensureDeferred
async def test_foundrys_client_reads_the_answers(anywhere: Harness) -> None:
    """Run conjure-lite, the client under Foundry's generated endpoints, with the arguments that these pass to it."""
    environment = {"PATH": "/usr/bin:/bin", "URL": anywhere.service.addresses.http or ""}
    command = ["node", str(TYPESCRIPT / "multiplexer.mjs")]
    client = deferToThread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    await anywhere.module("POST", f"/results/{await take(anywhere)}", b'{"sum":3}')
    done = await client
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["configuration"] == found["configurationV2"]
    assert found["configuration"]["deployedAppRid"] == "ri.one"
    assert found["none"] == {"value": None, "defined": False}
    assert found["noneV2"] == {"status": 404, "errorName": "NotFound"}
    assert found["devMode"] == [None, None]
    assert found["badDevMode"] == {"status": 400, "errorName": "InvalidRequest"}
    assert found["submitted"]["status"]["type"] in ("queued", "inProgress")
    assert found["ended"] == "succeeded"
    assert found["result"] == '{"sum":3}'
