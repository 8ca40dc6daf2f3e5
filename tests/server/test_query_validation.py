"""Checking queries against the schemas of their functions."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from conftest import SEED, make_harness, pause, serve_one
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from twisted_cm.model.runtimes import FunctionSchema
from twisted_cm.server.function_schemas import InvalidSchemas, parse_function_schemas
from twisted_cm.server.query_validation import MOST_VIOLATIONS, UncheckableQuery, query_violations

OUTPUT = {"type": "single", "single": {"dataType": {"type": "string"}}}


def function(**inputs: Any) -> FunctionSchema:
    """Make a function in Foundry's form; an input is optional if its name ends with an underscore."""
    posted = {
        "functionName": "f",
        "inputs": [
            {"name": name.rstrip("_"), "required": not name.endswith("_"), "constraints": [], "dataType": data_type}
            for name, data_type in inputs.items()
        ],
        "output": OUTPUT,
    }
    (schema,) = parse_function_schemas([posted])
    assert schema.issues == ()
    return schema


def optional(data_type: Any) -> Any:
    return {"type": "optionalType", "optionalType": {"wrappedType": data_type}}


INTEGER = {"type": "integer", "integer": {}}
STRING = {"type": "string", "string": {}}
POINT = {"type": "anonymousCustomType", "anonymousCustomType": {"fields": {"x": INTEGER, "label": optional(STRING)}}}

CASES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "boolean"}, [True], [1, "true", None]),
    ({"type": "byte"}, [-128, 127], [128, 1.5, True]),
    ({"type": "short"}, [32767], [32768]),
    (INTEGER, [2**31 - 1, 1.0], [2**31, "1", None, True]),
    (
        {"type": "long"},
        [2**63 - 1, "9223372036854775807", "-9223372036854775808"],
        [2**63, "x", "9223372036854775808", "1\n", "\u0661"],
    ),
    ({"type": "float"}, [1, 1.5, "NaN"], ["1.5", None]),
    ({"type": "double"}, [1e300, "-Infinity"], ["inf"]),
    ({"type": "decimal"}, ["1.50", "-.5e-3", 2], ["", "1,5", "1\n"]),
    (STRING, ["", "x"], [1, None]),
    ({"type": "binary"}, ["AA=="], [1]),
    ({"type": "date"}, ["2026-02-28"], ["2026-02-30", 1]),
    ({"type": "timestamp"}, ["2026-02-28T00:00:00Z", 1], [1.5, None]),
    ({"type": "list", "list": {"elementsType": INTEGER}}, [[], [1]], [{}, ["1"]]),
    ({"type": "set", "set": {"elementsType": STRING}}, [["a"]], [[1]]),
    ({"type": "map", "map": {"keysType": STRING, "valuesType": INTEGER}}, [{}, {"a": 1}], [[], {"a": "1"}]),
    (optional(INTEGER), [1, None], ["1"]),
    (POINT, [{"x": 1}, {"x": 1, "label": None}, {"x": 1, "label": "a"}], [{}, {"x": "1"}, {"x": 1, "lable": "a"}]),
    ({"type": "ontologyEdit"}, [1, None, {}], []),
]


@pytest.mark.parametrize(("data_type", "fitting", "others"), CASES, ids=[case[0]["type"] for case in CASES])
def test_values_of_every_data_type(data_type: Any, fitting: list[Any], others: list[Any]) -> None:
    schema = function(x=data_type)
    for value in fitting:
        assert query_violations(schema, {"x": value}) == [], value
    for value in others:
        assert [each.pointer[:2] for each in query_violations(schema, {"x": value})] == ["/x"], value


def test_pointers_name_what_is_wrong() -> None:
    schema = function(a=INTEGER, **{"points_": {"type": "list", "list": {"elementsType": POINT}}})
    assert query_violations(schema, {"a": 1}) == []
    assert query_violations(schema, {"a": 1, "points": None}) == []
    assert [each.pointer for each in query_violations(schema, {"a": "1", "point": []})] == ["/a", ""]
    found = query_violations(function(p=POINT), {"p": {"x": "1"}})
    assert [(each.pointer, each.message) for each in found] == [("/p/x", "'1' is not of type 'integer'")]
    assert [each.pointer for each in query_violations(schema, [])] == [""]
    many = function(a={"type": "list", "list": {"elementsType": INTEGER}})
    assert len(query_violations(many, {"a": ["x"] * 1000})) == MOST_VIOLATIONS


