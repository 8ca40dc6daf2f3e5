"""Recordings of jobs that came through the functions API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest_twisted
from applications import PlatformSdk, python_call
from conftest import ROOT, RUNTIMES, Server, kill, pause
from sdk_processes import SDK_PYTHON, get, until

from twisted_cm.client import ComputeModules, RuntimeSession
from twisted_cm.recording.read import Recording

EXECUTE = "functions.Query.execute"
STREAM = "functions.Query.with_streaming_response.streaming_execute"

#: Values that the functions API and a module write in different ways, streams, and a function that raises.
CALLS = [
    python_call(EXECUTE, "long", parameters={"value": "9007199254740993"}),
    python_call(EXECUTE, "map", parameters={"value": [{"key": "a", "value": "1"}]}),
    python_call(EXECUTE, "optional", parameters={}),
    python_call(EXECUTE, "count", parameters={"to": 12}),
    python_call(STREAM, "count", parameters={"to": 12}),
    python_call(EXECUTE, "raises", parameters={"message": "on purpose"}),
    python_call(EXECUTE, "long", parameters={"value": "many"}),
    python_call(EXECUTE, "long", parameters={}),
    python_call("ontologies.Ontology.QueryType.get", "local", "order"),
]


def make(sdk: PlatformSdk) -> list[Any]:
    """Make the calls one after another; return their outcomes, without what is new in each answer."""
    outcomes = []
    for call in CALLS:
        sdk.start(call)
        (outcome,) = sdk.finish()
        outcome.pop("error_instance_id", None)
        if call["method"] == STREAM:
            # Values that arrive together are one event.
            outcome = [value for event in outcome["returned"] for value in event["value"]]
        outcomes.append(outcome)
    submitted = sdk("functions.Query.execute_async", "long", parameters={"value": "5"})
    outcomes.append(sdk("functions.Execution.get_result", submitted["executionId"], timeout=30))
    return outcomes


def test_an_application_that_calls_functions_gets_from_a_replay_what_it_got_from_the_module(
    serve: Callable[..., Server], recorded: Path, replay: Callable[..., Popen[bytes]]
) -> None:
    server = serve("--record", str(recorded))
    join = ("--runtime", "one", "--seed", str(server.seed_file))
    module = server.start("exec", *join, "--", SDK_PYTHON, str(ROOT / "tests/sdk/typed_module.py"))
    sdk = PlatformSdk(server)
    try:
        until(lambda: get(server, f"{RUNTIMES}/one")["schemas"], module)
        # One job of each function makes its schema known.
        original = [*make(sdk), sdk(EXECUTE, "order", parameters={"customer": "Jo", "size": 2})]
    finally:
        sdk.close()
        kill(module)
        server.stop()
    assert [original[0], original[3], original[-2]] == [
        {"returned": {"value": "9007199254740993"}},
        {"returned": {"value": list(range(1, 13))}},
        {"type": "succeeded", "value": "5"},
    ]

    server = serve()
    playing = replay(server, "--module-auth-token", "token-one")
    sdk = PlatformSdk(server)
    try:
        assert [*make(sdk), sdk(EXECUTE, "order", parameters={"customer": "Jo", "size": 2})] == original
    finally:
        sdk.close()
        kill(playing)


@pytest_twisted.ensureDeferred
async def test_a_schema_is_recorded_once_and_again_when_it_has_changed(
    serve: Callable[..., Server], recorded: Path
) -> None:
    server = serve("--record", str(recorded))
    url = server.urls["http"]

    async def run(*functions: str) -> None:
        for function in functions:
            job = await modules.submit("ri.one", function)
            await session.poll()
            await session.post_result(job.id, b"1")

    async with RuntimeSession.join(url, "one", "token-one") as session, ComputeModules(url, "app-token") as modules:
        await run("f")
        first, second = ({"type": "object", "title": each} for each in ("first", "second"))
        await session.post_schemas({"f": first, "g": first})
        await run("f", "f", "g")
        await session.post_schemas({"f": second})
        await run("f", "g", "f")
        for _ in range(1000):
            if recorded.read_bytes().count(b"\n") == 7:
                break
            await pause(0.01)
    lines = [json.loads(line) for line in recorded.read_bytes().splitlines()]
    assert [(each["function"], each.get("schema")) for each in lines] == [
        *(("f", None), ("f", first), ("f", None), ("g", first)),
        *(("f", second), ("g", None), ("f", None)),
    ]
    assert Recording(recorded).schemas == {"f": second, "g": first}
