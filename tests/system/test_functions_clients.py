"""Test the public functions API with the unmodified platform SDK, against a module on the unmodified Python SDK."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from applications import PlatformSdk, python_call
from conftest import RUNTIMES, SEED, Server
from redis_server import RedisServer
from sdk_processes import contour, execute, get, until

pytestmark = [pytest.mark.shared_server, pytest.mark.long]

ONTOLOGY = "ri.ontology.main.ontology.local"
POINT = {"x": 0.5, "label": "here", "id": "9007199254740993", "seen": "2021-05-01T05:00:00Z", "note": "a"}

#: A value for each type, as applications send it and get it back.
VALUES: dict[str, Any] = {
    "boolean": True,
    "integer": -7,
    "long": "9223372036854775807",
    "float": 0.5,
    "double": 1e300,
    "string": 'ü "quoted"\n',
    "date": "2021-05-01",
    "timestamp": "2021-05-01T05:00:00.250000Z",
    "decimal": "12345678901234567890.50",
    "binary": "text",
    "byte": -128,
    "short": 32767,
    "list": ["-1", "9223372036854775807"],
    "set": ["a", "b"],
    "map": [{"key": "a", "value": "9223372036854775807"}],
    "map_of_integers": [{"key": 1, "value": "one"}, {"key": 2, "value": "two"}],
    "optional": "9223372036854775807",
    "struct": POINT,
    "nested": {
        "name": "way",
        "start": POINT,
        "stops": [POINT, {**POINT, "id": "-1"}],
        "weights": [{"key": "a", "value": "9223372036854775807"}],
        "end": "there",
    },
}


@pytest.fixture
def sdk(server: Server, typed_module: None) -> Iterator[PlatformSdk]:
    """Start a process with clients of the platform SDK."""
    started = PlatformSdk(server)
    yield started
    started.close()


def without_instance(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return what was raised, without what differs each time."""
    assert outcome.pop("error_instance_id"), outcome
    return outcome


def named_error(outcome: dict[str, Any]) -> tuple[Any, ...]:
    """Return the class, the code, the name and the parameters of what was raised."""
    found = without_instance(outcome)
    return found["raised"], found["error_code"], found["name"], found["parameters"]


def test_values_of_every_type_arrive_and_come_back(sdk: PlatformSdk) -> None:
    for method, where in (("functions", ()), ("ontologies", (ONTOLOGY,)), ("ontologies", ("local",))):
        calls = [
            python_call(f"{method}.Query.execute", *where, name, parameters={"value": value})
            for name, value in VALUES.items()
        ]
        sdk.start(*calls)
        for (name, value), outcome in zip(VALUES.items(), sdk.finish(), strict=True):
            assert outcome == {"returned": {"value": value}}, (method, name)
    for parameters in ({}, {"value": None}):
        assert sdk("functions.Query.execute", "optional", parameters=parameters) == {}
    # The emulator converts long values in a process of its own.
    many = [str(2**62 + number) for number in range(20_000)]
    assert sdk("functions.Query.execute", "list", parameters={"value": many}) == {"value": many}
    stream = sdk("functions.Query.with_streaming_response.streaming_execute", "list", parameters={"value": many})
    assert stream == [{"type": "data", "value": many}]
    wrong = sdk.outcome("functions.Query.execute", "list", parameters={"value": [*many, "many"]})
    assert (wrong["name"], wrong["parameters"]["parameterId"]) == ("InvalidQueryParameterValue", "value")


