"""Test the functions of the public API: looking up, calling, executions and errors (functions API, sections 1 to 3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from conftest import SEED, Harness, logged
from server.query_steps import (
    ADD,
    COUNT,
    FUNCTIONS,
    LOCAL,
    UNTYPED,
    ask,
    error_of,
    execute,
    function,
    listed,
    post,
    post_schemas,
    run_next,
    simple,
    take,
)

from twisted_cm.model.jobs import JobFilter, JobSource
from twisted_cm.model.limits import Limits
from twisted_cm.model.queries import function_rid

RID = function_rid("one", "add")
WHERE = {"functionRid": RID, "functionVersion": "0.0.0"}

QUERIES = SEED.replace(
    "poll_timeout: 30\n",
    "poll_timeout: 30\n"
    "    queries:\n"
    "      - {api_name: addNumbers, deployed_app_rid: ri.one, function: add}\n"
    "      - {api_name: elsewhere, deployed_app_rid: ri.two, branch: dev, function: add}\n"
    "      - {api_name: inactive, deployed_app_rid: ri.off, function: add}\n"
    "      - {api_name: nowhere, deployed_app_rid: ri.none, function: add}\n",
)


@pytest_twisted.ensureDeferred
async def test_a_function_is_called_by_its_name_with_its_parameters_converted(anywhere: Harness) -> None:
    await post_schemas(anywhere, ADD)
    calling = execute(anywhere, "add", {"a": "9007199254740993", "b": 1, "note": None})
    # A parameter that may be left out, and is null, was left out: the module takes its default.
    assert await run_next(anywhere, 9007199254740994) == ("add", {"a": 9007199254740993, "b": 1})
    status, answer, headers = await calling
    assert (status, answer) == (200, {"value": "9007199254740994"})
    job = await anywhere.broker.job(headers.getRawHeaders("X-Job-Id")[0])
    assert job.submission.source is JobSource.FUNCTIONS_SYNC
    assert (job.submission.submitter, job.submission.deployed_app_rid) == ("jane", "ri.one")


@pytest_twisted.ensureDeferred
async def test_a_function_without_types_takes_and_returns_anything(anywhere: Harness) -> None:
    await post_schemas(anywhere, UNTYPED)
    calling = execute(anywhere, "untyped", {"x": [1, {"y": None}]})
    assert await run_next(anywhere, {"echo": 2**70}) == ("untyped", {"x": [1, {"y": None}]})
    assert (await calling)[1] == {"value": {"echo": 2**70}}


@pytest_twisted.ensureDeferred
async def test_parameters_that_need_no_conversion_reach_the_module_as_they_were_sent(harness: Harness) -> None:
    await post_schemas(harness, function("f", simple("double"), x=simple("double")))
    body = b'{ "parameters" : {"x" : 1e5 } }'
    calling = ask(harness, "POST", f"{FUNCTIONS}/queries/f/execute", body)
    job_id, _, _ = await take(harness)
    assert harness.job(job_id).submission.query == b'{"x" : 1e5 }'
    await post(harness, job_id, b" 1.50 ")
    response = await calling
    assert response[1] == {"value": 1.5}


@pytest_twisted.ensureDeferred
async def test_long_parameters_and_results_are_converted_outside_of_the_reactor(anywhere: Harness) -> None:
    await post_schemas(anywhere, function("f", listed("long"), values=listed("long")))
    values = [str(2**62 + n) for n in range(20_000)]
    calling = execute(anywhere, "f", {"values": values})
    _, query = await run_next(anywhere, [int(each) for each in values])
    assert query == {"values": [int(each) for each in values]}
    assert (await calling)[1] == {"value": values}
    status, _, name, parameters = error_of(await execute(anywhere, "f", {"values": [*values, "x"]}))
    assert (status, name) == (400, "InvalidQueryParameterValue")
    # A value that is too long to show is left out.
    assert parameters == {
        "parameterId": "values",
        "parameterDataType": {"type": "array", "subType": {"type": "long"}},
    }


@pytest_twisted.ensureDeferred
async def test_what_is_streamed_comes_as_an_array(anywhere: Harness) -> None:
    await post_schemas(anywhere, COUNT, function("pairs", {"type": "list", "list": {"elementsType": listed("long")}}))
    for posted, value in (
        (b"1 2\n3", ["1", "2", "3"]),
        (b"[1, 2]", ["1", "2"]),
        (b"7", ["7"]),
        (b"", []),
        (b"[]", []),
    ):
        calling = execute(anywhere, "count", {"to": 3})
        await run_next(anywhere, posted)
        assert (await calling)[1] == {"value": value}, posted
    for posted, value in ((b"[1][2]", [["1"], ["2"]]), (b"[[1],[2]]", [["1"], ["2"]]), (b"[1]", [["1"]])):
        calling = execute(anywhere, "pairs", {})
        await run_next(anywhere, posted)
        assert (await calling)[1] == {"value": value}, posted


# Names


@pytest.fixture
def named(start_anywhere: Callable[..., Harness]) -> Harness:
    """Start an emulator whose seed gives names to functions, on each kind of broker."""
    return start_anywhere(seed=QUERIES)


@pytest_twisted.ensureDeferred
async def test_a_function_has_the_name_that_the_seed_gives_it(named: Harness) -> None:
    await post_schemas(named, ADD)
    for name in ("addNumbers", "com.acme.computemodules.addNumbers", "add", "com.acme.computemodules.add"):
        calling = execute(named, name, {"a": 1, "b": 2})
        assert await run_next(named, 3) == ("add", {"a": 1, "b": 2})
        assert (await calling)[1] == {"value": "3"}
        status, query, _ = await ask(named, "GET", f"{FUNCTIONS}/queries/{name}")
        assert (status, query["apiName"], query["rid"], query["version"]) == (200, name, RID, "0.0.0")
    # The list has each function once.
    _, types, _ = await ask(named, "GET", f"{LOCAL}/queryTypes")
    assert [each["apiName"] for each in types["data"]] == ["addNumbers"]


@pytest_twisted.ensureDeferred
async def test_a_name_that_several_runtimes_have_is_refused_with_their_names(named: Harness) -> None:
    await post_schemas(named, ADD)
    await post_schemas(named, ADD, runtime="two")
    answer = await execute(named, "add", {"a": 1, "b": 2})
    assert error_of(answer) == (404, "NOT_FOUND", "QueryNotFound", {"queryApiName": "add"})
    assert "'one', 'two'" in answer[1]["errorDescription"]
    for name, runtime in (("addNumbers", "one"), ("elsewhere", "two")):
        calling = execute(named, name, {"a": 1, "b": 2})
        await run_next(named, 3, runtime)
        assert (await calling)[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_branch_chooses_among_deployed_apps(named: Harness) -> None:
    await post_schemas(named, ADD)
    await post_schemas(named, ADD, runtime="two")
    for branch, runtime in (("master", "one"), ("dev", "two")):
        calling = execute(named, "add", {"a": 1, "b": 2}, branch=branch)
        await run_next(named, 3, runtime)
        assert (await calling)[0] == 200
    for name in ("add", "addNumbers"):
        refused = error_of(await execute(named, name, {"a": 1, "b": 2}, branch="none"))
        assert refused == (404, "NOT_FOUND", "FoundryBranchNotFound", {"branch": "none"})


@pytest_twisted.ensureDeferred
async def test_functions_are_there_as_soon_as_they_are_posted_and_gone_with_the_next_report(named: Harness) -> None:
    absent = (404, "NOT_FOUND", "QueryNotFound")
    assert error_of(await execute(named, "add", {}))[:3] == absent
    await post_schemas(named, ADD)
    assert (await ask(named, "GET", f"{FUNCTIONS}/queries/add"))[0] == 200
    await post_schemas(named, COUNT)
    for name in ("add", "addNumbers", "inactive", "nowhere"):
        answer = await execute(named, name, {})
        assert error_of(answer)[:3] == absent
        assert f"'{name}'" in answer[1]["errorDescription"]


@pytest_twisted.ensureDeferred
async def test_a_named_function_waits_for_a_module_that_has_not_posted_its_schemas(named: Harness) -> None:
    """Its parameters cannot be checked then, which the answer says."""
    calling = execute(named, "addNumbers", {"a": "1", "more": 2})
    job_id, name, query = await take(named)
    assert (name, query) == ("add", {"a": "1", "more": 2})
    await post_schemas(named, ADD)
    await post(named, job_id, 3)
    status, answer, headers = await calling
    # What it returns can be converted.
    assert (status, answer) == (200, {"value": "3"})
    assert headers.getRawHeaders("X-Query-Validation") == ["skipped"]


@pytest_twisted.ensureDeferred
async def test_an_inactive_runtime_is_not_called_and_one_without_deployed_app_is(anywhere: Harness) -> None:
    session = {"runtimeId": "alone"}
    status, opened, _ = await anywhere.call("POST", "/_emulate/foundry/compute-modules/runtimes", session)
    assert status == 200
    path = "/_emulate/foundry/compute-modules/runtimes/alone"
    token = {"Module_Auth_Token": opened["moduleAuthToken"]}
    assert (await anywhere.call("POST", f"{path}/schemas", [UNTYPED], **token))[0] == 200
    calling = execute(anywhere, "untyped", {})
    _, envelope, _ = await anywhere.call("GET", f"{path}/job", **token)
    job_id = envelope["computeModuleJobV1"]["jobId"]
    await anywhere.call("POST", f"{path}/results/{job_id}", b'"x"', **token)
    assert (await calling)[1] == {"value": "x"}
    assert (await anywhere.broker.job(job_id)).submission.deployed_app_rid is None


# Looking up


@pytest_twisted.ensureDeferred
async def test_a_query_is_described(anywhere: Harness) -> None:
    await post_schemas(anywhere, {**ADD, "description": "Adds."})
    described = {
        "apiName": "add",
        "displayName": "add",
        "description": "Adds.",
        "parameters": {
            "a": {"dataType": {"type": "long"}, "required": True},
            "b": {"dataType": {"type": "long"}, "required": True},
            "note": {"dataType": {"type": "string"}, "required": False},
        },
        "output": {"type": "long"},
        "rid": RID,
        "version": "0.0.0",
        "typeReferences": {},
    }
    for path in ("queries/add?version=0.0.0&preview=true", f"queries/getByRid?rid={RID}&version=0.0.0"):
        assert (await ask(anywhere, "GET", f"{FUNCTIONS}/{path}"))[1] == described
    batch = [{"rid": RID}, {"rid": "ri.a.b.c.d"}, {"rid": RID, "version": "1.0.0"}]
    status, answer, _ = await ask(anywhere, "POST", f"{FUNCTIONS}/queries/getByRidBatch", batch)
    assert (status, answer) == (200, {"data": [described]})


@pytest_twisted.ensureDeferred
async def test_a_function_whose_name_is_no_unicode_spoils_no_list(anywhere: Harness) -> None:
    await post_schemas(anywhere, {**ADD, "functionName": "bad\ud800"}, UNTYPED)
    for path in (f"{LOCAL}/queryTypes", f"{FUNCTIONS}/queries/getByRid?rid={function_rid('one', 'untyped')}"):
        status, found, _ = await ask(anywhere, "GET", path)
        assert status == 200, found


@pytest_twisted.ensureDeferred
async def test_functions_described_by_a_json_schema_are_checked_by_it(anywhere: Harness) -> None:
    schema = {
        "type": "object",
        "properties": {"size": {"type": "integer", "minimum": 1}},
        "required": ["size"],
        "additionalProperties": False,
    }
    await post_schemas(anywhere, {"functionName": "shrink", "schema": schema})
    calling = execute(anywhere, "shrink", {"size": 2})
    await run_next(anywhere, 1)
    assert (await calling)[1] == {"value": 1}
    for parameters, name in (({}, "MissingParameter"), ({"size": 1, "x": 1}, "UnknownParameter")):
        assert error_of(await execute(anywhere, "shrink", parameters))[:3] == (400, "INVALID_ARGUMENT", name)
    status, _, name, found = error_of(await execute(anywhere, "shrink", {"size": 0}))
    assert (status, name) == (400, "InvalidQueryParameterValue")
    assert found == {"parameterId": "size", "parameterDataType": {"type": "integer"}}


# Executions


@pytest_twisted.ensureDeferred
async def test_an_execution_is_asked_for_until_it_has_ended(anywhere: Harness) -> None:
    await post_schemas(anywhere, ADD)
    status, submitted, _ = await ask(
        anywhere, "POST", f"{FUNCTIONS}/queries/add/executeAsync", {"parameters": {"a": "1", "b": "2"}}
    )
    assert (status, submitted["type"]) == (200, "submitted")
    execution = f"{FUNCTIONS}/executions/{submitted['executionId']}"
    for body in (None, {}, {"timeout": 0}):
        assert (await ask(anywhere, "POST", f"{execution}/getResult", body))[1] == {"type": "running"}
    waiting = ask(anywhere, "POST", f"{execution}/getResult", {"timeout": 100_000})
    assert await run_next(anywhere, 3) == ("add", {"a": 1, "b": 2})
    assert (await waiting)[1] == {"type": "succeeded", "value": "3"}
    # It can be asked for again, and is not canceled any more.
    assert (await ask(anywhere, "POST", f"{execution}/cancel"))[1] == {"id": submitted["executionId"]}
    assert (await ask(anywhere, "POST", f"{execution}/getResult", {}))[1] == {"type": "succeeded", "value": "3"}
    job = await anywhere.broker.job(submitted["executionId"])
    assert job.submission.source is JobSource.FUNCTIONS_ASYNC


@pytest_twisted.ensureDeferred
async def test_an_execution_is_canceled(anywhere: Harness) -> None:
    await post_schemas(anywhere, UNTYPED)
    path = f"{FUNCTIONS}/queries/untyped/executeAsync"
    _, submitted, _ = await ask(anywhere, "POST", path, {"parameters": {}, "ontology": "local"})
    execution = f"{FUNCTIONS}/executions/{submitted['executionId']}"
    waiting = ask(anywhere, "POST", f"{execution}/getResult", {"timeout": 30})
    for _ in range(2):
        assert (await ask(anywhere, "POST", f"{execution}/cancel"))[1] == {"id": submitted["executionId"]}
    where = {"functionRid": function_rid("one", "untyped"), "functionVersion": "0.0.0"}
    canceled = (400, "INVALID_ARGUMENT", "AsyncQueryCanceled", where)
    assert error_of(await waiting) == canceled
    assert error_of(await ask(anywhere, "POST", f"{execution}/getResult", {})) == canceled


@pytest_twisted.ensureDeferred
async def test_only_executions_are_asked_for(anywhere: Harness) -> None:
    await post_schemas(anywhere, UNTYPED)
    _, handle, _ = await anywhere.app("POST", "/deployed-apps/jobs", {"deployedAppRid": "ri.one", "queryType": "f"})
    for execution_id in ("none", handle["id"]):
        for action in ("getResult", "cancel"):
            answer = await ask(anywhere, "POST", f"{FUNCTIONS}/executions/{execution_id}/{action}", {})
            wanted = (404, "NOT_FOUND", "ExecutionNotFound", {"executionId": execution_id})
            assert error_of(answer) == wanted
    assert (await anywhere.broker.job(handle["id"])).state.value == "queued"


# Errors

TRACEBACK = 'on purpose: Traceback (most recent call last):\n  File "m.py", line 1\nValueError: on purpose\n'
USER_FACING = 'try again: Traceback (most recent call last):\n  File "m.py"\nm.UserFacingError: try again\n'

#: What the module posts, and status, name and more parameters of the error. Executions have ``Async`` before the name.
ENDINGS: list[tuple[bytes, int, str, dict[str, Any]]] = [
    (
        json.dumps({"exception": TRACEBACK}).encode(),
        400,
        "QueryRuntimeError",
        {"message": "on purpose", "stacktrace": TRACEBACK.partition(": ")[2], "parameters": {}},
    ),
    (
        b'{"error": "TypeError", "reason": "no"}',
        400,
        "QueryRuntimeError",
        {"message": "TypeError: no", "parameters": {}},
    ),
    (
        json.dumps({"exception": USER_FACING}).encode(),
        409,
        "QueryEncounteredUserFacingError",
        {"message": "try again"},
    ),
    (
        b'{"error": "UserFacingError", "reason": "try\\nagain"}',
        409,
        "QueryEncounteredUserFacingError",
        {"message": "try\nagain"},
    ),
    (b"\xff", 400, "InvalidQueryOutputValue", {"outputDataType": {"type": "long"}}),
    (b"", 400, "InvalidQueryOutputValue", {"outputDataType": {"type": "long"}}),
    (b"[1, ", 400, "InvalidQueryOutputValue", {"outputDataType": {"type": "long"}}),
    (b"[" * 100_000, 400, "InvalidQueryOutputValue", {"outputDataType": {"type": "long"}}),
    (b"[" * 5000 + b"]" * 5000, 400, "InvalidQueryOutputValue", {"outputDataType": {"type": "long"}}),
]
CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 409: "CONFLICT", 500: "INTERNAL"}


@pytest.mark.parametrize(("posted", "status", "name", "parameters"), ENDINGS)
@pytest_twisted.ensureDeferred
async def test_how_a_function_ends_without_a_value(
    harness: Harness, posted: bytes, status: int, name: str, parameters: dict[str, Any]
) -> None:
    await post_schemas(harness, ADD)
    calling = execute(harness, "add", {"a": 1, "b": 2})
    await run_next(harness, posted)
    assert error_of(await calling) == (status, CODES[status], name, {**WHERE, **parameters})
    path = f"{FUNCTIONS}/queries/add/executeAsync"
    _, submitted, _ = await ask(harness, "POST", path, {"parameters": {"a": 1, "b": 2}})
    await run_next(harness, posted)
    answer = await ask(harness, "POST", f"{FUNCTIONS}/executions/{submitted['executionId']}/getResult", {})
    assert error_of(answer) == (status, CODES[status], f"Async{name}", {**WHERE, **parameters})


@pytest_twisted.ensureDeferred
async def test_an_error_for_the_user_is_known_at_the_end_of_a_long_traceback(anywhere: Harness) -> None:
    await post_schemas(anywhere, ADD)
    frames = "".join(f'  File "m.py", line {number}, in f\n    f()\n' for number in range(500))
    report = f"try again: Traceback (most recent call last):\n{frames}m.UserFacingError: try again\n"
    calling = execute(anywhere, "add", {"a": 1, "b": 2})
    await run_next(anywhere, {"exception": report})
    found = error_of(await calling)
    assert found == (409, "CONFLICT", "QueryEncounteredUserFacingError", {**WHERE, "message": "try again"})


@pytest.fixture
def impatient(start_anywhere: Callable[..., Harness]) -> Harness:
    """Start an emulator that answers callers after 0.3 seconds, on each kind of broker."""
    return start_anywhere(limits=Limits(poll_timeout=30, sync_timeout=0.3))


@pytest_twisted.ensureDeferred
async def test_a_caller_waits_in_vain(impatient: Harness) -> None:
    await post_schemas(impatient, ADD)
    answer = await execute(impatient, "add", {"a": 1, "b": 2})
    assert error_of(answer) == (500, "INTERNAL", "QueryDeploymentNotAvailable", WHERE)
    assert "No replica of runtime 'one' has ever polled." in answer[1]["errorDescription"]
    await take(impatient)
    calling = execute(impatient, "add", {"a": 1, "b": 2})
    job_id, _, _ = await take(impatient)
    answer = await calling
    assert error_of(answer) == (400, "INVALID_ARGUMENT", "QueryTimeExceededLimit", WHERE)
    assert answer[1]["errorDescription"] == "The function did not return within 0.3 seconds."
    await post(impatient, job_id, 3)


@pytest.fixture
def limited(start_anywhere: Callable[..., Harness]) -> Harness:
    """Start an emulator whose jobs may run for 0.2 seconds, on each kind of broker."""
    return start_anywhere(
        seed=SEED.replace("module_auth_token: token-one", "module_auth_token: token-one, job_timeout: 0.2")
    )


@pytest_twisted.ensureDeferred
async def test_a_job_that_runs_for_longer_than_it_may(limited: Harness) -> None:
    await post_schemas(limited, ADD)
    calling = execute(limited, "add", {"a": 1, "b": 2})
    await take(limited)
    assert error_of(await calling) == (400, "INVALID_ARGUMENT", "QueryTimeExceededLimit", WHERE)


@pytest_twisted.ensureDeferred
async def test_a_job_that_fails_or_is_canceled(anywhere: Harness) -> None:
    await post_schemas(anywhere, ADD)
    calling = execute(anywhere, "add", {"a": 1, "b": 2})
    job_id, _, _ = await take(anywhere)
    await anywhere.broker.fail_job(job_id, "replica stopped")
    wanted = {**WHERE, "message": "replica stopped", "parameters": {}}
    assert error_of(await calling) == (400, "INVALID_ARGUMENT", "QueryRuntimeError", wanted)
    calling = execute(anywhere, "add", {"a": 1, "b": 2})
    job_id, _, _ = await take(anywhere)
    await anywhere.broker.cancel(job_id, "The job was canceled.")
    assert error_of(await calling) == (400, "INVALID_ARGUMENT", "QueryCanceled", WHERE)


#: The body of a call, or its query string; and status, name and parameters of the error.
REFUSED: list[tuple[Any, str, int, str, Any]] = [
    ({"parameters": {"a": "1"}}, "", 400, "MissingParameter", {"parameters": ["b"]}),
    (
        {"parameters": {"a": "1", "b": "2", "c": 3}},
        "",
        400,
        "UnknownParameter",
        {"unknownParameters": ["c"], "expectedParameters": ["a", "b", "note"]},
    ),
    (
        {"parameters": {"a": "1", "b": "9223372036854775808"}},
        "",
        400,
        "InvalidQueryParameterValue",
        {"parameterId": "b", "parameterDataType": {"type": "long"}, "parameterValue": "9223372036854775808"},
    ),
    ({"parameters": {}, "version": "1.0.0"}, "", 404, "QueryVersionNotFound", {"apiName": "add", "version": "1.0.0"}),
    ({"parameters": {}, "ontology": "none"}, "", 404, "OntologyNotFound", {"apiName": "none"}),
    ({"parameters": {}, "ontology": "ri.a.b.c.d"}, "", 404, "OntologyNotFound", {"ontologyRid": "ri.a.b.c.d"}),
    ({"parameters": {}, "branch": "none"}, "", 404, "FoundryBranchNotFound", {"branch": "none"}),
    (
        {"parameters": {}},
        "?transactionId=t",
        400,
        "FunctionNotSupportedWithTransaction",
        {**WHERE, "message": "There is no transaction 't': functions of compute modules do not run in transactions."},
    ),
    ({"parameters": {}}, "?scenarioRid=s", 404, "OntologyScenarioNotFound", {"scenarioRid": "s"}),
    (
        {"parameters": {}, "version": "0.0.0", "includePrerelease": True},
        "",
        400,
        "InvalidVersionResolutionParameters",
        None,
    ),
    (
        {"parameters": {}, "latestVersionResolution": "x"},
        "",
        400,
        "InvalidRequest",
        {"field": "latestVersionResolution"},
    ),
    ({"parameters": {}, "includePrerelease": "x"}, "", 400, "InvalidRequest", {"field": "includePrerelease"}),
    ({"parameters": {}, "version": 1}, "", 400, "InvalidRequest", {"field": "version"}),
    ({}, "", 400, "InvalidRequest", {"field": "parameters"}),
    ({"parameters": None}, "", 400, "InvalidRequest", {"field": "parameters"}),
    ({"parameters": []}, "", 400, "InvalidRequest", {"field": "parameters"}),
    ([], "", 400, "InvalidRequest", None),
    (b'{"parameters": {"a": NaN, "b": 1}}', "", 400, "InvalidRequest", None),
    (b'{"parameters": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}", "", 400, "InvalidRequest", None),
    (b'{"parameters": {"a": ' + b"9" * 5000 + b', "b": 1}}', "", 400, "InvalidRequest", None),
]


@pytest.mark.parametrize("action", ["execute", "streamingExecute", "streamingExecuteEvents", "executeAsync"])
@pytest.mark.parametrize(("body", "options", "status", "name", "parameters"), REFUSED)
@pytest_twisted.ensureDeferred
async def test_calls_that_are_refused_before_anything_is_queued(
    harness: Harness, action: str, body: Any, options: str, status: int, name: str, parameters: Any
) -> None:
    await post_schemas(harness, ADD)
    found = error_of(await ask(harness, "POST", f"{FUNCTIONS}/queries/add/{action}{options}", body))
    if "Transaction" in name and action == "executeAsync":
        name = f"Async{name}"
    assert found[:3] == (status, CODES[status], name)
    assert parameters is None or found[3] == parameters
    assert not harness.jobs()


@pytest_twisted.ensureDeferred
async def test_lookups_that_are_refused(harness: Harness) -> None:
    await post_schemas(harness, ADD)
    for path, wanted in (
        ("queries/none", (404, "NOT_FOUND", "QueryNotFound", {"queryApiName": "none"})),
        (
            "queries/add?version=9.9.9",
            (404, "NOT_FOUND", "QueryVersionNotFound", {"apiName": "add", "version": "9.9.9"}),
        ),
        ("queries/getByRid?rid=ri.a.b.c.d", (404, "NOT_FOUND", "FunctionNotFound", {"functionRid": "ri.a.b.c.d"})),
        ("queries/getByRid", (400, "INVALID_ARGUMENT", "InvalidRequest", {"field": "rid"})),
    ):
        assert error_of(await ask(harness, "GET", f"{FUNCTIONS}/{path}")) == wanted
    for body in ({}, [], [{"rid": "x"}] * 101, ["x"], [{}], [{"rid": 1}]):
        status, _, name, _ = error_of(await ask(harness, "POST", f"{FUNCTIONS}/queries/getByRidBatch", body))
        assert (status, name) == (400, "InvalidRequest")
    for body in ({"timeout": -1}, {"timeout": "1"}, {"timeout": True}, []):
        status, _, name, _ = error_of(await ask(harness, "POST", f"{FUNCTIONS}/executions/x/getResult", body))
        assert (status, name) == (400, "InvalidRequest")


@pytest_twisted.ensureDeferred
async def test_a_call_that_is_sent_again_with_its_key_runs_once(anywhere: Harness) -> None:
    await post_schemas(anywhere, ADD)
    path, body = f"{FUNCTIONS}/queries/add/execute", {"parameters": {"a": 1, "b": 2}}
    callings = [ask(anywhere, "POST", path, body, Idempotency_Key="k") for _ in range(2)]
    await run_next(anywhere, 3)
    assert [(await each)[1] for each in callings] == [{"value": "3"}] * 2
    assert len(await anywhere.broker.jobs(JobFilter(), 10)) == 1


@pytest_twisted.ensureDeferred
async def test_the_log_has_no_parameters(harness: Harness) -> None:
    await post_schemas(harness, UNTYPED)
    with logged("s3cret") as lines:
        calling = execute(harness, "untyped", {"password": "s3cret"})
        await run_next(harness, 1)
        await calling
    assert not lines