def test_inputs_that_say_nothing_constrain_nothing() -> None:
    # The Python SDK posts no inputs for a function without type hints.
    assert query_violations(function(), {"anything": 1}) == []
    (unread,) = parse_function_schemas([{"functionName": "f", "inputs": [{"name": "x"}], "output": OUTPUT}])
    assert query_violations(unread, [1]) == []


def test_a_json_schema_describes_the_query() -> None:
    (schema,) = parse_function_schemas({"f": {"type": "object", "properties": {"a": {"type": "integer"}}}})
    assert query_violations(schema, {"a": 1}) == []
    assert [each.pointer for each in query_violations(schema, {"a": "x"})] == ["/a"]


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/schema.json", "file:///etc/passwd", "#/$defs/none", "#"])
def test_a_reference_never_leaves_the_schema(target: str) -> None:
    (schema,) = parse_function_schemas({"f": {"properties": {"a": {"$ref": target}}, "$ref": target}})
    with pytest.raises(UncheckableQuery):
        query_violations(schema, {"a": 1})


@pytest.mark.parametrize(
    ("schema", "query"),
    [
        ({"multipleOf": 0.1}, 10**400),
        ({"$id": "http://[", "$ref": "x"}, 1),
        ({"$ref": "#/required/0", "required": ["a"]}, {"a": 1}),
        ({"$ref": "#/required/x", "required": ["a"]}, {"a": 1}),
        ({"items": {"$ref": "#/enum/0"}, "enum": [[3]]}, [3]),
    ],
)
def test_a_schema_that_cannot_be_applied_is_said(schema: Any, query: Any) -> None:
    (posted,) = parse_function_schemas({"f": {"type": ["object", "array", "number"], **schema}})
    with pytest.raises(UncheckableQuery):
        query_violations(posted, query)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([case[0] for case in CASES]) | JSON, JSON)
def test_any_schema_and_query_are_checked_or_refused(data_type: Any, query: Any) -> None:
    entry = {"functionName": "f", "inputs": [{"name": "x", "dataType": data_type}], "output": OUTPUT}
    try:
        (schema,) = parse_function_schemas([entry])
    except InvalidSchemas:
        return
    for each in query_violations(schema, {"x": query}):
        assert each.message


KEYWORDS = (
    "type",
    "$ref",
    "items",
    "enum",
    "required",
    "properties",
    "multipleOf",
    "pattern",
    "$defs",
    "anyOf",
    "$schema",
)
POINTERS = st.sampled_from(["#", "#/required/0", "#/enum/0", "#/properties/a", "#/$defs/a", "a"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYWORDS), JSON | POINTERS, max_size=4), JSON)
def test_any_json_schema_and_query_are_checked_or_refused(entry: Any, query: Any) -> None:
    try:
        (schema,) = parse_function_schemas([{"functionName": "f", "schema": entry}])
        assert isinstance(query_violations(schema, query), list)
    except (InvalidSchemas, UncheckableQuery) as error:
        assert str(error)


def doubled(times: int) -> dict[str, Any]:
    """Return a schema whose parts each refer twice to the part before: it is short, and takes long to apply."""
    steps = {f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n - 1}"}] * 2} for n in range(1, times + 1)}
    return {"$defs": {"s0": {"type": "integer"}, **steps}, "$ref": f"#/$defs/s{times}"}


#: Schemas, and queries that it takes long to check against them.
ENDLESS: dict[str, tuple[dict[str, Any], Any]] = {
    "references": (doubled(18), 1),
    "unique items": ({"type": "array", "uniqueItems": True}, [{"n": n, "of": [n]} for n in range(4000)]),
    "a pattern": ({"type": "string", "pattern": "^(a+)+$"}, "a" * 40 + "b"),
}


