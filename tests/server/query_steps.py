"""Steps of an application that calls queries, and of the runtime that runs them."""

from __future__ import annotations

import json
from typing import Any

from conftest import Harness
from twisted.internet.defer import Deferred

FUNCTIONS = "/api/v2/functions"
ONTOLOGIES = "/api/v2/ontologies"
LOCAL = f"{ONTOLOGIES}/local"
BEARER = {"Authorization": "Bearer app-token"}


def simple(kind: str) -> dict[str, Any]:
    return {"type": kind, kind: {}}


def listed(kind: str) -> dict[str, Any]:
    return {"type": "list", "list": {"elementsType": simple(kind)}}


def function(name: str, output: dict[str, Any], /, **inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a function, as the SDKs post it. The name of an optional input begins with ``_``."""
    return {
        "functionName": name,
        "inputs": [
            {
                "name": each.removeprefix("_"),
                "required": not each.startswith("_"),
                "dataType": data_type,
                "constraints": [],
            }
            for each, data_type in inputs.items()
        ],
        "output": {"type": "single", "single": {"dataType": output}},
        "ontologyProvenance": None,
    }


ADD = function("add", simple("long"), a=simple("long"), b=simple("long"), _note=simple("string"))
UNTYPED = function("untyped", simple("string"))
COUNT = function("count", listed("long"), to=simple("integer"))


async def post_schemas(harness: Harness, *schemas: dict[str, Any], runtime: str = "one") -> None:
    """Report the functions of a runtime."""
    status, answer, _ = await harness.module("POST", "/schemas", list(schemas), runtime)
    assert status == 200, answer


def ask(harness: Harness, method: str, path: str, body: Any = None, **headers: str) -> Deferred[tuple[int, Any, Any]]:
    """Send a request of an application; the Deferred fires with status, body and headers of the answer."""
    return Deferred.fromCoroutine(harness.call(method, path, body, **{**BEARER, **headers}))


def execute(
    harness: Harness, name: str, parameters: Any, prefix: str = FUNCTIONS, options: str = "", **fields: Any
) -> Deferred[tuple[int, Any, Any]]:
    """Call a query; the Deferred fires when it has returned."""
    return ask(harness, "POST", f"{prefix}/queries/{name}/execute{options}", {"parameters": parameters, **fields})


async def take(harness: Harness, runtime: str = "one") -> tuple[str, str, Any]:
    """Take the next job as a runtime; return its id, its function and its query."""
    status, envelope, _ = await harness.module("GET", "/job", runtime=runtime)
    assert status == 200
    job = envelope["computeModuleJobV1"]
    return job["jobId"], job["queryType"], job["query"]


async def post(harness: Harness, job_id: str, result: Any, runtime: str = "one") -> None:
    """Post the result of a job: bytes as they are, anything else as JSON."""
    body = result if isinstance(result, bytes) else json.dumps(result).encode()
    status, answer, _ = await harness.module("POST", f"/results/{job_id}", body, runtime)
    assert status == 204, answer


async def run_next(harness: Harness, result: Any, runtime: str = "one") -> tuple[str, Any]:
    """Take the next job of a runtime and post its result; return the job's function and query."""
    job_id, name, query = await take(harness, runtime)
    await post(harness, job_id, result, runtime)
    return name, query


def error_of(answer: tuple[int, Any, Any]) -> tuple[int, str, str, Any]:
    """Return status, code, name and parameters of an error, after a look at the fields that clients need."""
    status, body, _ = answer
    assert body["errorDescription"] == body["error_description"]
    assert body["errorInstanceId"]
    return status, body["errorCode"], body["errorName"], body["parameters"]