def test_the_module_gets_values_as_it_declares_them(sdk: PlatformSdk) -> None:
    parameters = {
        "boolean": False,
        "integer": 7,
        "long": "9223372036854775807",
        "double": 2,
        "string": "s",
        "date": "2021-05-01",
        "timestamp": {"$datetime": "2021-05-01T07:00:00+02:00"},
        "decimal": "1.50",
        "binary": "text",
        "longs": ["1", 2],
        "names": ["a", "a"],
        "numbers": [{"key": 1, "value": "9007199254740993"}],
        "point": {
            **{k: v for k, v in POINT.items() if k != "note"},
            "seen": {"$datetime": "2021-05-01T07:00:00+02:00"},
        },
    }
    point = "Point(x=0.5, label='here', id=9007199254740993, seen=datetime.datetime(2021, 5, 1, 5, 0), note=None)"
    expected = {
        "boolean": "False",
        "integer": "7",
        "long": "9223372036854775807",
        "double": "2",
        "string": "'s'",
        "date": "datetime.date(2021, 5, 1)",
        "timestamp": "datetime.datetime(2021, 5, 1, 5, 0)",
        "decimal": "Decimal('1.50')",
        "binary": "b'text'",
        "longs": "[1, 2]",
        "names": "{'a'}",
        "numbers": "{1: 9007199254740993}",
        "point": point,
        "nothing": "None",
        "size": "3",
        "tags": "[]",
    }
    for method, where in (("functions", ()), ("ontologies", (ONTOLOGY,))):
        seen = sdk(f"{method}.Query.execute", *where, "everything", parameters=parameters)["value"]
        assert {entry["key"]: entry["value"] for entry in seen} == expected, method
    ordered = sdk("functions.Query.execute", "order", parameters={"customer": "Jo", "size": 2, "copies": 3})
    assert ordered == {"value": "Jo: 3 x 2, None"}
    assert sdk("functions.Query.execute", "nothing", parameters={}) == {"value": "called"}


@pytest.mark.parametrize(
    "server", ["queries: [{api_name: placeOrder, deployed_app_rid: ri.one, function: order}]"], indirect=True
)
def test_each_name_of_a_function_is_described_and_executed(sdk: PlatformSdk) -> None:
    parameters = {"customer": "Jo", "size": 2}
    for name in ("placeOrder", "com.acme.computemodules.placeOrder"):
        for method, where in (("functions", ()), ("ontologies", (ONTOLOGY,))):
            result = sdk(f"{method}.Query.execute", *where, name, parameters=parameters, version="0.0.0")
            assert result == {"value": "Jo: 1 x 2, None"}, (name, method)
    query = sdk("functions.Query.get", "placeOrder")
    assert (query["apiName"], query["version"]) == ("placeOrder", "0.0.0")
    integer, string = {"type": "integer"}, {"type": "string"}
    assert query["output"] == string
    assert {name: (each["dataType"], each["required"]) for name, each in query["parameters"].items()} == {
        "size": (integer, True),
        "customer": (string, True),
        "note": ({"type": "union", "unionTypes": [string, {"type": "null"}]}, False),
        "copies": (integer, False),
    }
    assert sdk("functions.Query.get_by_rid", rid=query["rid"]) == query
    unknown = "ri.function-registry.main.function.unknown"
    batch = sdk("functions.Query.get_by_rid_batch", [{"rid": query["rid"]}, {"rid": unknown}])
    assert batch["data"] == [query]
    assert sdk("ontologies.Ontology.QueryType.get", ONTOLOGY, "placeOrder")["rid"] == query["rid"]
    requests = [{"queryTypeRid": query["rid"], "functionVersion": "0.0.0"}, {"queryTypeRid": unknown}]
    batch = sdk("ontologies.Ontology.QueryType.get_by_rid_batch", "local", requests=requests)
    assert [each["apiName"] for each in batch["data"]] == ["placeOrder"]


def test_ontologies_and_their_queries_are_listed(sdk: PlatformSdk) -> None:
    (ontology,) = sdk("ontologies.Ontology.list")["data"]
    assert (ontology["apiName"], ontology["rid"]) == ("local", ONTOLOGY)
    for named in ("local", ONTOLOGY):
        assert sdk("ontologies.Ontology.get", named) == ontology
    everything = sdk("ontologies.Ontology.QueryType.list", "local")
    names = [each["apiName"] for each in everything]
    assert set(VALUES) < set(names)
    assert len(names) == len(set(names)) == 32
    assert sdk("ontologies.Ontology.QueryType.list", ONTOLOGY, page_size=4) == everything
    for each in everything:
        assert sdk("ontologies.Ontology.QueryType.get", "local", each["apiName"]) == each
        assert re.fullmatch(r"ri\.[a-z-]+\.[a-z0-9-]*\.[a-z-]+\.[\w.-]+", each["rid"]), each
    types = {each["apiName"]: each["output"] for each in everything}
    assert types["map"] == {"type": "entrySet", "keyType": {"type": "string"}, "valueType": {"type": "long"}}
    assert types["decimal"]["type"] == "unsupported"
    # The functions API has no map.
    assert sdk("functions.Query.get", "map")["output"]["type"] == "unsupported"


