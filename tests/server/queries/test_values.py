"""Test how values are converted between the public API and a module."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twisted_cm.server.queries.api_types import api_type, api_type_of_json_schema, api_type_of_value
from twisted_cm.server.queries.values import ExactNumber, Unfit, conversion

#: A busy machine may take long for an example.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def simple(kind: str) -> dict[str, Any]:
    return {"type": kind, kind: {}}


def listed(element: dict[str, Any], kind: str = "list") -> dict[str, Any]:
    return {"type": kind, kind: {"elementsType": element}}


def mapped(key: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "map", "map": {"keysType": key, "valuesType": value}}


def optional(wrapped: dict[str, Any]) -> dict[str, Any]:
    return {"type": "optionalType", "optionalType": {"wrappedType": wrapped}}


def struct(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "anonymousCustomType", "anonymousCustomType": {"fields": fields}}


LONG, INTEGER, STRING = simple("long"), simple("integer"), simple("string")
POINT = struct(x=simple("double"), label=optional(STRING), id=LONG)

#: A type, a value of the API, and the value that the module reads.
THERE = [
    (simple("boolean"), True, True),
    (INTEGER, -(2**31), -(2**31)),
    (simple("byte"), 127, 127),
    (simple("short"), -32768, -32768),
    (LONG, "9223372036854775807", 2**63 - 1),
    (LONG, "-9223372036854775808", -(2**63)),
    (LONG, 5, 5),
    (simple("double"), 1, 1),
    (simple("float"), 2.5, 2.5),
    (simple("double"), "NaN", "NaN"),
    (simple("decimal"), "2.718281828459045235360287471352", "2.718281828459045235360287471352"),
    (simple("decimal"), 2, "2"),
    (simple("decimal"), ExactNumber("1.10"), "1.10"),
    (STRING, "é\n", "é\n"),
    (simple("binary"), "any text", "any text"),
    (simple("date"), "2021-05-01", "2021-05-01"),
    (simple("timestamp"), "2021-05-01T05:00:00Z", "2021-05-01T05:00:00Z"),
    (simple("timestamp"), "2021-05-01T05:00:00+00:00", "2021-05-01T05:00:00Z"),
    (simple("timestamp"), "2021-05-01T05:00:00.000Z", "2021-05-01T05:00:00.000Z"),
    (simple("timestamp"), "2021-05-01T05:00:00.123456789+05:30", "2021-04-30T23:30:00.123456Z"),
    (simple("timestamp"), "0900-01-01T00:00Z", "0900-01-01T00:00:00Z"),
    (listed(LONG), ["1", 2], [1, 2]),
    (listed(LONG, "set"), ["1"], [1]),
    (mapped(STRING, LONG), [{"key": "a", "value": "1"}], {"a": 1}),
    (mapped(STRING, LONG), {"a": "1"}, {"a": 1}),
    (mapped(INTEGER, STRING), [{"key": 7, "value": "x"}, {"key": "8", "value": "y"}], {"7": "x", "8": "y"}),
    (mapped(LONG, STRING), [{"key": "7", "value": "x"}], {"7": "x"}),
    (mapped(simple("boolean"), STRING), [{"key": True, "value": "x"}], {"true": "x"}),
    (
        mapped(simple("double"), STRING),
        [{"key": key, "value": "x"} for key in ("NaN", "Infinity", "1e5", 2.5)],
        {"NaN": "x", "Infinity": "x", "100000.0": "x", "2.5": "x"},
    ),
    (optional(LONG), None, None),
    (optional(LONG), "5", 5),
    (POINT, {"x": 1.5, "label": None, "id": "7"}, {"x": 1.5, "label": None, "id": 7}),
    (POINT, {"x": 1.5, "id": "7"}, {"x": 1.5, "id": 7}),
    (listed(mapped(STRING, listed(LONG))), [[{"key": "a", "value": ["1"]}]], [{"a": [1]}]),
]


@pytest.mark.parametrize(("data_type", "sent", "read"), THERE)
def test_values_are_converted_for_the_module(data_type: Any, sent: Any, read: Any) -> None:
    converted = conversion(data_type).inward(sent)
    assert json.dumps(converted) == json.dumps(read)


#: A type, a value that the module posted, and the value of the API.
BACK = [
    (LONG, 2**63 - 1, "9223372036854775807"),
    (LONG, "5", "5"),
    (simple("decimal"), 2.5, "2.5"),
    (simple("decimal"), "2.50", "2.50"),
    (simple("decimal"), ExactNumber("12345678901234567890.123"), "12345678901234567890.123"),
    (simple("double"), math.inf, "Infinity"),
    (simple("float"), -math.inf, "-Infinity"),
    (listed(LONG), [1, 2], ["1", "2"]),
    (mapped(STRING, LONG), {"a": 1}, [{"key": "a", "value": "1"}]),
    (mapped(INTEGER, STRING), {"7": "x"}, [{"key": 7, "value": "x"}]),
    (mapped(simple("double"), STRING), {"1.5": "x"}, [{"key": 1.5, "value": "x"}]),
    (mapped(simple("boolean"), STRING), {"true": "x"}, [{"key": True, "value": "x"}]),
    (optional(LONG), None, None),
    (POINT, {"x": 1.5, "id": 7}, {"x": 1.5, "id": "7"}),
    # What does not fit stays as it is: the SDKs post "string" for functions that declare no type.
    (STRING, {"a": 1}, {"a": 1}),
    (listed(LONG), "none", "none"),
    (mapped(INTEGER, STRING), {"seven": "x"}, [{"key": "seven", "value": "x"}]),
    (POINT, {"x": 1.5, "id": 7, "more": 2**70}, {"x": 1.5, "id": "7", "more": 2**70}),
    (simple("ontologyEdit"), {"type": "addObject"}, {"type": "addObject"}),
]


@pytest.mark.parametrize(("data_type", "posted", "answered"), BACK)
def test_values_are_converted_for_the_application(data_type: Any, posted: Any, answered: Any) -> None:
    assert json.dumps(conversion(data_type).outward(posted)) == json.dumps(answered)


#: A type, a value that does not fit it, where it does not, and what is said of it.
UNFIT = [
    (simple("boolean"), 1, "", "must be true or false, not 1"),
    (INTEGER, True, "", "must be an integer"),
    (INTEGER, 2**31, "", "from -2147483648 to 2147483647, not 2147483648"),
    (INTEGER, 1.0, "", "must be an integer"),
    (INTEGER, "1", "", 'not "1"'),
    (LONG, "9223372036854775808", "", "must be a long"),
    (LONG, 2**63, "", "must be a long"),
    (LONG, "1" * 5000, "", "must be a long"),
    (LONG, "1.0", "", "must be a long"),
    (LONG, "\u0661", "", "must be a long"),
    (LONG, " 1", "", "must be a long"),
    (simple("double"), "1", "", "must be a number"),
    (simple("decimal"), "1,5", "", "must be a decimal number"),
    (STRING, None, "", "must be a string, not null"),
    (simple("date"), "2021-02-30", "", "must be a date such as 2021-05-01"),
    (simple("date"), "20210501", "", "must be a date"),
    (simple("date"), "2021-W05-1", "", "must be a date"),
    (simple("timestamp"), "2021-05-01", "", "must be a time such as"),
    (simple("timestamp"), "2021-05-01T25:00:00Z", "", "must be a time"),
    (simple("timestamp"), "0001-01-01T00:00:00+10:00", "", "must be a time"),
    (simple("timestamp"), 1619845200000, "", "must be a time"),
    (listed(LONG), {"a": 1}, "", "must be an array"),
    (listed(LONG), ["1", "x"], "/1", "must be a long"),
    (listed(listed(LONG)), [[], ["1", None]], "/1/1", "must be a long"),
    (mapped(STRING, LONG), [1], "/0", "must be an object with key and value"),
    (mapped(STRING, LONG), [{"key": "a"}], "/0", "must be an object with key and value"),
    (mapped(INTEGER, LONG), [{"key": "a", "value": "1"}], "/0/key", "must be a key of type integer"),
    (mapped(INTEGER, LONG), [{"key": "1" * 5000, "value": "1"}], "/0/key", "must be a key of type integer"),
    (mapped(INTEGER, LONG), [{"key": "1_0", "value": "1"}], "/0/key", "must be a key of type integer"),
    (mapped(INTEGER, LONG), [{"key": " 5 ", "value": "1"}], "/0/key", "must be a key of type integer"),
    (mapped(simple("double"), LONG), [{"key": "1e400", "value": "1"}], "/0/key", "must be a key of type double"),
    (mapped(STRING, LONG), [{"key": None, "value": "1"}], "/0/key", "must be a string"),
    (mapped(STRING, LONG), [{"key": "a", "value": "x"}], "/0/value", "must be a long"),
    (mapped(STRING, LONG), [{"key": "a", "value": "1"}] * 2, "/1", "must not have the key a twice"),
    (POINT, [], "", "must be an object with the fields x, label, id"),
    (POINT, {"x": 1.5}, "", "must have the fields id"),
    (POINT, {"x": 1.5, "id": "1", "y": 2}, "", "must not have the fields y; it may have x, label, id"),
    (struct(**{"a/b": POINT}), {"a/b": {"x": "1", "id": "1"}}, "/a~1b/x", "must be a number"),
]


@pytest.mark.parametrize(("data_type", "sent", "pointer", "why"), UNFIT)
def test_a_value_that_does_not_fit_its_type_is_refused(data_type: Any, sent: Any, pointer: str, why: str) -> None:
    with pytest.raises(Unfit) as caught:
        conversion(data_type).inward(sent)
    assert caught.value.pointer == pointer
    assert why in caught.value.why
    assert len(caught.value.why) < 300


# Values that go in come out.

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(
    lambda time: f"{time:%Y-%m-%dT%H:%M:%S}Z" if not time.microsecond else f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"
)
SIMPLE = [
    (simple("boolean"), st.booleans()),
    (INTEGER, st.integers(-(2**31), 2**31 - 1)),
    (LONG, st.integers(-(2**63), 2**63 - 1).map(str)),
    (simple("double"), st.floats(allow_nan=False, allow_infinity=False)),
    (simple("decimal"), st.decimals(allow_nan=False, allow_infinity=False).map(str)),
    (STRING, TEXT),
    (simple("date"), st.dates().map(str)),
    (simple("timestamp"), TIMES),
]
#: Types whose values can be keys, and come back the same.
KEYS = [SIMPLE[0], SIMPLE[1], SIMPLE[2], SIMPLE[5], SIMPLE[6]]


def entries(keys: Any, values: Any) -> Any:
    pairs = st.lists(st.tuples(keys, values), max_size=3, unique_by=lambda pair: json.dumps(pair[0]))
    return pairs.map(lambda found: [{"key": key, "value": value} for key, value in found])


def around(inner: Any) -> Any:
    """Return types around others, each with the strategy of its values."""
    return st.one_of(
        inner.map(lambda each: (listed(each[0]), st.lists(each[1], max_size=3))),
        inner.map(lambda each: (listed(each[0], "set"), st.lists(each[1], max_size=3))),
        inner.map(lambda each: (optional(each[0]), st.none() | each[1])),
        st.tuples(st.sampled_from(KEYS), inner).map(
            lambda both: (mapped(both[0][0], both[1][0]), entries(both[0][1], both[1][1]))
        ),
        st.dictionaries(TEXT, inner, max_size=3).map(
            lambda fields: (
                struct(**{name: each[0] for name, each in fields.items()}),
                st.fixed_dictionaries({name: each[1] for name, each in fields.items()}),
            )
        ),
    )


TYPED = st.recursive(st.sampled_from(SIMPLE), around, max_leaves=6).flatmap(
    lambda both: st.tuples(st.just(both[0]), both[1])
)


@settings(PATIENT)
@given(TYPED)
def test_a_value_that_goes_in_comes_out(typed: tuple[Any, Any]) -> None:
    data_type, value = typed
    there = conversion(data_type)
    posted = json.loads(json.dumps(there.inward(value)))
    assert there.looks_right(posted)
    assert there.outward(posted) == value
    if there.same:
        assert posted == value


@settings(PATIENT)
@given(TYPED, st.booleans())
def test_the_api_describes_each_type(typed: tuple[Any, Any], in_ontology: bool) -> None:
    described = json.dumps(api_type(typed[0], in_ontology))
    assert "entrySet" not in described or in_ontology
    assert not {"list", "map", "optionalType", "anonymousCustomType"} & {each["type"] for each in walk(described)}


def walk(described: str) -> list[dict[str, Any]]:
    """Return all objects of a description that are types."""
    found: list[dict[str, Any]] = []

    def hook(each: dict[str, Any]) -> dict[str, Any]:
        if "type" in each:
            found.append(each)
        return each

    json.loads(described, object_hook=hook)
    return found


TYPES = [
    (LONG, {"type": "long"}, None),
    (listed(LONG), {"type": "array", "subType": {"type": "long"}}, None),
    (listed(STRING, "set"), {"type": "set", "subType": {"type": "string"}}, None),
    (
        mapped(STRING, LONG),
        {"type": "unsupported", "unsupportedType": "map", "params": {}},
        {"type": "entrySet", "keyType": {"type": "string"}, "valueType": {"type": "long"}},
    ),
    (optional(LONG), {"type": "union", "unionTypes": [{"type": "long"}, {"type": "null"}]}, None),
    (
        struct(a=simple("date")),
        {"type": "struct", "fields": [{"name": "a", "fieldType": {"type": "date"}}]},
        None,
    ),
    *(
        (simple(kind), {"type": "unsupported", "unsupportedType": kind, "params": {}}, None)
        for kind in ("decimal", "byte", "short", "binary", "ontologyEdit")
    ),
]


@pytest.mark.parametrize(("data_type", "function", "ontology"), TYPES)
def test_types_as_the_functions_and_the_ontologies_api_describe_them(
    data_type: Any, function: Any, ontology: Any
) -> None:
    assert api_type(data_type, in_ontology=False) == function
    assert api_type(data_type, in_ontology=True) == (ontology or function)


def test_types_of_json_schemas_and_of_constant_values() -> None:
    assert api_type_of_json_schema({"type": "array", "items": {"type": "number"}}) == {
        "type": "array",
        "subType": {"type": "double"},
    }
    assert api_type_of_json_schema({"type": "object", "properties": {"a": {"type": "integer"}}}) == {
        "type": "struct",
        "fields": [{"name": "a", "fieldType": {"type": "integer"}}],
    }
    nullable = {"type": "union", "unionTypes": [{"type": "string"}, {"type": "null"}]}
    assert api_type_of_json_schema({"type": ["string", "null"]}) == nullable
    for unclear in ({}, True, {"type": []}, {"type": ["string", "number"]}, {"$ref": "#"}):
        assert api_type_of_json_schema(unclear)["type"] == "unsupported"
    assert api_type_of_value([{"a": 1}]) == {
        "type": "array",
        "subType": {"type": "struct", "fields": [{"name": "a", "fieldType": {"type": "double"}}]},
    }
    assert api_type_of_value(None)["type"] == "unsupported"


def test_a_time_of_any_zone_is_the_same_time() -> None:
    time = datetime(2021, 5, 1, 5, tzinfo=timezone(timedelta(hours=-9, minutes=-30)))
    read = conversion(simple("timestamp")).inward(time.isoformat())
    assert datetime.strptime(read, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc) == time
