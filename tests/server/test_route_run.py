"""How the coroutine of a route runs, waits and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from conftest import Harness, pause
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from wire import Wire, connect, head

from twisted_cm.broker.interface import BrokerStopped, UnknownJob
from twisted_cm.server.dispatch import Dispatcher
from twisted_cm.server.refusals import refusal
from twisted_cm.server.route_run import RouteRun
from twisted_cm.server.routing import App
from twisted_cm.server.transport.request import EmulatorRequest


@pytest.fixture(autouse=True)
def no_failure_in_the_log() -> Iterator[list[str]]:
    """Collect the messages with a failure that the emulator logs, in place of the fixture that refuses them."""
    logged: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if "log_failure" in event:
            logged.append(f"{event['log_format']}: {event['log_failure'].getErrorMessage()}")

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)


class Ends:
    """Where a run reports its end."""

    def __init__(self) -> None:
        self.request: Any = SimpleNamespace(answering=None)
        self.all: list[object] = []

    def returned(self, answer: bytes | None, request: EmulatorRequest) -> None:
        """Note what the route returned."""
        self.all.append(answer)

    def raised(self, failure: Failure, request: EmulatorRequest) -> None:
        """Note what the route raised."""
        self.all.append(failure.type)

    def run(self, coroutine: Any) -> RouteRun:
        """Start a route."""
        run = RouteRun(coroutine, self.request, self.returned, self.raised)
        run.start()
        return run


def serve(harness: Harness, route: Callable[[EmulatorRequest], Any]) -> None:
    """Let ``GET /it`` be answered by a route."""
    app = App()
    app.add("GET", "/it", route)
    (site,) = harness.sites()
    site.answerer = Dispatcher(app, refusal)


async def ask(harness: Harness) -> Wire:
    """Send ``GET /it``."""
    wire = await connect(harness)
    wire.transport.write(head("GET", "/it") + b"\r\n")
    return wire


def test_a_route_goes_on_when_what_it_waits_for_is_there() -> None:
    first, second, ends = Deferred[bytes](), Deferred[bytes](), Ends()

    async def route() -> bytes:
        return await first + await second

    ends.run(route())
    first.callback(b"1")
    assert (ends.all, ends.request.answering is None) == ([], False)
    second.callback(b"2")
    assert (ends.all, ends.request.answering) == ([b"12"], None)


@pytest.mark.parametrize("waits", [False, True])
def test_a_route_may_ask_for_what_is_there_any_number_of_times(waits: bool) -> None:
    gate, ends = Deferred[None](), Ends()

    async def route() -> bytes:
        if waits:
            await gate
        for number in range(20_000):
            assert await succeed(number) == number
            with pytest.raises(UnknownJob):
                await fail(UnknownJob("no job"))
        return b"done"

    ends.run(route())
    gate.callback(None)
    assert ends.all == [b"done"]


def test_what_fails_while_a_route_waits_is_raised_there() -> None:
    gate, ends = Deferred[bytes](), Ends()

    async def route() -> bytes:
        try:
            return await gate
        except UnknownJob:
            return b"caught"

    ends.run(route())
    gate.errback(UnknownJob("no job"))
    assert ends.all == [b"caught"]


def test_a_canceled_route_may_wait_once_more() -> None:
    first, last, ends = Deferred[bytes](), Deferred[bytes](), Ends()

    async def route() -> bytes:
        try:
            return await first
        except CancelledError:
            return await last

    run = ends.run(route())
    run.cancel()
    assert ends.all == []
    last.callback(b"tidied")
    assert ends.all == [b"tidied"]


@pytest.mark.parametrize("waits", [False, True])
def test_a_route_that_is_canceled_at_work_is_canceled_when_it_waits(waits: bool) -> None:
    gate, ends = Deferred[None](), Ends()

    async def route() -> bytes:
        if waits:
            await gate
        ends.request.answering.cancel()
        await succeed(None)
        ends.all.append("at work")
        await Deferred()
        return b"never"

    ends.run(route())
    gate.callback(None)
    assert ends.all == ["at work", CancelledError]


def test_klein_knows_how_to_call_each_route() -> None:
    app = App()
    app.add("GET", "/it/<id:name>", lambda request, name, more: (request, name, more), more="default")
    endpoint, arguments = app.url_map.bind("localhost").match("/it/x", "GET")
    assert app.klein().execute_endpoint(endpoint, "request", **arguments) == ("request", "x", "default")


@pytest_twisted.ensureDeferred
async def test_a_client_that_disconnects_cancels_its_route(harness: Harness, no_failure_in_the_log: list[str]) -> None:
    waiting, ended = [Deferred[bytes]()], Deferred[type]()

    async def route(request: EmulatorRequest) -> bytes:
        try:
            return await waiting.pop()
        except BaseException as error:
            ended.callback(type(error))
            raise

    serve(harness, route)
    wire = await ask(harness)
    await harness.until(lambda: not waiting)
    wire.transport.abortConnection()
    assert await ended is CancelledError
    assert no_failure_in_the_log == []


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "logged"),
    [(BrokerStopped(), 503, []), (ValueError("a bug"), 500, ["a route failed: a bug"])],
    ids=["expected", "unexpected"],
)
@pytest_twisted.ensureDeferred
async def test_an_error_is_answered_and_only_an_unexpected_one_is_logged(
    harness: Harness, no_failure_in_the_log: list[str], error: Exception, status: int, logged: list[str], waits: bool
) -> None:
    async def route(request: EmulatorRequest) -> bytes:
        if waits:
            await pause(0)
        raise error

    serve(harness, route)
    assert (await harness.call("GET", "/it"))[0] == status
    assert no_failure_in_the_log == logged


@pytest_twisted.ensureDeferred
async def test_an_error_in_the_middle_of_an_answer_is_logged_and_breaks_it_off(
    harness: Harness, no_failure_in_the_log: list[str]
) -> None:
    async def route(request: EmulatorRequest) -> bytes:
        request.write(b"begun")
        raise ValueError("a bug")

    serve(harness, route)
    wire = await ask(harness)
    received = await wire.until_closed()
    assert b"begun" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert no_failure_in_the_log == ["cannot answer {method} {path}: a bug"]


@pytest_twisted.ensureDeferred
async def test_an_error_after_the_client_has_disconnected_is_logged(
    harness: Harness, no_failure_in_the_log: list[str]
) -> None:
    waiting = [Deferred[bytes]()]

    async def route(request: EmulatorRequest) -> bytes:
        try:
            return await waiting.pop()
        finally:
            raise ValueError("a bug")

    serve(harness, route)
    wire = await ask(harness)
    await harness.until(lambda: not waiting)
    wire.transport.abortConnection()
    await harness.until(lambda: no_failure_in_the_log)
    assert no_failure_in_the_log == ["cannot answer {method} {path}: a bug"]