SEEDED = SEED.replace(
    "foundry:",
    """foundry:
  ontologies:
    - api_name: planets
      display_name: Planets
      queries: [{api_name: answer, result: {all: [42]}}]
    - {rid: ri.ontology.main.ontology.second, api_name: second, queries: []}""",
)


@pytest.fixture
def seeded(tmp_path: Path, state_dir: Path) -> Iterator[Server]:
    """Start a server whose seed has ontologies."""
    server = Server(tmp_path, state_dir, seed=SEEDED)
    yield server
    server.stop()


def test_ontologies_of_the_seed_have_constant_results(seeded: Server) -> None:
    sdk = PlatformSdk(seeded)
    try:
        planets, second = sdk("ontologies.Ontology.list")["data"]
        assert (planets["displayName"], second["rid"]) == ("Planets", "ri.ontology.main.ontology.second")
        assert sdk("ontologies.Query.execute", "planets", "answer", parameters={}) == {"value": {"all": [42]}}
        assert [each["apiName"] for each in sdk("ontologies.Ontology.QueryType.list", planets["rid"])] == ["answer"]
        missing = sdk.outcome("ontologies.Query.execute", "second", "answer", parameters={})
        assert (missing["name"], missing["parameters"]) == ("QueryNotFound", {"query": "answer"})
        missing = sdk.outcome("ontologies.Ontology.get", "local")
        assert (missing["raised"], missing["name"]) == ("NotFoundError", "OntologyNotFound")
    finally:
        sdk.close()


STREAMS = ("streaming_execute", "streaming_execute_events")


