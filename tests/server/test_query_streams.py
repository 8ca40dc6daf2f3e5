"""Test the values of a function that an application reads as they come (functions API, section 4)."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_twisted
from conftest import Harness, pause, raw, raw_stream, receive_until
from server.query_steps import ADD, COUNT, FUNCTIONS, UNTYPED, ask, function, post, post_schemas, simple, take
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.model.jobs import JobFilter

EVENTS = "text/event-stream"
LINES = "application/octet-stream"
STREAM = f"{FUNCTIONS}/queries/count/streamingExecute"


def messages(content: bytes, accept: str = EVENTS) -> list[Any]:
    """Return the messages of a stream."""
    text = content.decode()
    if accept != EVENTS:
        return [json.loads(line) for line in text.splitlines()]
    events = text.split("\n\n")
    assert events.pop() == ""
    assert all(each.startswith("data: ") and "\n" not in each for each in events)
    return [json.loads(each.removeprefix("data: ")) for each in events]


def stream(harness: Harness, name: str, parameters: Any, accept: str = EVENTS) -> Deferred[tuple[int, Any, Any]]:
    """Call a function and read its values; the Deferred fires at the end of the stream."""
    path = f"{FUNCTIONS}/queries/{name}/streamingExecute?preview=true"
    return ask(harness, "POST", path, {"parameters": parameters}, Accept=accept)


async def open_stream(harness: Harness) -> socket.socket:
    """Call ``count`` over a plain socket, whose answer the test reads as it comes."""
    body = '{"parameters": {"to": 3}}'
    request = (
        f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app-token\r\n"
        f"Accept: {EVENTS}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    client: socket.socket = await deferToThread(raw, harness, request)
    return client


def chunk(data: str) -> bytes:
    return f"{len(data):x}\r\n{data}\r\n".encode()


@pytest.mark.parametrize("accept", [EVENTS, LINES, "*/*"])
@pytest.mark.parametrize("path", ["streamingExecute", "streamingExecuteEvents"])
@pytest_twisted.ensureDeferred
async def test_values_come_as_events_or_one_on_a_line(anywhere: Harness, accept: str, path: str) -> None:
    await post_schemas(anywhere, COUNT)
    calling = ask(anywhere, "POST", f"{FUNCTIONS}/queries/count/{path}", {"parameters": {"to": 2}}, Accept=accept)
    job_id, _, query = await take(anywhere)
    assert query == {"to": 2}
    await post(anywhere, job_id, b"1 2")
    status, content, headers = await calling
    assert (status, headers.getRawHeaders("Content-Type")) == (200, [EVENTS if accept == EVENTS else LINES])
    assert headers.getRawHeaders("X-Job-Id") == [job_id]
    assert messages(content, accept) == [{"type": "data", "value": ["1"]}, {"type": "data", "value": ["2"]}]


@pytest_twisted.ensureDeferred
async def test_each_value_is_there_as_soon_as_the_module_has_posted_it(anywhere: Harness) -> None:
    """The numbers touch, so that only the chunks tell them apart."""
    await post_schemas(anywhere, COUNT)
    client = await open_stream(anywhere)
    job_id, _, _ = await take(anywhere)
    module = await deferToThread(raw_stream, anywhere, job_id, "3")
    received = await receive_until(client, b'data: {"type":"data","value":["3"]}\n\n\r\n')
    assert b"text/event-stream" in received
    module.sendall(chunk("2"))
    await receive_until(client, b'data: {"type":"data","value":["2"]}\n\n\r\n')
    # TCP may cut a chunk anywhere; the number goes on.
    module.sendall(b"3\r\n10")
    module.sendall(b"0\r\n")
    await receive_until(client, b'data: {"type":"data","value":["100"]}\n\n\r\n')
    module.sendall(b"0\r\n\r\n")
    await receive_until(client, b"0\r\n\r\n")
    module.close()
    client.close()


@pytest_twisted.ensureDeferred
async def test_what_a_function_returns_comes_in_one_message(anywhere: Harness) -> None:
    await post_schemas(anywhere, COUNT, ADD, UNTYPED)
    for name, parameters, posted, wanted in (
        ("count", {"to": 2}, b"[1,\n2]", [["1", "2"]]),
        ("count", {"to": 2}, b"", []),
        ("add", {"a": 1, "b": 2}, b"3", ["3"]),
        ("untyped", {}, b'{"a":\r\n[]}', [{"a": []}]),
        ("untyped", {}, b'{"a": 1}"b"', [[{"a": 1}], ["b"]]),
    ):
        calling = stream(anywhere, name, parameters)
        job_id, _, _ = await take(anywhere)
        await post(anywhere, job_id, posted)
        status, content, _ = await calling
        assert status == 200
        assert messages(content) == [{"type": "data", "value": each} for each in wanted], posted


@pytest_twisted.ensureDeferred
async def test_a_plain_call_of_a_streaming_function_gets_all_values(anywhere: Harness) -> None:
    await post_schemas(anywhere, COUNT)
    calling = ask(anywhere, "POST", f"{FUNCTIONS}/queries/count/execute", {"parameters": {"to": 3}})
    job_id, _, _ = await take(anywhere)
    module = await deferToThread(raw_stream, anywhere, job_id, "3")
    module.sendall(chunk("2") + chunk("1") + b"0\r\n\r\n")
    assert (await calling)[1] == {"value": ["3", "2", "1"]}
    module.close()


@pytest_twisted.ensureDeferred
async def test_a_stream_that_breaks_off_ends_with_an_error(anywhere: Harness) -> None:
    await post_schemas(anywhere, COUNT)
    client = await open_stream(anywhere)
    job_id, _, _ = await take(anywhere)
    module = await deferToThread(raw_stream, anywhere, job_id, "1")
    await receive_until(client, b'data: {"type":"data","value":["1"]}\n\n\r\n')
    module.sendall(chunk("[2"))
    module.close()
    content = await receive_until(client, b"0\r\n\r\n")
    last = json.loads(content.partition(b"data: ")[2].partition(b"\n\n")[0])
    assert (last["type"], last["errorName"], last["errorCode"]) == ("error", "QueryRuntimeError", "INVALID_ARGUMENT")
    assert last["parameters"]["message"] == "The runtime's connection was lost while it streamed the result."
    assert last["errorInstanceId"]
    client.close()


@pytest_twisted.ensureDeferred
async def test_the_first_value_arrives_though_the_stream_breaks_off_before_the_second(harness: Harness) -> None:
    """An array is all that the function returned, or the first of the arrays that it streams."""
    element = {"type": "list", "list": {"elementsType": simple("long")}}
    await post_schemas(harness, function("rows", {"type": "list", "list": {"elementsType": element}}), UNTYPED)
    for name in ("rows", "untyped"):
        calling = stream(harness, name, {})
        job_id, _, _ = await take(harness)
        module = await deferToThread(raw_stream, harness, job_id, "[[1]]")
        module.sendall(chunk("[2"))
        module.close()
        first, last = messages((await calling)[1])
        assert (first["type"], last["errorName"]) == ("data", "QueryRuntimeError")


@pytest_twisted.ensureDeferred
async def test_how_a_job_ends_without_values_is_in_the_stream(anywhere: Harness) -> None:
    await post_schemas(anywhere, ADD)
    for posted, name in (
        (b'{"exception": "on purpose"}', "QueryRuntimeError"),
        (b"not JSON", "InvalidQueryOutputValue"),
        (b"", "InvalidQueryOutputValue"),
    ):
        calling = stream(anywhere, "add", {"a": 1, "b": 2})
        job_id, _, _ = await take(anywhere)
        await post(anywhere, job_id, posted)
        status, content, _ = await calling
        assert status == 200
        (only,) = messages(content)
        assert (only["type"], only["errorName"]) == ("error", name)
    calling = stream(anywhere, "add", {"a": 1, "b": 2})
    job_id, _, _ = await take(anywhere)
    await anywhere.broker.fail_job(job_id, "replica stopped")
    (only,) = messages((await calling)[1])
    assert (only["errorName"], only["errorDescription"]) == ("QueryRuntimeError", "replica stopped")


@pytest_twisted.ensureDeferred
async def test_what_a_function_raised_is_an_error_though_it_is_posted_in_chunks(anywhere: Harness) -> None:
    await post_schemas(anywhere, UNTYPED, COUNT)
    for name in ("untyped", "count"):
        calling = stream(anywhere, name, {"to": 1} if name == "count" else {})
        job_id, _, _ = await take(anywhere)
        module = await deferToThread(raw_stream, anywhere, job_id, '{"exception": "on purpose"}')
        module.sendall(b"0\r\n\r\n")
        (only,) = messages((await calling)[1])
        assert (only["type"], only["errorName"]) == ("error", "QueryRuntimeError"), name
        module.close()


@pytest_twisted.ensureDeferred
async def test_a_long_array_does_not_hold_up_the_reactor(harness: Harness) -> None:
    """Nothing in the reactor reads all of it."""
    await post_schemas(
        harness,
        function(
            "rows",
            {"type": "list", "list": {"elementsType": {"type": "list", "list": {"elementsType": simple("long")}}}},
        ),
    )
    calling = stream(harness, "rows", {})
    job_id, _, _ = await take(harness)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twisted_cm.server.queries.signature.json", None)
        await post(harness, job_id, b"[" + b",".join([b"[1]"] * 20_000) + b"]")
        (only,) = messages((await calling)[1])
    assert only["value"] == [["1"]] * 20_000


@pytest_twisted.ensureDeferred
async def test_values_before_what_is_no_json_are_there(anywhere: Harness) -> None:
    await post_schemas(anywhere, COUNT)
    calling = stream(anywhere, "count", {"to": 3})
    job_id, _, _ = await take(anywhere)
    await post(anywhere, job_id, b"1 2 oops")
    data, more, error = messages((await calling)[1])
    assert (data["value"], more["value"], error["errorName"]) == (["1"], ["2"], "InvalidQueryOutputValue")


@pytest_twisted.ensureDeferred
async def test_long_values_of_a_stream_are_converted_outside_of_the_reactor(anywhere: Harness) -> None:
    longs = {"type": "list", "list": {"elementsType": simple("long")}}
    await post_schemas(anywhere, function("rows", {"type": "list", "list": {"elementsType": longs}}))
    row = list(range(10_000))
    calling = stream(anywhere, "rows", {})
    job_id, _, _ = await take(anywhere)
    await post(anywhere, job_id, json.dumps(row).encode() * 2)
    _, content, _ = await calling
    assert [each["value"] for each in messages(content)] == [[list(map(str, row))]] * 2


@pytest_twisted.ensureDeferred
async def test_a_reader_that_does_not_read_pauses_the_module(harness: Harness) -> None:
    await post_schemas(harness, COUNT)
    client = await open_stream(harness)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    job_id, _, _ = await take(harness)
    module = await deferToThread(raw_stream, harness, job_id, "0")
    module.setblocking(False)
    piece = chunk("1 " * 8000)
    sent = 0
    rest = b""
    # At some time the module cannot write any more: neither side keeps what the other does not take.
    stalled = 0
    while stalled < 50 and sent < 200_000_000:
        rest = rest or piece
        try:
            written = module.send(rest)
            rest, sent, stalled = rest[written:], sent + written, 0
        except BlockingIOError:
            stalled += 1
            await pause(0.02)
    assert sent < 100_000_000
    client.close()
    await harness.until(lambda: harness.work().parked_polls == 0)
    module.close()
    await harness.until(lambda: harness.job(job_id).state.finished)


@pytest_twisted.ensureDeferred
async def test_a_reader_that_goes_away_while_its_job_is_queued_has_canceled_it(anywhere: Harness) -> None:
    await post_schemas(anywhere, COUNT)
    client = await open_stream(anywhere)
    (job,) = await _jobs(anywhere)
    client.close()
    assert (await anywhere.broker.wait_end(job.job_id, 30)).error_message == "The caller disconnected."


async def _jobs(harness: Harness) -> list[Any]:
    """Return the jobs as soon as there is one."""
    for _ in range(1000):
        found: list[Any] = await harness.broker.jobs(JobFilter(), 10)
        if found:
            return found
        await pause(0.01)
    raise AssertionError("no job")
