"""Test a connection over a transport in memory, with routes that answer when the test says so."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from twisted_cm.server.transport.body import UNCLAIMED_LIMIT
from twisted_cm.server.transport.channel import AHEAD
from twisted_cm.server.transport.head import RequestHead
from twisted_cm.server.transport.incoming import Incoming
from twisted_cm.server.transport.received import ReceivedBody
from twisted_cm.server.transport.request import EmulatorRequest
from twisted_cm.server.transport.site import EmulatorSite

GET = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Transport(StringTransport):
    """A transport that can tell whether it reads, and be aborted."""

    aborted = False

    @property
    def reads(self) -> bool:
        return self.producerState == "producing"

    def abortConnection(self) -> None:
        self.aborted = True


class Routes:
    """Keeps the requests that it is to answer, and admits all."""

    def __init__(self) -> None:
        self.requests: list[EmulatorRequest] = []

    def admit(self, request: EmulatorRequest) -> bool:
        return True

    def answer(self, request: EmulatorRequest) -> None:
        self.requests.append(request)


class Connected:
    """A channel that is connected."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.routes = Routes()
        self.site = EmulatorSite(self.routes, self.routes, self.clock, lambda error: None)
        self.channel: Any = self.site.buildProtocol(None)
        self.transport = Transport()
        self.channel.makeConnection(self.transport)

    def receive(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def request(self, number: int) -> EmulatorRequest:
        return self.routes.requests[number]

    def finish(self, number: int, answer: bytes = b"ok") -> None:
        request = self.request(number)
        request.write(request.answer(answer, "text/plain"))
        request.finish()


@pytest.fixture
def connected() -> Connected:
    return Connected()


def received(request: EmulatorRequest) -> ReceivedBody:
    """Return what receives the body of a request."""
    body = ReceivedBody()
    request.body.pipe(body, 10**9)
    return body


def test_a_body_that_arrives_while_the_request_before_it_is_parked_is_whole(connected: Connected) -> None:
    connected.receive(GET % 1 + b"POST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n01234")
    connected.receive(b"567")
    connected.receive(b"89" + GET % 3)
    connected.finish(0)
    body = received(connected.request(1))
    assert body.data == b"0123456789"
    assert connected.request(1).body.ended
    connected.finish(1)
    assert [each.path for each in connected.routes.requests] == [b"/1", b"/2", b"/3"]


def test_a_body_behind_a_parked_request_is_not_hurried(connected: Connected) -> None:
    connected.receive(GET % 1 + b"POST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n01234")
    connected.clock.advance(connected.site.body_timeout)
    assert not connected.transport.aborted
    connected.finish(0)
    connected.clock.advance(connected.site.body_timeout - 1)
    assert not connected.transport.aborted
    connected.clock.advance(1)
    assert connected.transport.aborted


def test_who_takes_no_answers_gets_no_more(connected: Connected) -> None:
    connected.receive(b"".join(GET % number for number in range(5)))
    connected.channel.pauseProducing()
    connected.finish(0)
    assert len(connected.routes.requests) == 1
    assert not connected.transport.reads
    connected.channel.resumeProducing()
    assert len(connected.routes.requests) == 2
    for number in range(1, 5):
        connected.finish(number)
    assert connected.transport.reads
    assert connected.transport.value().count(b"HTTP/1.1 200 OK") == 5


def test_requests_that_arrive_although_a_client_takes_no_answers_wait(connected: Connected) -> None:
    """Over TLS, what has been received is delivered even when the connection is paused."""
    connected.channel.pauseProducing()
    flood = GET % 1 * (AHEAD // len(GET))
    for _ in range(3):
        connected.receive(flood)
    assert not connected.transport.aborted
    assert not connected.routes.requests
    connected.channel.resumeProducing()
    for number in range(3 * flood.count(b"GET")):
        connected.finish(number)
    assert connected.transport.reads


def test_a_connection_that_closes_reads(connected: Connected) -> None:
    """Over TLS, a connection closes when the client agrees."""
    connected.channel.pauseProducing()
    assert not connected.transport.reads
    connected.channel.loseConnection()
    assert connected.transport.reads


def test_a_connection_reads_again_when_its_client_takes_its_answers_again(connected: Connected) -> None:
    connected.receive(GET % 1)
    connected.request(0).write(b"begun")
    post = b"POST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (3 * AHEAD)
    connected.receive(post + b"x" * AHEAD)
    connected.receive(b"x" * (AHEAD + 1))
    assert not connected.transport.reads
    connected.channel.pauseProducing()
    connected.request(0).finish()
    connected.channel.resumeProducing()
    assert connected.transport.reads
    body = received(connected.request(1))
    connected.receive(b"x" * (AHEAD - 1))
    assert (body.size, connected.request(1).body.ended) == (3 * AHEAD, True)


@pytest.mark.parametrize("claimed", [False, True])
def test_a_connection_reads_on_when_a_body_has_ended_that_paused_it(connected: Connected, claimed: bool) -> None:
    size = UNCLAIMED_LIMIT + 2
    connected.receive(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
    connected.receive(b"x" * (size - 1))
    assert not connected.transport.reads
    if claimed:
        received(connected.request(0))
        connected.channel.incoming.pauseProducing()
    connected.receive(b"x")
    assert connected.transport.reads


def test_a_connection_reads_on_when_nobody_wants_a_body_any_more(connected: Connected) -> None:
    connected.receive(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n01")
    received(connected.request(0))
    connected.channel.incoming.pauseProducing()
    connected.finish(0)
    assert connected.transport.reads


def test_nothing_follows_a_400(connected: Connected) -> None:
    connected.receive(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    connected.receive(b"nonsense\r\n")
    connected.finish(0)
    assert connected.transport.value().count(b"HTTP/1.1 ") == 1
    assert connected.transport.disconnecting


def test_a_date_that_a_route_has_set_is_the_only_one(connected: Connected) -> None:
    connected.receive(GET % 1)
    connected.request(0).setHeader("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
    connected.finish(0)
    assert connected.transport.value().count(b"Date: ") == 1


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_a_client_that_offers_another_protocol_is_answered_in_its_version(connected: Connected, version: bytes) -> None:
    connected.receive(b"GET / %b\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" % version)
    connected.finish(0)
    assert connected.transport.value().startswith(version + b" 200 OK\r\n")
    assert connected.transport.disconnecting is (version == b"HTTP/1.0")


class SendingConnection:
    """A connection whose socket takes all that is written, and which notes what a request does."""

    transport = None
    persistent = False
    all_sent = True

    def __init__(self, site: EmulatorSite) -> None:
        self.site = site
        self.incoming = Incoming(None)
        self.done: list[str] = []

    def write(self, data: bytes, unless_arrived: bool = False) -> None:
        self.done.append("write")

    def request_done(self) -> None:
        self.done.append("request done")


def test_an_answer_that_has_left_counts_as_delivered_before_its_connection_closes(connected: Connected) -> None:
    """The client may close the connection at once. The end would be noticed first."""
    connection: Any = SendingConnection(connected.site)
    request = EmulatorRequest(connection, RequestHead(b"GET", b"/", True, {}, 0, False))
    request.body_ended()
    request.when_delivered(lambda delivered: connection.done.append(f"delivered: {delivered}"))
    request.write(request.answer(b"ok", "text/plain"))
    request.finish()
    assert connection.done == ["write", "delivered: True", "request done"]