@pytest.mark.parametrize("case", ENDLESS)
@pytest_twisted.ensureDeferred
async def test_a_check_that_takes_too_long_is_given_up(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.server.workers.CHECK_LIMIT", 1.0)
    checking = make_harness(SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    validate_queries: true\n"))
    schema, query = ENDLESS[case]
    try:
        simple = {**function(x=INTEGER).payload, "functionName": "g"}
        assert (await checking.module("POST", "/schemas", [{"functionName": "f", "schema": schema}, simple]))[0] == 200
        body = {"deployedAppRid": "ri.one", "queryType": "f", "query": query}
        checked = Deferred.fromCoroutine(checking.app("POST", "/deployed-apps/jobs", body))
        answered = 0
        while not checked.called:
            assert (await checking.call("GET", "/healthz"))[0] == 200
            answered += 1
            await pause(0.005)
        assert answered > 10
        status, answer, _ = await checked
        assert (status, answer["error"], answer["parameters"]) == (400, "invalid_request", {"field": "query"})
        assert answer["error_description"].startswith("The query could not be checked within 1 second")
        assert (await checking.app("POST", "/deployed-apps/jobs", {**body, "queryType": "g", "query": {"x": 1}}))[
            0
        ] == 200
    finally:
        await checking.pool.closeCachedConnections()
        await checking.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_long_query_is_checked_as_a_short_one_is() -> None:
    checking = make_harness(SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    validate_queries: true\n"))
    integers = {"type": "list", "list": {"elementsType": INTEGER}}
    schemas = [function(x=integers).payload, {"functionName": "s", "schema": {"required": ["y"]}}]
    try:
        await checking.module("POST", "/schemas", schemas)
        for name, query, pointer in (
            ("f", {"x": [*range(2000), "1"]}, "/x/2000"),
            # Just long enough for a body that is read from a file, so that the check has time on a busy machine too.
            ("f", {"x": [*range(2_000_000_000, 2_000_024_000), "1"]}, "/x/24000"),
            ("s", {"x": 1}, ""),
        ):
            body = {"deployedAppRid": "ri.one", "queryType": name, "query": query}
            status, answer, _ = await checking.app("POST", "/deployed-apps/jobs", body)
            assert status == 400, answer
            assert [each["pointer"] for each in answer["parameters"]["violations"]] == [pointer]
        good = {"deployedAppRid": "ri.one", "queryType": "s", "query": {"y": 1}}
        assert (await checking.app("POST", "/deployed-apps/jobs", good))[0] == 200
        number = b'{"deployedAppRid": "ri.one", "queryType": "s", "query": {"y": %s}}' % (b"9" * 5000)
        status, answer, _ = await checking.app("POST", "/deployed-apps/jobs", number)
        assert (status, answer["parameters"]) == (400, {"field": "query"})
        assert "5000 digits" in answer["error_description"]
    finally:
        await checking.pool.closeCachedConnections()
        await checking.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_query_is_checked_before_it_is_queued() -> None:
    checking = make_harness(SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    validate_queries: true\n"))
    body = {"deployedAppRid": "ri.one", "queryType": "f", "query": {"x": "1"}}
    direct = {"queryType": "f", "query": {"x": "1"}}
    try:
        # Before the runtime has posted its functions, it may have any.
        assert (await checking.app("POST", "/deployed-apps/jobs", body))[0] == 200
        await serve_one(checking, b"1")
        await checking.module("POST", "/schemas", [function(x=INTEGER).payload, {"name": "g", "type": "object"}])
        for status, answer, _ in (
            await checking.app("POST", "/deployed-apps/jobs", body),
            await checking.app("POST", "/compute-modules/jobs/execute", body),
            await checking.app("POST", "/deployed-apps/jobs/execute", body),
            await checking.module("POST", "/jobs", direct),
        ):
            assert (status, answer["error"]) == (400, "invalid_request")
            violation = {"pointer": "/x", "message": "'1' is not of type 'integer'"}
            assert answer["parameters"] == {"field": "query", "violations": [violation]}
        status, answer, _ = await checking.app("POST", "/deployed-apps/jobs", {**body, "queryType": "h"})
        assert (status, answer["error_description"]) == (404, "Unknown function 'h'. The runtime has: f, g.")
        assert answer["parameters"]["known"] == ["f", "g"]
        assert not checking.work().queued
        assert (await checking.app("POST", "/deployed-apps/jobs", {**body, "query": {"x": 1}}))[0] == 200
    finally:
        await checking.pool.closeCachedConnections()
        await checking.service.stopService()
