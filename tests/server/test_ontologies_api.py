"""Test the functions of modules as queries of ontologies (functions API, section 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from conftest import SEED, Harness
from server.query_steps import (
    ADD,
    BEARER,
    COUNT,
    FUNCTIONS,
    LOCAL,
    ONTOLOGIES,
    UNTYPED,
    ask,
    error_of,
    execute,
    function,
    post_schemas,
    run_next,
    simple,
)

from twisted_cm.config.seed import parse_seed
from twisted_cm.model.queries import function_rid, ontology_rid

OF_THE_SEED = SEED.replace(
    "foundry:\n",
    "foundry:\n"
    "  ontologies:\n"
    "    - {rid: ri.ontology.main.ontology.sales, api_name: sales, display_name: Sales, objectTypes: [x],\n"
    "       queries: [{api_name: bestCustomer, result: {name: Jo, since: '2021-05-01'}, other: 1}]}\n"
    "    - {api_name: stock, queries: [{api_name: isOpen, result: false}]}\n",
)


@pytest.fixture
def seeded(start_anywhere: Callable[..., Harness]) -> Harness:
    """Start an emulator whose seed has two ontologies, on each kind of broker."""
    return start_anywhere(seed=OF_THE_SEED)


@pytest_twisted.ensureDeferred
async def test_without_ontologies_in_the_seed_there_is_one(anywhere: Harness) -> None:
    status, found, _ = await ask(anywhere, "GET", ONTOLOGIES)
    (only,) = found["data"]
    assert (status, only["apiName"], only["rid"]) == (200, "local", "ri.ontology.main.ontology.local")
    assert {*only} == {"apiName", "displayName", "description", "rid"}
    for name in ("local", only["rid"]):
        assert (await ask(anywhere, "GET", f"{ONTOLOGIES}/{name}"))[1] == only


@pytest_twisted.ensureDeferred
async def test_functions_are_called_as_queries_of_any_ontology(seeded: Harness) -> None:
    await post_schemas(seeded, ADD)
    for name in ("sales", "stock", "ri.ontology.main.ontology.sales", ontology_rid("stock")):
        calling = execute(seeded, "add", {"a": "1", "b": "2"}, f"{ONTOLOGIES}/{name}", "?version=0.0.0&branch=master")
        assert await run_next(seeded, 3) == ("add", {"a": 1, "b": 2})
        assert (await calling)[:2] == (200, {"value": "3"})


@pytest_twisted.ensureDeferred
async def test_constant_queries_of_the_seed_have_their_results(seeded: Harness) -> None:
    best = {"name": "Jo", "since": "2021-05-01"}
    answer = await execute(seeded, "bestCustomer", {"any": "thing"}, f"{ONTOLOGIES}/sales")
    assert answer[:2] == (200, {"value": best})
    refused = await execute(seeded, "bestCustomer", {}, f"{ONTOLOGIES}/stock")
    assert error_of(refused) == (404, "NOT_FOUND", "QueryNotFound", {"query": "bestCustomer"})
    # The functions API looks in all of them.
    assert (await execute(seeded, "isOpen", {}))[1] == {"value": False}
    path = f"{FUNCTIONS}/queries/isOpen/executeAsync"
    assert (await ask(seeded, "POST", path, {"parameters": {}}))[1] == {"type": "completed", "value": False}
    path = f"{FUNCTIONS}/queries/isOpen/streamingExecute"
    streamed = await ask(seeded, "POST", path, {"parameters": {}, "ontology": "stock"}, Accept="text/event-stream")
    assert streamed[1] == b'data: {"type":"data","value":false}\n\n'
    described = (await ask(seeded, "GET", f"{ONTOLOGIES}/sales/queryTypes/bestCustomer"))[1]
    assert described["output"] == {
        "type": "struct",
        "fields": [
            {"name": "name", "fieldType": {"type": "string"}},
            {"name": "since", "fieldType": {"type": "string"}},
        ],
    }


@pytest_twisted.ensureDeferred
async def test_query_types_come_in_pages_by_name(seeded: Harness) -> None:
    names = [f"f{number:02}" for number in range(25)]
    await post_schemas(seeded, *(function(name, simple("string")) for name in names))
    found: list[str] = []
    token = ""
    sizes = []
    while True:
        _, page, _ = await ask(seeded, "GET", f"{ONTOLOGIES}/stock/queryTypes?pageSize=10{token}")
        sizes.append(len(page["data"]))
        found += [each["apiName"] for each in page["data"]]
        if "nextPageToken" not in page:
            break
        token = f"&pageToken={page['nextPageToken']}"
    assert (found, sizes) == ([*names, "isOpen"], [10, 10, 6])
    _, whole, _ = await ask(seeded, "GET", f"{ONTOLOGIES}/stock/queryTypes")
    assert len(whole["data"]) == 26
    assert "nextPageToken" not in whole
    assert all(each["typeReferences"] == {} for each in whole["data"])


@pytest_twisted.ensureDeferred
async def test_a_query_type_is_described_with_the_types_of_ontologies(anywhere: Harness) -> None:
    entries = {"type": "map", "map": {"keysType": simple("integer"), "valuesType": simple("long")}}
    await post_schemas(anywhere, function("f", entries, m=entries))
    types = {"type": "entrySet", "keyType": {"type": "integer"}, "valueType": {"type": "long"}}
    rid = function_rid("one", "f")
    _, described, _ = await ask(anywhere, "GET", f"{LOCAL}/queryTypes/f?version=0.0.0")
    assert described["output"] == described["parameters"]["m"]["dataType"] == types
    for requests in ([{"queryTypeRid": rid, "functionVersion": "0.0.0"}], [{"queryTypeRid": rid}] * 2):
        path, body = f"{LOCAL}/queryTypes/getByRidBatch", {"requests": [*requests, {"queryTypeRid": "ri.a.b.c.d"}]}
        status, found, _ = await ask(anywhere, "POST", path, body)
        assert (status, found) == (200, {"data": [described] * len(requests)})
    calling = execute(anywhere, "f", {"m": [{"key": "1", "value": "2"}]}, LOCAL)
    assert await run_next(anywhere, {"1": 2}) == ("f", {"m": {"1": 2}})
    assert (await calling)[1] == {"value": [{"key": 1, "value": "2"}]}


#: A request, and status, name and parameters of the error.
REFUSED: list[tuple[str, str, Any, int, str, Any]] = [
    ("GET", f"{ONTOLOGIES}/none", None, 404, "OntologyNotFound", {"apiName": "none"}),
    ("GET", f"{ONTOLOGIES}/ri.a.b.c.d/queryTypes", None, 404, "OntologyNotFound", {"ontologyRid": "ri.a.b.c.d"}),
    ("GET", f"{ONTOLOGIES}/none/queryTypes/add", None, 404, "OntologyNotFound", {"apiName": "none"}),
    ("POST", f"{ONTOLOGIES}/none/queries/add/execute", {"parameters": {}}, 404, "OntologyNotFound", None),
    ("GET", f"{LOCAL}/queryTypes/none", None, 404, "QueryNotFound", {"query": "none"}),
    ("GET", f"{LOCAL}/queryTypes/add?version=2", None, 404, "QueryVersionNotFound", {"apiName": "add", "version": "2"}),
    ("GET", f"{LOCAL}/queryTypes/add?branch=x", None, 404, "FoundryBranchNotFound", {"branch": "x"}),
    ("GET", f"{LOCAL}/queryTypes?pageSize=0", None, 400, "InvalidPageSize", {"pageSize": "0"}),
    ("GET", f"{LOCAL}/queryTypes?pageSize=1001", None, 400, "InvalidPageSize", {"pageSize": "1001"}),
    ("GET", f"{LOCAL}/queryTypes?pageSize=x", None, 400, "InvalidPageSize", {"pageSize": "x"}),
    ("GET", f"{LOCAL}/queryTypes?pageToken=x", None, 400, "InvalidPageToken", {"pageToken": "x"}),
    ("GET", f"{LOCAL}/queryTypes?pageToken=%C3%A9", None, 400, "InvalidPageToken", {"pageToken": "é"}),
    ("GET", f"{LOCAL}/queryTypes?pageToken=YWZ0ZXI6_w==", None, 400, "InvalidPageToken", None),
    ("POST", f"{LOCAL}/queryTypes/getByRidBatch", [{"rid": "x"}], 400, "InvalidRequest", {"field": "queryTypeRid"}),
    ("POST", f"{LOCAL}/queryTypes/getByRidBatch", {"requests": []}, 400, "InvalidRequest", None),
    ("POST", f"{LOCAL}/queryTypes/getByRidBatch", {}, 400, "InvalidRequest", None),
    ("POST", f"{LOCAL}/queries/none/execute", {"parameters": {}}, 404, "QueryNotFound", {"query": "none"}),
    ("POST", f"{LOCAL}/queries/add/execute?version=2", {"parameters": {}}, 404, "QueryVersionNotFound", None),
    ("POST", f"{LOCAL}/queries/add/execute", {"parameters": {}}, 400, "MissingParameter", {"parameters": ["a", "b"]}),
    (
        "POST",
        f"{LOCAL}/queries/add/execute?transactionId=t",
        {"parameters": {}},
        400,
        "FunctionNotSupportedWithTransaction",
        None,
    ),
    (
        "POST",
        f"{LOCAL}/queries/add/execute?scenarioRid=s",
        {"parameters": {}},
        404,
        "OntologyScenarioNotFound",
        {"scenarioRid": "s"},
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "name", "parameters"), REFUSED)
@pytest_twisted.ensureDeferred
async def test_what_is_refused(
    harness: Harness, method: str, path: str, body: Any, status: int, name: str, parameters: Any
) -> None:
    await post_schemas(harness, ADD, COUNT, UNTYPED)
    found = error_of(await ask(harness, method, path, body))
    assert found[:3] == (status, {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[status], name)
    assert parameters is None or found[3] == parameters
    assert not harness.jobs()


@pytest_twisted.ensureDeferred
async def test_a_new_seed_changes_names_and_ontologies(seeded: Harness) -> None:
    await post_schemas(seeded, ADD)
    named = "    queries: [{api_name: plus, deployed_app_rid: ri.one, function: add}]\n"
    await seeded.service.reseed(parse_seed(SEED.replace("    poll_timeout: 30\n", "    poll_timeout: 30\n" + named)))
    _, found, _ = await ask(seeded, "GET", ONTOLOGIES)
    assert [each["apiName"] for each in found["data"]] == ["local"]
    _, types, _ = await ask(seeded, "GET", f"{LOCAL}/queryTypes")
    assert [each["apiName"] for each in types["data"]] == ["plus"]
    calling = execute(seeded, "plus", {"a": "1", "b": "2"}, LOCAL)
    await run_next(seeded, 3)
    assert (await calling)[1] == {"value": "3"}


@pytest_twisted.ensureDeferred
async def test_both_apis_want_a_bearer_token(harness: Harness) -> None:
    for path in (ONTOLOGIES, f"{LOCAL}/queryTypes", f"{FUNCTIONS}/queries/add"):
        status, body, _ = await harness.call("GET", path)
        assert (status, body["errorName"], body["errorCode"]) == (401, "InvalidToken", "UNAUTHORIZED")
        assert (await harness.call("GET", path, **BEARER))[0] in (200, 404)
