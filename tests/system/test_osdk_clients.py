"""Test the public functions API with the unmodified clients for Node, against a module on the unmodified Python SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from applications import Osdk
from conftest import Server

pytestmark = pytest.mark.shared_server

POINT = {"x": 0.5, "label": "here", "id": "9007199254740993", "seen": "2021-05-01T05:00:00Z", "note": "a"}

#: For each type that OSDK knows: a value as an application passes it, and as the client returns it, if that differs.
VALUES: dict[str, tuple[Any, ...]] = {
    "boolean": (True,),
    "integer": (-7,),
    "long": ("9223372036854775807",),
    "float": (0.5,),
    "double": (1e300,),
    "string": ('ü "quoted"\n',),
    "date": ("2021-05-01",),
    "timestamp": ({"$date": "2021-05-01T05:00:00.250Z"}, "2021-05-01T05:00:00.250000Z"),
    "list": (["-1", "9223372036854775807"],),
    "set": ({"$set": ["b", "a"]}, ["a", "b"]),
    "map": ({"a": "9223372036854775807"},),
    "map_of_integers": ({"1": "one", "2": "two"},),
    "optional": ("9223372036854775807",),
    "struct": (POINT,),
    "nested": (
        {"name": "way", "start": POINT, "stops": [POINT], "weights": {"a": "5"}, "end": "there"},
        # The client returns a map within a struct as it arrives.
        {"name": "way", "start": POINT, "stops": [POINT], "weights": [{"key": "a", "value": "5"}], "end": "there"},
    ),
}


@pytest.fixture
def osdk(server: Server, typed_module: None) -> Iterator[Osdk]:
    """Start a process with clients for Node."""
    started = Osdk(server)
    yield started
    started.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_values_of_every_type_arrive_and_come_back(server: Server, typed_module: None, scheme: str) -> None:
    osdk = Osdk(server, scheme)
    try:
        osdk.start(*({"execute": name, "params": {"value": value[0]}} for name, value in VALUES.items()))
        for (name, value), outcome in zip(VALUES.items(), osdk.finish(), strict=True):
            assert outcome == {"returned": value[-1]}, name
    finally:
        osdk.close()


def test_parameters_may_be_left_out(osdk: Osdk) -> None:
    assert osdk(execute="nothing") == "called"
    assert osdk(execute="nothing@0.0.0", params={}) == "called"
    assert osdk(execute="optional", params={}) is None
    assert osdk(execute="optional", params={"value": None}) is None
    assert osdk(execute="order", params={"customer": "Jo", "size": 2}) == "Jo: 1 x 2, None"
    assert osdk(execute="com.acme.computemodules.order", params={"customer": "Jo", "size": 2, "copies": 3}) == (
        "Jo: 3 x 2, None"
    )


def test_metadata(osdk: Osdk) -> None:
    metadata = osdk(metadata="order")
    assert {name: (each["type"], each["nullable"]) for name, each in metadata["parameters"].items()} == {
        "copies": ("integer", False),
        "customer": ("string", False),
        "note": ("string", True),
        "size": ("integer", False),
    }
    assert (metadata["output"]["type"], metadata["version"]) == ("string", "0.0.0")
    # OSDK knows no decimals.
    assert "unsupported" in osdk.outcome(execute="decimal", params={"value": "1.5"})["message"]


def test_values_of_a_stream_arrive_one_by_one(osdk: Osdk, tmp_path: Path) -> None:
    # The module waits for the file after its first value, and the application makes the file when it has that value.
    gates = [tmp_path / name for name in ("one", "two")]
    assert osdk(stream="count", params={"to": 4, "gate": str(gates[0])}, touch=str(gates[0])) == [1, 2, 3, 4]
    assert osdk(stream="long_numbers", params={"to": 2}) == [str(2**60), str(2**60 + 1)]
    assert [each["label"] for each in osdk(stream="points", params={"to": 2})] == ["no 0", "no 1"]
    assert osdk(stream="list", params={"value": ["1", "2"]}) == ["1", "2"]
    assert osdk(stream="string", params={"value": "a"}) == ["a"]
    assert osdk(execute="count", params={"to": 3}) == [1, 2, 3]
    body = {"parameters": {"to": 3, "gate": str(gates[1])}}
    lines = osdk(functions="streamingExecute", args=["count", body, {"preview": True}], touch=str(gates[1]))
    assert lines[0] == {"type": "data", "value": [1]}
    assert [number for line in lines for number in line["value"]] == [1, 2, 3]


def test_errors_of_a_stream(osdk: Osdk) -> None:
    failed = osdk.outcome(stream="breaks", params={"to": 2})
    assert (failed["errorName"], failed["errorCode"]) == ("QueryRuntimeError", "INVALID_ARGUMENT")
    lines = osdk(functions="streamingExecute", args=["raises", {"parameters": {"message": "on purpose"}}])
    assert [(line["type"], line["errorName"]) for line in lines] == [("error", "QueryRuntimeError")]
    unknown = osdk.outcome(functions="streamingExecute", args=["unknown", {"parameters": {}}])
    assert (unknown["raised"], unknown["errorName"], unknown["statusCode"]) == (
        *("PalantirApiError", "QueryNotFound"),
        404,
    )


def test_the_functions_client(osdk: Osdk) -> None:
    query = osdk(functions="get", args=["order", {"version": "0.0.0", "preview": True}])
    assert query["apiName"] == "order"
    assert osdk(functions="getByRid", args=[{"rid": query["rid"], "preview": True}]) == query
    batch = osdk(functions="getByRidBatch", args=[[{"rid": query["rid"]}], {"preview": True}])
    assert batch["data"] == [query]
    body = {"parameters": {"customer": "Jo", "size": 2}, "version": "0.0.0"}
    headers = {"attribution": "ri.a.b.c.d", "traceParent": "00-1-1-01", "traceState": "a=b"}
    assert osdk(functions="execute", args=["order", body, {"preview": True}, headers]) == {"value": "Jo: 1 x 2, None"}


def test_errors_are_palantir_api_errors(osdk: Osdk) -> None:
    def error_of(**call: Any) -> tuple[Any, ...]:
        found = osdk.outcome(**call)
        assert found["errorDescription"], found
        return found["raised"], found["statusCode"], found["errorCode"], found["errorName"], found["parameters"]

    api, bad, lost = "PalantirApiError", (400, "INVALID_ARGUMENT"), (404, "NOT_FOUND")
    assert error_of(execute="unknown", params={}) == (api, *lost, "QueryNotFound", {"query": "unknown"})
    assert error_of(functions="get", args=["unknown"]) == (api, *lost, "QueryNotFound", {"queryApiName": "unknown"})
    version = {"apiName": "order", "version": "1.2.3"}
    assert error_of(execute="order@1.2.3", params={}) == (api, *lost, "QueryVersionNotFound", version)
    missing = error_of(execute="order", params={"size": 1})
    assert missing == (api, *bad, "MissingParameter", {"parameters": ["customer"]})
    unknown = error_of(execute="order", params={"size": 1, "customer": "Jo", "sise": None})
    assert unknown[:4] == (api, *bad, "UnknownParameter")
    wrong = error_of(execute="order", params={"size": "large", "customer": "Jo"})
    assert wrong[:4] == (api, *bad, "InvalidQueryParameterValue")
    assert (wrong[4]["parameterId"], wrong[4]["parameterValue"]) == ("size", "large")
    raised = error_of(execute="raises", params={"message": "on purpose"})
    assert raised[:4] == (api, *bad, "QueryRuntimeError")
    assert "on purpose" in raised[4]["message"]
    assert error_of(execute="silent", params={})[:4] == (api, *bad, "InvalidQueryOutputValue")
    sorry = error_of(execute="apologizes", params={"message": "Sorry."})
    assert sorry[:4] == (api, 409, "CONFLICT", "QueryEncounteredUserFacingError")


def test_an_unknown_ontology(server: Server, typed_module: None) -> None:
    ontology = "ri.ontology.main.ontology.nowhere"
    osdk = Osdk(server, ontology=ontology)
    try:
        for call in ({"execute": "order", "params": {}}, {"stream": "order", "params": {}}, {"metadata": "order"}):
            found = osdk.outcome(**call)
            assert (found["errorName"], found["parameters"]) == ("OntologyNotFound", {"ontologyRid": ontology})
    finally:
        osdk.close()