class TestStreams:
    """What applications read of a function that streams, on each broker."""

    @pytest.fixture(params=["memory", "redis"])
    def server(self, request: pytest.FixtureRequest, tmp_path: Path, state_dir: Path) -> Iterator[Server]:
        """Start a server on a broker."""
        options: tuple[str, ...] = ()
        if request.param == "redis":
            redis: RedisServer = request.getfixturevalue("redis_server")
            assert redis.command("FLUSHALL") == b"+OK\r\n"
            options = ("--broker", redis.url)
        started = Server(tmp_path, state_dir, *options)
        yield started
        started.stop()

    @pytest.mark.parametrize("form", STREAMS)
    def test_values_arrive_one_by_one(self, sdk: PlatformSdk, form: str, tmp_path: Path) -> None:
        def stream(name: str, touch: Path | None = None, **options: Any) -> list[Any]:
            method = f"functions.Query.with_streaming_response.{form}"
            found: list[Any] = sdk(method, name, touch=touch and str(touch), **options)
            return found

        # The module waits for the file after its first value. The application makes it when it has that value.
        gate = tmp_path / "gate"
        events = stream("count", gate, parameters={"to": 4, "gate": str(gate)})
        assert events[0] == {"type": "data", "value": [1]}
        assert [number for each in events for number in each["value"]] == [1, 2, 3, 4]
        longs = stream("long_numbers", parameters={"to": 2})
        assert [number for each in longs for number in each["value"]] == [str(2**60), str(2**60 + 1)]
        points = [point for each in stream("points", parameters={"to": 3}) for point in each["value"]]
        assert [point["label"] for point in points] == ["no 0", "no 1", "no 2"]
        assert points[0]["id"] == str(2**60)
        # A function that does not stream gives its whole result at once.
        assert stream("list", parameters={"value": ["1", "2"]}) == [{"type": "data", "value": ["1", "2"]}]
        assert stream("string", ontology="local", parameters={"value": "a"}) == [{"type": "data", "value": "a"}]
        assert stream("count", parameters={"to": 0}) == []

    def test_executed_at_once_they_are_an_array(self, sdk: PlatformSdk) -> None:
        for method, where in (("functions", ()), ("ontologies", (ONTOLOGY,))):
            for to, expected in ((3, [1, 2, 3]), (0, [])):
                assert sdk(f"{method}.Query.execute", *where, "count", parameters={"to": to}) == {"value": expected}
        longs = sdk("functions.Query.execute", "long_numbers", parameters={"to": 1})
        assert longs == {"value": [str(2**60)]}

    @pytest.mark.parametrize("form", STREAMS)
    def test_errors(self, sdk: PlatformSdk, form: str, tmp_path: Path) -> None:
        method = f"functions.Query.with_streaming_response.{form}"
        # The stream breaks once the application has both values. On Redis, those that it has not read could get lost.
        gate = str(tmp_path / "gate")
        events = sdk(method, "breaks", touch=gate, values=2, parameters={"to": 2, "gate": gate})
        assert [number for each in events[:-1] for number in each["value"]] == [0, 1]
        assert events[-1]["type"] == "error"
        assert events[-1]["errorName"] == "QueryRuntimeError"
        (event,) = sdk(method, "raises", parameters={"message": "on purpose"})
        assert (event["type"], event["errorName"], event["errorCode"]) == (
            "error",
            "QueryRuntimeError",
            "INVALID_ARGUMENT",
        )
        assert "on purpose" in event["parameters"]["message"]
        for name, parameters, error in (
            ("unknown", {}, ("NotFoundError", "QueryNotFound")),
            ("count", {}, ("BadRequestError", "MissingParameter")),
        ):
            outcome = sdk.outcome(method, name, parameters=parameters)
            assert (outcome["raised"], outcome["name"]) == error


