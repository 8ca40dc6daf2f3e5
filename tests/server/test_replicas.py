"""Replicas over HTTP."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, Harness, logged, pause, raw, receive_until
from server.replica_steps import BEARER, listed, open_replica, poll, replica_call, submit
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from twisted_cm.model.replicas import GONE_KEPT, MOST_CONCURRENT_TASKS
from twisted_cm.server.held_replicas import COMMAND_GONE, GRACE
from twisted_cm.server.refused_polls import HOLD


@pytest_twisted.ensureDeferred
async def test_a_replica_is_told_its_token_and_its_uris(anywhere: Harness) -> None:
    replica = await open_replica(anywhere, replicaId="r/1 ü", maxConcurrentTasks=4)
    base = f"{anywhere.service.addresses.http}{RUNTIMES}/one/replicas/r%2F1%20%C3%BC"
    token = replica.pop("moduleAuthToken")
    assert token.startswith("foundry_module_auth_") and token != "token-one"
    assert replica == {
        "runtimeId": "one",
        "replicaId": "r/1 ü",
        "maxConcurrentTasks": 4,
        "getJobUri": f"{base}/job",
        "postResultUri": f"{base}/results",
        "postSchemaUri": f"{base}/schemas",
        "restartNotificationUri": f"{base}/restart",
    }


@pytest_twisted.ensureDeferred
async def test_a_replica_works_through_its_own_routes(anywhere: Harness) -> None:
    replica = await open_replica(anywhere, runtime="new", deployedAppRid="ri.new")
    assert replica["maxConcurrentTasks"] == 1
    assert await replica_call(anywhere, replica, "POST", "/schemas", [{"functionName": "f"}]) == (200, {})
    assert await replica_call(anywhere, replica, "POST", "/restart") == (200, [])
    executing = anywhere.execute(rid="ri.new")
    job_id = await poll(anywhere, replica, 20)
    assert (await listed(anywhere, "new"))[replica["replicaId"]] == {
        "replica_id": replica["replicaId"],
        "state": "busy",
        "max_concurrent_tasks": 1,
        "running_jobs": [job_id],
        "parked_polls": 0,
        "opened_at": pytest.approx(reactor.seconds() * 1000, abs=60_000),
        "last_poll_at": pytest.approx(reactor.seconds() * 1000, abs=60_000),
        "ended_at": None,
        "ended_why": None,
    }
    assert await replica_call(anywhere, replica, "POST", f"/results/{job_id}", b"done") == (204, b"")
    assert (await executing)[:2] == (200, b"done")
    _, inspected, _ = await anywhere.call("GET", f"{RUNTIMES}/new/jobs/{job_id}")
    assert inspected["job"]["replica_id"] == replica["replicaId"]
    assert inspected["runtime"]["connected"] is True
    _, jobs, _ = await anywhere.call("GET", f"{RUNTIMES.removesuffix('/runtimes')}/jobs", **BEARER)
    assert [each["replica_id"] for each in jobs["jobs"]] == [replica["replicaId"]]


@pytest_twisted.ensureDeferred
async def test_opening_replicas_resets_nothing(anywhere: Harness) -> None:
    job_id = await submit(anywhere)
    await anywhere.module("POST", "/schemas", [{"functionName": "f"}])
    first, second = [await open_replica(anywhere) for _ in range(2)]
    assert first["replicaId"] != second["replicaId"]
    _, shown, _ = await anywhere.call("GET", f"{RUNTIMES}/one", **BEARER)
    assert (shown["queued_jobs"], len(shown["schemas"]), len(shown["bindings"])) == (1, 1, 1)
    assert (await anywhere.module("GET", "/job"))[1]["computeModuleJobV1"]["jobId"] == job_id


@pytest.mark.parametrize("limit", [-1, 0, MOST_CONCURRENT_TASKS + 1, 10**30, 1.5, "2", True, [1]])
@pytest_twisted.ensureDeferred
async def test_a_limit_that_makes_no_sense_is_refused(harness: Harness, limit: Any) -> None:
    status, error, _ = await harness.call("POST", f"{RUNTIMES}/new/replicas", {"maxConcurrentTasks": limit})
    assert (status, error["error"], error["parameters"]["field"]) == (400, "invalid_request", "maxConcurrentTasks")
    assert (await harness.call("GET", f"{RUNTIMES}/new", **BEARER))[0] == 404


@pytest_twisted.ensureDeferred
async def test_other_wrong_requests(anywhere: Harness) -> None:
    await open_replica(anywhere, replicaId="a")
    for body, field in (
        ({"replicaId": "a"}, "replicaId"),
        ({"replicaId": "default"}, "replicaId"),
        ({"replicaId": 1}, "replicaId"),
        ({"deployedAppRid": []}, "deployedAppRid"),
        ({"branch": {}}, "branch"),
    ):
        status, error, _ = await anywhere.call("POST", f"{RUNTIMES}/one/replicas", body)
        assert (status, error["error"], error["parameters"]["field"]) == (400, "invalid_request", field)
    for body in (b"", b"{", [1], "x"):
        assert (await anywhere.call("POST", f"{RUNTIMES}/one/replicas", body))[0] == 400
    assert list(await listed(anywhere)) == ["default", "a"]
    # Nothing may be said of a replica to a caller with no valid token.
    nobody = f"{RUNTIMES}/one/replicas/nobody"
    for method, path in (("GET", "/job"), ("POST", "/restart"), ("POST", "/schemas"), ("POST", "/results/x")):
        status, error, _ = await anywhere.call(method, nobody + path, [], Module_Auth_Token="token-one")
        assert (status, error["error"]) == (404, "not_found")
        assert "nobody" in error["error_description"]
        assert (await anywhere.call(method, nobody + path, []))[0] == 401
    assert (await anywhere.call("DELETE", nobody, **BEARER))[0] == 404
    assert (await anywhere.call("DELETE", nobody, Module_Auth_Token="token-one"))[0] == 404
    assert (await anywhere.call("GET", f"{RUNTIMES}/nobody/replicas", **BEARER))[0] == 404
    assert (await anywhere.call("DELETE", f"{RUNTIMES}/nobody/replicas/a", **BEARER))[0] == 404
    status, error, _ = await anywhere.call("DELETE", f"{RUNTIMES}/one/replicas/default", **BEARER)
    assert (status, error["error"]) == (400, "invalid_request")


@pytest_twisted.ensureDeferred
async def test_no_short_job_waits_while_a_replica_is_idle(anywhere: Harness) -> None:
    replicas = [await open_replica(anywhere) for _ in range(2)]
    long_job = await submit(anywhere)
    assert await poll(anywhere, replicas[0]) == long_job
    # A full replica that polls all the same never takes a job from the idle one.
    full = Deferred.fromCoroutine(poll(anywhere, replicas[0], 30))
    for _ in range(5):
        short = await submit(anywhere)
        assert await poll(anywhere, replicas[1], 20) == short
        await replica_call(anywhere, replicas[1], "POST", f"/results/{short}", b"short")
    assert not full.called
    last = await submit(anywhere)
    await replica_call(anywhere, replicas[0], "POST", f"/results/{long_job}", b"long")
    assert await full == last


@pytest_twisted.ensureDeferred
async def test_deleting_a_replica_fails_its_jobs_and_answers_its_polls(anywhere: Harness) -> None:
    stopped, other = [await open_replica(anywhere, maxConcurrentTasks=2) for _ in range(2)]
    executing = [anywhere.execute() for _ in range(2)]
    await poll(anywhere, stopped, 20)
    kept = await poll(anywhere, other, 20)
    parked = Deferred.fromCoroutine(poll(anywhere, stopped, 30))
    while not (await listed(anywhere))[stopped["replicaId"]]["parked_polls"]:
        await pause(0.01)
    status, body = await replica_call(anywhere, stopped, "DELETE", "")
    assert (status, body) == (204, b"")
    assert await parked is None
    await replica_call(anywhere, other, "POST", f"/results/{kept}", b"kept")
    answers = sorted([(await each)[:2] for each in executing], key=lambda answer: answer[0])
    assert answers[0] == (200, b"kept")
    assert (answers[1][0], answers[1][1]["error"]) == (500, "job_failed")
    assert answers[1][1]["error_description"] == "replica stopped"
    shown = (await listed(anywhere))[stopped["replicaId"]]
    assert (shown["state"], shown["ended_why"], shown["running_jobs"]) == ("gone", "replica stopped", [])
    assert shown["ended_at"] >= shown["opened_at"]
    assert (await replica_call(anywhere, stopped, "DELETE", ""))[0] == 401
    assert (await replica_call(anywhere, stopped, "POST", "/restart"))[0] == 401
    # The id may be used again, with a new token.
    again = await open_replica(anywhere, replicaId=stopped["replicaId"])
    assert again["moduleAuthToken"] != stopped["moduleAuthToken"]
    assert (await listed(anywhere))[stopped["replicaId"]]["state"] == "starting"


@pytest_twisted.ensureDeferred
async def test_restart_concerns_one_replica(anywhere: Harness) -> None:
    replicas = [await open_replica(anywhere) for _ in range(2)]
    jobs = [await submit(anywhere) for _ in range(3)]
    for replica, job_id in zip(replicas, jobs, strict=False):
        assert await poll(anywhere, replica) == job_id
    status, envelope, _ = await anywhere.module("GET", "/job")
    assert (status, envelope["computeModuleJobV1"]["jobId"]) == (200, jobs[2])
    assert await replica_call(anywhere, replicas[0], "POST", "/restart") == (200, [jobs[0]])
    assert await replica_call(anywhere, replicas[0], "POST", "/restart") == (200, [])
    assert (await anywhere.module("POST", "/restart"))[1] == [jobs[2]]
    assert await replica_call(anywhere, replicas[1], "POST", f"/results/{jobs[1]}", b"x") == (204, b"")


@pytest_twisted.ensureDeferred
async def test_a_token_opens_the_routes_of_its_replica_and_nothing_else(anywhere: Harness) -> None:
    mine, other = [await open_replica(anywhere) for _ in range(2)]
    elsewhere = await open_replica(anywhere, runtime="two")
    for replica in (other, elsewhere, {**mine, "replicaId": None}):
        target = {**mine, "moduleAuthToken": replica["moduleAuthToken"]}
        if replica["moduleAuthToken"] != mine["moduleAuthToken"]:
            assert (await replica_call(anywhere, target, "GET", "/job"))[0] == 403
            assert (await replica_call(anywhere, target, "DELETE", ""))[0] == 403
    token = {"Module_Auth_Token": mine["moduleAuthToken"]}
    for method, path in (("GET", "/job"), ("POST", "/restart"), ("POST", "/schemas"), ("POST", "/jobs")):
        assert (await anywhere.call(method, f"{RUNTIMES}/one{path}", {"queryType": "f"}, **token))[0] == 403
    assert (await anywhere.call("DELETE", f"{RUNTIMES}/one", **token))[0] == 401
    runtime_token = {**mine, "moduleAuthToken": "token-one"}
    assert (await replica_call(anywhere, runtime_token, "GET", "/job"))[0] == 403
    assert (await replica_call(anywhere, runtime_token, "DELETE", ""))[0] == 204
    # The default replica has these routes, too.
    status, body, _ = await anywhere.call(
        "POST", f"{RUNTIMES}/one/replicas/default/restart", Module_Auth_Token="token-one"
    )
    assert (status, body) == (200, [])


@pytest_twisted.ensureDeferred
async def test_a_late_result_of_another_replica_of_the_runtime_is_accepted(anywhere: Harness) -> None:
    former, now = [await open_replica(anywhere) for _ in range(2)]
    elsewhere = await open_replica(anywhere, runtime="two")
    job_id = await submit(anywhere)
    assert await poll(anywhere, now) == job_id
    assert (await replica_call(anywhere, elsewhere, "POST", f"/results/{job_id}", b"x"))[0] == 404
    assert (await replica_call(anywhere, former, "POST", f"/results/{job_id}", b"x"))[0] == 204


@pytest_twisted.ensureDeferred
async def test_a_post_of_schemas_replaces_those_before(anywhere: Harness) -> None:
    async def functions() -> list[str]:
        _, shown, _ = await anywhere.call("GET", f"{RUNTIMES}/one", **BEARER)
        return [each["function_name"] for each in shown["schemas"]]

    replica = await open_replica(anywhere)
    await anywhere.module("POST", "/schemas", [{"functionName": name} for name in "fg"])
    assert await functions() == ["f", "g"]
    await replica_call(anywhere, replica, "POST", "/schemas", [{"functionName": name} for name in "gh"])
    assert await functions() == ["g", "h"]
    await replica_call(anywhere, replica, "POST", "/schemas", [])
    assert await functions() == []
    _, schemas, _ = await anywhere.app("GET", "/schemas?rid=ri.one")
    assert schemas == []


# Tokens that are no longer valid


@pytest.mark.parametrize("how", ["deleted", "forgotten", "reset"])
@pytest_twisted.ensureDeferred
async def test_a_poll_with_a_token_that_is_no_longer_valid_waits_a_second(anywhere: Harness, how: str) -> None:
    replica = await open_replica(anywhere, replicaId="gone-away")
    if how == "reset":
        await anywhere.call("POST", RUNTIMES, {"runtimeId": "one"})
    else:
        assert (await replica_call(anywhere, replica, "DELETE", ""))[0] == 204
    for _ in range(GONE_KEPT + 1 if how == "forgotten" else 0):
        await replica_call(anywhere, await open_replica(anywhere), "DELETE", "")
    with logged("gone-away") as lines:
        for _ in range(2):
            begun = reactor.seconds()
            status, error = await replica_call(anywhere, replica, "GET", "/job")
            assert (status, error["error"]) == (401, "invalid_module_auth_token")
            assert HOLD - 0.1 <= reactor.seconds() - begun < HOLD + 5
    assert len(lines) == 1
    assert replica["moduleAuthToken"] not in lines[0]


@pytest_twisted.ensureDeferred
async def test_other_refusals_do_not_wait(harness: Harness) -> None:
    replica = await open_replica(harness)
    begun = reactor.seconds()
    for _ in range(20):
        assert (await harness.call("GET", f"{RUNTIMES}/one/job"))[0] == 401
        assert (await harness.call("GET", f"{RUNTIMES}/one/job", Module_Auth_Token="token-two"))[0] == 403
        wrong = {**replica, "moduleAuthToken": "wrong"}
        assert (await replica_call(harness, wrong, "POST", "/restart"))[0] == 401
    assert reactor.seconds() - begun < HOLD * 10


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_wait(harness: Harness) -> None:
    request = f"GET {RUNTIMES}/one/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: old\r\n\r\n"
    client = raw(harness, request)
    await harness.until(lambda: harness.service.context.refused_polls.waiting == 1)
    client.close()
    await harness.until(lambda: not harness.service.context.refused_polls.waiting)


@pytest_twisted.ensureDeferred
async def test_a_shutdown_ends_the_wait(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.server.refused_polls.HOLD", 1000)
    request = f"GET {RUNTIMES}/one/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: old\r\n\r\n"
    client = raw(harness, request)
    await harness.until(lambda: harness.service.context.refused_polls.waiting == 1)
    begun = reactor.seconds()
    await harness.service.stopService()
    assert reactor.seconds() - begun < 2
    assert (await receive_until(client, None)).startswith(b"HTTP/1.1 401 ")
    client.close()


# States


@pytest_twisted.ensureDeferred
async def test_a_replica_whose_process_was_killed_does_not_stay_connected(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.model.replicas.SILENT_AFTER", 0.2)
    replica = await open_replica(harness)
    path = replica["getJobUri"].removeprefix(harness.service.addresses.http)
    token = replica["moduleAuthToken"]
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: {token}\r\nPrefer: wait=60\r\n\r\n"
    process = raw(harness, request)
    await harness.until(lambda: harness.work().parked_polls)
    assert harness.work().runtime.connected
    assert (await listed(harness))[replica["replicaId"]]["state"] == "responsive"
    process.close()
    await harness.until(lambda: not harness.work().parked_polls)
    await harness.until(lambda: not harness.work().runtime.connected)
    assert (await listed(harness))[replica["replicaId"]]["state"] == "silent"


@pytest_twisted.ensureDeferred
async def test_replicas_are_shown_without_tokens(anywhere: Harness) -> None:
    replica = await open_replica(anywhere)
    for path in (f"{RUNTIMES}/one/replicas", f"{RUNTIMES}/one", RUNTIMES, f"{CONTOUR}/schemas?rid=ri.one"):
        _, body, _ = await anywhere.call("GET", path, **BEARER)
        assert replica["moduleAuthToken"] not in json.dumps(body)


# One replica


async def shown(harness: Harness, replica: dict[str, Any], query: str = "", **headers: str) -> tuple[int, Any]:
    """Ask for one replica with its own token; return the status and the body."""
    base = replica["getJobUri"].removesuffix("/job").removeprefix(harness.service.addresses.http)
    answer = await harness.call("GET", base + query, Module_Auth_Token=replica["moduleAuthToken"], **headers)
    return answer[:2]


@pytest_twisted.ensureDeferred
async def test_a_request_waits_until_a_replica_is_connected(anywhere: Harness) -> None:
    replica = await open_replica(anywhere)
    assert (await shown(anywhere, replica, "?until=connected"))[1]["state"] == "starting"
    waiting = Deferred.fromCoroutine(shown(anywhere, replica, "?until=connected", Prefer="wait=30"))
    beside = Deferred.fromCoroutine(shown(anywhere, replica, "?until=gone", Prefer="wait=1"))
    await replica_call(anywhere, replica, "POST", "/schemas", [{"functionName": "g"}, {"functionName": "f"}])
    polling = Deferred.fromCoroutine(poll(anywhere, replica, 30))
    status, answer = await waiting.addTimeout(10, reactor)
    assert (status, answer["state"], answer["functions"]) == (200, "responsive", ["f", "g"])
    status, answer = await beside
    assert (status, answer["state"], answer["ended_why"]) == (200, "responsive", None)
    polling.cancel()
    polling.addErrback(lambda failure: None)


@pytest.mark.parametrize("until", ["connected", "gone"])
@pytest_twisted.ensureDeferred
async def test_a_request_that_waits_is_told_of_the_end(anywhere: Harness, until: str) -> None:
    replica = await open_replica(anywhere)
    waiting = Deferred.fromCoroutine(shown(anywhere, replica, f"?until={until}", Prefer="wait=30"))
    await pause(0)
    await anywhere.broker.close_replica("one", replica["replicaId"], "because")
    status, answer = await waiting.addTimeout(10, reactor)
    assert (status, answer["state"], answer["ended_why"]) == (200, "gone", "because")
    # Its token is good for nothing else any more, and only its own.
    assert (await shown(anywhere, replica))[1]["ended_why"] == "because"
    assert (await shown(anywhere, {**replica, "moduleAuthToken": "wrong"}))[0] == 401
    assert (await replica_call(anywhere, replica, "POST", "/restart"))[0] == 401


@pytest_twisted.ensureDeferred
async def test_a_request_that_waits_ends_with_the_runtime(anywhere: Harness) -> None:
    replica = await open_replica(anywhere, runtime="new")
    waiting = Deferred.fromCoroutine(shown(anywhere, replica, "?until=gone", Prefer="wait=30"))
    await pause(0)
    await anywhere.broker.delete_runtime("new")
    assert (await waiting.addTimeout(10, reactor))[0] == 404


@pytest_twisted.ensureDeferred
async def test_only_two_things_can_be_waited_for(anywhere: Harness) -> None:
    replica = await open_replica(anywhere)
    status, answer = await shown(anywhere, replica, "?until=tomorrow")
    assert (status, answer["parameters"]) == (400, {"field": "until"})


@pytest_twisted.ensureDeferred
async def test_a_replica_ends_with_the_command_that_holds_it(
    anywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.server.held_replicas.GRACE", 0.3)
    held, heard, plain = [await open_replica(anywhere) for _ in range(3)]
    running = await submit(anywhere)
    assert await poll(anywhere, held) == running
    await poll(anywhere, heard)
    for each, query in ((held, "&hold=true"), (heard, "&hold=true"), (plain, "")):
        base = each["getJobUri"].removesuffix("/job").removeprefix(anywhere.service.addresses.http)
        head = f"GET {base}?until=gone{query} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=30\r\n"
        with closing(raw(anywhere, f"{head}Module-Auth-Token: {each['moduleAuthToken']}\r\n\r\n")):
            await anywhere.until(lambda: anywhere.connections() == 2)
        await anywhere.until(lambda: anywhere.connections() == 1)
    # Whose connection closes ends after a while, unless something is heard of it.
    polling = Deferred.fromCoroutine(poll(anywhere, heard, 10))
    waiting = Deferred.fromCoroutine(shown(anywhere, held, "?until=gone", Prefer="wait=30"))
    status, answer = await waiting.addTimeout(10, reactor)
    assert (status, answer["ended_why"]) == (200, COMMAND_GONE)
    job = await anywhere.broker.job(running)
    assert (job.state.value, job.error_message) == ("failed", COMMAND_GONE)
    states = {name: each["state"] for name, each in (await listed(anywhere)).items()}
    assert states[heard["replicaId"]] == "responsive" and states[plain["replicaId"]] == "starting"
    await submit(anywhere)
    assert await polling is not None


@pytest_twisted.ensureDeferred
async def test_a_command_that_was_answered_may_be_suspended(anywhere: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.server.held_replicas.GRACE", 0.1)
    replica = await open_replica(anywhere)
    assert (await shown(anywhere, replica, "?hold=true"))[0] == 200
    status, answer = await shown(anywhere, replica, "?until=gone", Prefer="wait=1")
    assert (status, answer["state"]) == (200, "starting")


@pytest_twisted.ensureDeferred
async def test_a_command_that_connects_again_keeps_its_replica(anywhere: Harness) -> None:
    replica = await open_replica(anywhere)
    base = replica["getJobUri"].removesuffix("/job").removeprefix(anywhere.service.addresses.http)
    head = f"GET {base}?until=gone&hold=true HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=30\r\n"
    with closing(raw(anywhere, f"{head}Module-Auth-Token: {replica['moduleAuthToken']}\r\n\r\n")):
        await anywhere.until(lambda: anywhere.connections() == 2)
    await anywhere.until(lambda: anywhere.connections() == 1)
    status, answer = await shown(anywhere, replica, "?until=gone&hold=true", Prefer=f"wait={GRACE + 1:.0f}")
    assert (status, answer["state"]) == (200, "starting")


# The request that opens one


@pytest_twisted.ensureDeferred
async def test_a_replica_may_bring_its_token(anywhere: Harness) -> None:
    replica = await open_replica(anywhere, moduleAuthToken="a-token-of-its-own")
    assert replica["moduleAuthToken"] == "a-token-of-its-own"
    assert await replica_call(anywhere, replica, "POST", "/restart") == (200, [])
    for token in ("a-token-of-its-own", "token-two", "short", "with a space in it", "ümlaut-ümlaut"):
        body = {"moduleAuthToken": token}
        status, answer, _ = await anywhere.call("POST", f"{RUNTIMES}/one/replicas", body)
        assert (status, answer["parameters"]["field"]) == (400, "moduleAuthToken"), token
        status, answer, _ = await anywhere.call("POST", RUNTIMES, {"runtimeId": "three", **body})
        assert (status, answer["parameters"]["field"]) == (400, "moduleAuthToken"), token
    assert len(await listed(anywhere)) == 2
    # A session may keep the token of its runtime.
    status, session, _ = await anywhere.call("POST", RUNTIMES, {"runtimeId": "one", "moduleAuthToken": "token-one"})
    assert (status, session["moduleAuthToken"]) == (200, "token-one")
    assert (await anywhere.module("POST", "/restart"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_replica_can_ask_for_a_runtime_that_is_there(anywhere: Harness) -> None:
    await open_replica(anywhere, existingRuntime=True)
    status, answer, _ = await anywhere.call("POST", f"{RUNTIMES}/new/replicas", {"existingRuntime": True})
    assert (status, answer["error"]) == (404, "not_found")
    assert (await anywhere.call("GET", f"{RUNTIMES}/new", **BEARER))[0] == 404
    for token, runtime, right in (("token-one", "one", 201), ("token-one", "two", 403), ("wrong", "one", 401)):
        status, _, _ = await anywhere.call("POST", f"{RUNTIMES}/{runtime}/replicas", {}, Module_Auth_Token=token)
        assert status == right