def test_an_asynchronous_execution_runs_and_succeeds(sdk: PlatformSdk, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    submitted = sdk("functions.Query.execute_async", "waits", parameters={"gate": str(gate), "name": "done"})
    assert submitted["type"] == "submitted"
    execution = submitted["executionId"]
    assert sdk("functions.Execution.get_result", execution) == {"type": "running"}
    assert sdk("functions.Execution.get_result", execution, timeout=1) == {"type": "running"}
    sdk.start(python_call("functions.Execution.get_result", execution, timeout=280))
    gate.touch()
    succeeded = {"type": "succeeded", "value": "done"}
    assert sdk.finish() == [{"returned": succeeded}]
    assert sdk("functions.Execution.get_result", execution, timeout=100_000) == succeeded
    again = sdk("functions.Query.execute_async", "long", ontology=ONTOLOGY, parameters={"value": "5"})
    if again["type"] == "submitted":
        again = sdk("functions.Execution.get_result", again["executionId"], timeout=30)
    assert again["value"] == "5"


def test_asynchronous_executions_that_fail(sdk: PlatformSdk, tmp_path: Path) -> None:
    def result_of(name: str, parameters: Any, before: Callable[[str], None] = lambda execution: None) -> Any:
        execution = sdk("functions.Query.execute_async", name, parameters=parameters)["executionId"]
        before(execution)
        return sdk.outcome("functions.Execution.get_result", execution, timeout=30)

    raised = result_of("raises", {"message": "on purpose"})
    assert (raised["raised"], raised["name"]) == ("BadRequestError", "AsyncQueryRuntimeError")
    assert "on purpose" in raised["parameters"]["message"]
    silent = result_of("silent", {})
    assert (silent["raised"], silent["name"]) == ("BadRequestError", "AsyncInvalidQueryOutputValue")
    sorry = result_of("apologizes", {"message": "Sorry."})
    assert (sorry["raised"], sorry["name"]) == ("ConflictError", "AsyncQueryEncounteredUserFacingError")

    def cancel(execution: str) -> None:
        for _ in range(2):
            assert sdk("functions.Execution.cancel", execution) == {"id": execution}

    canceled = result_of("waits", {"gate": str(tmp_path / "gate"), "name": "late"}, cancel)
    (tmp_path / "gate").touch()
    assert (canceled["raised"], canceled["name"]) == ("BadRequestError", "AsyncQueryCanceled")
    for method in ("get_result", "cancel"):
        unknown = without_instance(sdk.outcome(f"functions.Execution.{method}", "unknown"))
        assert (unknown["raised"], unknown["name"]) == ("NotFoundError", "ExecutionNotFound")
        assert unknown["parameters"] == {"executionId": "unknown"}


def test_each_error_has_its_name(sdk: PlatformSdk) -> None:
    def error_of(method: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return named_error(sdk.outcome(method, *args, **kwargs))

    # The client has a class of its own for the one error that it declares.
    assert error_of("functions.Query.get", "unknown") == (
        *("QueryNotFound", None, "QueryNotFound"),
        {"queryApiName": "unknown"},
    )
    not_found = ("NotFoundError", "NOT_FOUND")
    unknown = "ri.function-registry.main.function.unknown"
    assert error_of("functions.Query.get_by_rid", rid=unknown)[:3] == (*not_found, "FunctionNotFound")
    for version in ("1.0.0", "0.0.1"):
        expected = (*not_found, "QueryVersionNotFound", {"apiName": "order", "version": version})
        assert error_of("functions.Query.get", "order", version=version) == expected
        assert error_of("ontologies.Ontology.QueryType.get", ONTOLOGY, "order", version=version) == expected
        assert error_of("ontologies.Query.execute", ONTOLOGY, "order", parameters={}, version=version) == expected
    for ontology, parameters in (
        ("nowhere", {"apiName": "nowhere"}),
        ("ri.ontology.main.ontology.nowhere", {"ontologyRid": "ri.ontology.main.ontology.nowhere"}),
    ):
        expected = (*not_found, "OntologyNotFound", parameters)
        assert error_of("ontologies.Ontology.get", ontology) == expected
        assert error_of("ontologies.Query.execute", ontology, "order", parameters={}) == expected
        assert error_of("functions.Query.execute_async", "order", parameters={}, ontology=ontology) == expected

    for api, where, name in (("functions", (), "queryApiName"), ("ontologies", ("local",), "query")):
        execute_query = f"{api}.Query.execute"
        assert error_of(execute_query, *where, "unknown", parameters={}) == (
            *(*not_found, "QueryNotFound"),
            {name: "unknown"},
        )
        bad = ("BadRequestError", "INVALID_ARGUMENT")
        missing = error_of(execute_query, *where, "order", parameters={"note": "n"})
        assert missing[:3] == (*bad, "MissingParameter")
        assert sorted(missing[3]["parameters"]) == ["customer", "size"]
        extra = error_of(execute_query, *where, "order", parameters={"size": 1, "customer": "Jo", "sise": 1})
        assert extra[:3] == (*bad, "UnknownParameter")
        assert extra[3]["unknownParameters"] == ["sise"]
        assert sorted(extra[3]["expectedParameters"]) == ["copies", "customer", "note", "size"]
        wrong = error_of(execute_query, *where, "order", parameters={"size": "large", "customer": "Jo"})
        assert wrong[:3] == (*bad, "InvalidQueryParameterValue")
        assert wrong[3] == {
            "parameterDataType": {"type": "integer"},
            "parameterId": "size",
            "parameterValue": "large",
        }
        raised = error_of(execute_query, *where, "raises", parameters={"message": "on purpose"})
        assert raised[:3] == (*bad, "QueryRuntimeError")
        assert "on purpose" in raised[3]["message"]
        assert raised[3]["functionVersion"] == "0.0.0"
        assert "parameters" in raised[3]
        assert raised[3]["stacktrace"].startswith("Traceback ")
        sorry = error_of(execute_query, *where, "apologizes", parameters={"message": "Sorry."})
        assert sorry[:3] == ("ConflictError", "CONFLICT", "QueryEncounteredUserFacingError")
        assert sorry[3]["message"] == "Sorry."
        silent = error_of(execute_query, *where, "silent", parameters={})
        assert silent[:3] == (*bad, "InvalidQueryOutputValue")
        assert silent[3]["outputDataType"] == {"type": "integer"}
        # A value of another type passes as it is, because the SDKs post a type for functions that declare none.
        assert sdk(execute_query, *where, "lies", parameters={"message": "text"}) == {"value": "text"}


IMPATIENT = (
    SEED.replace("sync_timeout: 30\n", "sync_timeout: 1\n    queries: [{api_name: idle, %s}]\n").replace(
        "token-one}", "token-one, job_timeout: 2}"
    )
    % "deployed_app_rid: ri.two, branch: dev, function: order"
)


@pytest.fixture
def impatient(tmp_path: Path, state_dir: Path) -> Iterator[Server]:
    """Start a server whose callers wait for a second and whose jobs run for two; runtime ``two`` has no module."""
    server = Server(tmp_path, state_dir, seed=IMPATIENT)
    yield server
    server.stop()


class TestTimeLimits:
    """What applications are told when a function takes too long."""

    @pytest.fixture
    def server(self, impatient: Server) -> Server:
        """Let ``launch`` start modules against the server."""
        return impatient

    def test_errors(self, sdk: PlatformSdk, tmp_path: Path) -> None:
        function = {"functionRid": sdk("functions.Query.get", "waits")["rid"], "functionVersion": "0.0.0"}
        late = {"gate": str(tmp_path / "gate"), "name": "late"}
        bad = ("BadRequestError", "INVALID_ARGUMENT")
        outcome = sdk.outcome("functions.Query.execute", "waits", parameters=late)
        assert named_error(outcome) == (*bad, "QueryTimeExceededLimit", function)
        outcome = sdk.outcome("ontologies.Query.execute", "local", "waits", parameters=late)
        assert named_error(outcome) == (*bad, "QueryTimeExceededLimit", function)
        (event,) = sdk("functions.Query.with_streaming_response.streaming_execute", "waits", parameters=late)
        assert event["errorName"] == "QueryTimeExceededLimit"
        execution = sdk("functions.Query.execute_async", "waits", parameters=late)["executionId"]
        outcome = sdk.outcome("functions.Execution.get_result", execution, timeout=30)
        assert named_error(outcome) == (*bad, "AsyncQueryTimeExceededLimit", function)
        idle = named_error(sdk.outcome("functions.Query.execute", "idle", parameters={}))
        assert idle[:3] == ("InternalServerError", "INTERNAL", "QueryDeploymentNotAvailable")
        assert idle[3]["functionVersion"] == "0.0.0"
        (tmp_path / "gate").touch()


def test_64_applications_each_get_their_own_result(server: Server, sdk: PlatformSdk, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    calls = [
        python_call("functions.Query.execute", "waits", parameters={"gate": str(gate), "name": f"api {n}"})
        if n % 2
        else python_call(
            "ontologies.Query.execute", "local", "waits", parameters={"gate": str(gate), "name": f"api {n}"}
        )
        for n in range(64)
    ]
    with ThreadPoolExecutor(64) as pool:
        sdk.start(*calls)
        queries = [{"gate": str(gate), "name": f"multiplexer {n}"} for n in range(64)]
        answers = [pool.submit(execute, server, "waits", query) for query in queries]

        def all_submitted() -> bool:
            runtime = get(server, f"{RUNTIMES}/one")
            waiting: int = runtime["queued_jobs"] + runtime["running_jobs"]
            return waiting == 128

        until(all_submitted, sdk.process)  # type: ignore[arg-type]
        gate.touch()
        assert [answer.result() for answer in answers] == [f'"multiplexer {n}"'.encode() for n in range(64)]
    assert sdk.finish() == [{"returned": {"value": f"api {n}"}} for n in range(64)]
    assert contour(server, "GET", "/schemas?rid=ri.one")
