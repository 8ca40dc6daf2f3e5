"""
The connection and request classes under the routes.

They differ from Twisted's in four ways.  A request with a body is routed when
its headers are there, so that a result can stream through and a body that is
too large or unauthorized is refused before it is read.  A route can learn
whether its answer left this process, which a job envelope needs.  An answer
that is ready before the request's body has arrived is sent at once, while the
rest is thrown away.  And a short answer does not wait for the reactor to say
that the socket can be written to: mostly it can.
"""

from __future__ import annotations

import io
import json
import math
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString, parse_qs
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import implementer

from ..jobs import JSONValue
from .browsers import BrowserGuard
from .errors import ApiError, invalid_request, payload_too_large

#: Seconds that an answered client may go on to send its body before it is cut off.
LINGER = 5.0

#: Seconds in which the headers of a request that has begun must be there.
HEAD_TIMEOUT = 10.0

#: Seconds in which a body must be there, unless its route takes its time: that of a result does.
BODY_TIMEOUT = 60.0

#: Seconds that an idle connection is kept at shutdown, for a request that is on its way.
QUIET = 1.0

#: The most levels of arrays and objects in a JSON body.
MOST_LEVELS = 200

#: Seconds that a client may take to receive what was written before its connection was closed.
CLOSE_TIMEOUT = 60.0

#: Seconds in which a client must take something of the answer that waits for it.
STALL_TIMEOUT = 120.0

#: The most bytes of an answer, or its beginning, that are sent at once: what is longer goes out at the reactor's pace.
SHORT = 16 * 1024

#: Bytes that are read at once of a body that is longer than that and may take its time.
BULK = 256 * 1024

#: Bytes of a body that are kept while no route has asked for them.
UNCLAIMED_LIMIT = 64 * 1024


class BodyLost(Exception):
    """The client went away before its body was complete."""


class RequestBody:
    """
    The body of one request, as it arrives.

    @ivar length: the announced size in bytes, or L{None} for chunked encoding.
    @ivar ended: whether the last byte has arrived.
    @ivar received: the bytes that have arrived.
    """

    # Each parked caller has one.
    __slots__ = (
        "_begun",
        "_consumer",
        "_discarding",
        "_done",
        "_limit",
        "_paused",
        "_transport",
        "_unclaimed",
        "ended",
        "length",
        "received",
    )

    def __init__(self, length: int | None, transport: IPushProducer) -> None:
        self.length = length
        self.ended = False
        self._transport = transport
        self._unclaimed = bytearray()
        self._paused = False
        self._discarding = False
        self.received = 0
        self._limit: int | None = None
        self._consumer: IConsumer | None = None
        self._begun: Deferred[None] | None = None
        self._done: Deferred[None] | None = None

    def deliver(self, data: bytes) -> None:
        """More bytes are there."""
        self.received += len(data)
        if self._discarding:
            return
        if self._consumer is not None:
            self._write(self._consumer, data)
            return
        self._unclaimed += data
        if len(self._unclaimed) > UNCLAIMED_LIMIT:
            # Again if need be: the channel resumes what it paused itself.
            self._paused = True
            self._transport.pauseProducing()
        self._report_begun()

    def _write(self, consumer: IConsumer, data: bytes) -> None:
        if self._limit is not None and self.received > self._limit:
            self._fail(payload_too_large(self._limit))
            return
        try:
            consumer.write(data)
        except OSError as error:
            self._fail(error)

    def _report_begun(self) -> None:
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun.callback(None)

    def end(self) -> None:
        """The last byte has been there."""
        self.ended = True
        self._report_begun()
        if self._done is not None and not self._discarding:
            self._release()
            done, self._done = self._done, None
            done.callback(None)

    def lost(self) -> None:
        """The client is gone."""
        if not self._discarding:
            self._fail(BodyLost())

    def discard(self) -> None:
        """Nobody wants the rest."""
        self._discarding = True
        self._release()
        self._unclaimed.clear()
        self._resume()

    def _release(self) -> None:
        if self._consumer is not None:
            self._consumer.unregisterProducer()
            self._consumer = None

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resumeProducing()

    def _fail(self, error: Exception) -> None:
        self.discard()
        for waiting in (self._begun, self._done):
            if waiting is not None:
                waiting.errback(error)
        self._begun = self._done = None

    def begun(self) -> Deferred[None]:
        """
        @return: fires when the first byte is there, or none will come; with
            L{BodyLost} if the client goes away before.
        """
        if self.received or self.ended:
            return succeed(None)
        self._begun = Deferred(lambda _: self.discard())
        return self._begun

    def pipe(self, consumer: IConsumer, limit: int) -> Deferred[None]:
        """
        Write everything to C{consumer}, at its pace.

        @param limit: the most bytes to accept.
        @return: fires after the last byte; with L{ApiError} (413) as soon as
            the body is known to be too large, with L{BodyLost} if the client
            goes away, with L{OSError} if C{consumer} cannot keep it.
            Cancelling it throws the rest away.
        """
        done: Deferred[None] = Deferred(lambda _: self.discard())
        self._limit = limit
        self._done = done
        if max(self.length or 0, self.received) > limit:
            self._fail(payload_too_large(limit))
            return done
        self._consumer = consumer
        consumer.registerProducer(self._transport, True)
        self._resume()
        if self._unclaimed:
            data = bytes(self._unclaimed)
            self._unclaimed.clear()
            self._write(consumer, data)
        if self.ended:
            self.end()
        return done

    async def read(self, limit: int) -> bytes:
        """
        @param limit: the most bytes to accept.
        @return: the whole body.
        @raise ApiError: 413, as with L{pipe}.
        @raise BodyLost: the client went away.
        """
        buffer = _Buffer()
        await self.pipe(buffer, limit)
        return bytes(buffer.data)


@implementer(IConsumer)
class _Buffer:
    """An L{IConsumer} that keeps what it gets."""

    def __init__(self) -> None:
        self.data = bytearray()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.data += data


class EmulatorRequest(Request):
    """
    A request of the emulator.

    @ivar body: its body; C{content} of the base class stays empty.
    @ivar answering: the route at work; canceled when the client goes away.
    """

    channel: EmulatorChannel
    site: EmulatorSite
    body: RequestBody
    answering: Deferred[Any] | None = None
    _begun = False
    _answered = False
    _linger: IDelayedCall | None = None
    _delivered: Deferred[bool] | None = None

    def gotLength(self, length: int | None) -> None:
        """The headers are there; called by the channel."""
        self.content = io.BytesIO()
        self.body = RequestBody(length, self.channel.transport)

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body is there; called by the channel."""
        self.body.deliver(data)

    def begin(self, command: bytes, path: bytes, version: bytes) -> None:
        """Route the request; called when its headers are there, before its body is."""
        self._begun = True
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        self.args = parse_qs(query, True) if query else {}
        self.process()

    def process(self) -> None:
        """Hand the request to the resource; path segments stay percent-encoded, each route decodes its own ids."""
        self.site = self.channel.site
        self.setHeader(b"Date", self.site.date())
        if not self.path.startswith(b"/") or not self.path.isascii():
            self.write(self.error(invalid_request("The request target is not the path of a URI.")))
            self.finish()
        elif self.site.guard.admit(self):
            self.site.resource.render(self)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of the request is there; called by the channel."""
        self.body.end()
        if not self._begun:
            self.begin(command, path, version)
        elif self._answered:
            self._finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone; called by the channel."""
        _cancel(self._linger)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if self.answering is not None:
            self.answering.cancel()
        if self.content is not None:
            # Its headers were there.
            self.body.lost()
        self._report_delivery(False)

    @property
    def gone(self) -> bool:
        """Whether nobody is there to be answered."""
        return bool(self._disconnected)

    def delivered(self) -> Deferred[bool]:
        """
        @return: fires after L{finish}: with L{True} once the whole answer has
            been handed to the operating system, with L{False} if the connection
            was lost before that.
        """
        self._delivered = Deferred()
        return self._delivered

    @property
    def awaits_delivery(self) -> bool:
        """Whether somebody wants to know if the answer has left."""
        return self._delivered is not None

    def _report_delivery(self, delivered: bool) -> None:
        if self._delivered is not None:
            waiting, self._delivered = self._delivered, None
            waiting.callback(delivered)

    def finish(self) -> None:
        """The answer is complete; if the request is not, its rest is thrown away first, for a while."""
        if self.body.ended or self._disconnected:
            self._finish()
            return
        if not self.startedWriting:
            self.write(b"")
        self._answered = True
        self.body.discard()
        self._linger = self.site.reactor.callLater(LINGER, self.channel.transport.abortConnection)

    def _finish(self) -> None:
        _cancel(self._linger)
        channel = self.channel
        super().finish()  # type: ignore[no-untyped-call]
        if self._delivered is not None:
            channel.when_flushed(self._report_delivery)

    def take_your_time(self) -> None:
        """The body of this request may pause for as long as it likes; one that is large is read in larger pieces."""
        self.channel.setTimeout(None)
        self.channel.end_deadline()
        if self.body.length is not None and self.body.length > BULK:
            self.channel.read_in_bulk()

    def break_off(self) -> None:
        """
        End an answer that has begun so that the client sees that it is not
        whole: what was written still arrives, the terminating chunk never does.
        """
        if self.chunked:
            self.channel.loseConnection()
        else:
            self.channel.abort_when_flushed()

    def write(self, data: bytes) -> None:
        """Send a part of the answer, after its head if it is the first."""
        super().write(data)  # type: ignore[no-untyped-call]
        if not self.gone:
            self.channel.send_head()

    # What routes answer with

    def json(self, value: JSONValue, status: int = 200) -> bytes:
        """
        @return: C{value} as the body of an answer, for a route to return.
        """
        try:
            body = orjson.dumps(value)
        except TypeError:
            # An integer of more than 64 bits, or half a surrogate pair, which JSON can only say escaped.
            body = json.dumps(value).encode("ascii")
        return self.answer(body, "application/json", status)

    def answer(self, body: bytes, content_type: str, status: int = 200) -> bytes:
        """
        @return: C{body}, for a route to return, with its headers set.
        """
        self.setResponseCode(status)
        self.responseHeaders.setRawHeaders(b"Content-Type", [content_type.encode("ascii", "replace")])
        self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        return body

    def no_content(self) -> bytes:
        """
        @return: the empty body of a 204.
        """
        self.setResponseCode(204)
        return b""

    def error(self, error: ApiError) -> bytes:
        """
        @return: the body of an error answer.
        """
        # Whatever was preferred, nothing was waited for.
        self.responseHeaders.removeHeader("Preference-Applied")
        for name, value in error.headers.items():
            self.setHeader(name, value)
        self.site.errors[error.error] += 1
        return self.answer(error.body(), "application/json", error.status)

    async def read_json(self, limit: int) -> JSONValue:
        """
        @param limit: the most bytes to accept.
        @return: the body as JSON.
        @raise ApiError: 400 if it is not JSON in UTF-8, 413 if it is too large.
        """
        return parse_json(await self.body.read(limit))

    def header(self, name: str) -> str | None:
        """
        @return: a request header as text, the last one if it was sent twice.
        """
        values = self.requestHeaders.getRawHeaders(name.encode("ascii"))
        return values[-1].decode("utf-8", "replace").strip() if values else None

    def header_values(self, name: str) -> list[str]:
        """
        @return: a request header as text, each time that it was sent; what is not UTF-8 is replaced.
        """
        values = self.requestHeaders.getRawHeaders(name.encode("ascii")) or []
        return [value.decode("utf-8", "replace").strip() for value in values]


def parse_json(body: bytes) -> JSONValue:
    """
    @param body: JSON in UTF-8.
    @raise ApiError: 400, with what is wrong and where.
    """
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise invalid_request("The request body is not UTF-8.", position=error.start) from None
    except json.JSONDecodeError as error:
        raise invalid_request(
            f"The request body is not JSON: {error.msg}.", line=error.lineno, column=error.colno
        ) from None
    except (RecursionError, ValueError) as error:
        raise invalid_request(f"The request body is not JSON that can be read: {error}.") from None
    if _deeper_than(MOST_LEVELS, value):
        raise invalid_request(f"The request body is nested more than {MOST_LEVELS} levels deep.")
    return value


def _deeper_than(levels: int, value: JSONValue) -> bool:
    """What can just be read may be too deep to be written or checked."""
    level: list[JSONValue] = [[value]]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is larger than a number can be")
    return number


def _each_key_once(pairs: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
    """Of two values with one key, one would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_each_key_once)


@implementer(IPushProducer)
class _FlushWatch:
    """
    Tells when a transport has handed all it holds to the operating system.

    A transport asks a pull producer for more each time it has run dry; that is
    the one sign of it that Twisted gives.  The producer that was registered
    before steps aside for that moment.
    """

    def __init__(self, descriptor: Any, flushed: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._flushed = flushed
        self._asked = 0
        self._former, self._former_streams = descriptor.producer, descriptor.streamingProducer
        self._former_paused = descriptor.producerPaused
        descriptor.unregisterProducer()
        descriptor.registerProducer(self, False)
        descriptor.startWriting()

    def resumeProducing(self) -> None:
        """See L{IPullProducer}: first called when registered, then when dry."""
        self._asked += 1
        if self._asked == 2:
            self._descriptor.unregisterProducer()
            if self._former is not None:
                self._descriptor.registerProducer(self._former, self._former_streams)
                if self._former_paused:
                    self._former.resumeProducing()
            self._flushed()

    def pauseProducing(self) -> None:
        """Not called on a pull producer."""

    def stopProducing(self) -> None:
        """The transport is gone; the channel says so to whoever waits."""


def _cancel(timer: IDelayedCall | None) -> None:
    """Let a timer that may not have been set, or may have fired, not fire any more."""
    if timer is not None and timer.active():
        timer.cancel()


def _holds_back(descriptor: Any) -> bool:
    """Whether a transport has written bytes that the operating system has not."""
    return bool(descriptor.dataBuffer or descriptor._tempDataLen)


def _has_ended(connected: socket.socket) -> bool:
    """Whether the other side has closed; asked without taking anything from what it has sent."""
    try:
        return not connected.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


class EmulatorChannel(HTTPChannel):
    """A connection of the emulator."""

    site: EmulatorSite
    factory: EmulatorSite
    requestFactory = EmulatorRequest
    transport: Any

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flush_waits: list[Callable[[bool], None]] = []
        self._flush_watch: IDelayedCall | None = None
        self._head_there = False
        self._body_due = False
        self._parting = False
        self._deadline: IDelayedCall | None = None
        self._stall: IDelayedCall | None = None
        self._closing: IDelayedCall | None = None
        self._address: IAddress | None = None
        self._socket: Connection | None = None
        self._head = b""

    def getHost(self) -> IAddress:
        """
        @return: the address that the client has connected to, asked of the system once.
        """
        if self._address is None:
            self._address = super().getHost()  # type: ignore[no-untyped-call]
        return self._address

    def dataReceived(self, data: bytes) -> None:
        """Bytes are there; those of a head must not come one by one for ever."""
        if self._parting:
            # TLS goes on to deliver until the client has agreed to close.
            return
        again = self._busyReceiving
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        if again or self._deadline is not None:
            return
        if self._body_due:
            self._set_deadline(self.site.body_timeout)
        elif (self.requests and not self._head_there) or self._buffer:
            self._set_deadline(self.site.head_timeout)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of a head is longer than any may be."""
        self._respondToBadRequestAndDisconnect()

    def headerReceived(self, line: bytes) -> bool:
        """A header is there; its length may have more digits than any number has here."""
        try:
            return bool(super().headerReceived(line))  # type: ignore[no-untyped-call]
        except ValueError:
            self._respondToBadRequestAndDisconnect()
            return False

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Refuse what is no HTTP, unless the request has an answer already."""
        if self.requests and self.requests[-1].startedWriting:
            self.loseConnection()
        else:
            super()._respondToBadRequestAndDisconnect()  # type: ignore[no-untyped-call]

    def rawDataReceived(self, data: bytes) -> None:
        """
        Bytes of a body are there, or of requests behind the one that is being answered.

        Of those only so many are kept.  While the answer is written, the
        client has to wait.  While the request is parked it is cut off instead:
        a connection that is not read from does not tell that its client is gone.
        """
        super().rawDataReceived(data)
        if self._handlingRequest and sum(map(len, self._dataBuffer)) > self._optimisticEagerReadSize:
            if self.requests[0].startedWriting:
                self._networkProducer.pauseProducing()
            else:
                self.transport.abortConnection()

    def _set_deadline(self, seconds: float) -> None:
        _cancel(self._deadline)
        self._deadline = self.site.reactor.callLater(seconds, self.transport.abortConnection)

    def end_deadline(self) -> None:
        """Whatever had to be there in time is there, or may take longer."""
        self._body_due = False
        _cancel(self._deadline)
        self._deadline = None

    def allHeadersReceived(self) -> None:
        """Route a request that has a body before the body is there."""
        self._head_there = True
        self.end_deadline()
        super().allHeadersReceived()  # type: ignore[no-untyped-call]
        if self.length != 0:
            # It counts only if the body does not come with its head.
            self._body_due = True
            self.requests[-1].begin(self._command, self._path, self._version)

    def allContentReceived(self) -> None:
        """The whole request is there."""
        self.end_deadline()
        super().allContentReceived()  # type: ignore[no-untyped-call]

    def read_in_bulk(self) -> None:
        """Read more at once, until the head request is answered; as much may be written before that is held back."""
        if self._socket is not None:
            self._socket.bufferSize = BULK

    def requestDone(self, request: HTTPRequest) -> None:
        """The head request is answered; from now on the connection is idle, and may be for as long as any."""
        self._head_there = False
        if self._socket is not None:
            self._socket.bufferSize = Connection.bufferSize
        self.end_deadline()
        self._savedTimeOut = self.site.timeOut
        if self._closing is not None:
            self._await_quiet()
        super().requestDone(request)  # type: ignore[no-untyped-call]

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:
        """
        @return: whether the connection stays open after the answer to C{request}.
        """
        persistent: bool = super().checkPersistence(request, version)  # type: ignore[no-untyped-call]
        if self._closing is not None:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return persistent and self._closing is None

    def pauseProducing(self) -> None:
        """The client does not take what is written as fast as it is; it may be slow, but not for ever."""
        super().pauseProducing()  # type: ignore[no-untyped-call]
        _cancel(self._stall)
        self._stall = self.site.reactor.callLater(self.site.stall_timeout, self.transport.abortConnection)

    def resumeProducing(self) -> None:
        """The client has taken what was written."""
        _cancel(self._stall)
        super().resumeProducing()  # type: ignore[no-untyped-call]

    def loseConnection(self) -> None:
        """Close once all is written; a client that does not let it is cut off like an idle one."""
        super().loseConnection()  # type: ignore[no-untyped-call]
        if self in self.site.channels and not self._parting:
            self._parting = True
            self._set_deadline(self.site.close_timeout)

    def abort_when_flushed(self) -> None:
        """Abort once all that was written has gone; a client that does not let it is cut off like an idle one."""
        self._set_deadline(self.site.close_timeout)
        self.when_flushed(lambda flushed: self.transport.abortConnection() if flushed else None)

    def close_when_answered(self) -> None:
        """
        Answer what has been asked, and what is on its way, and close.

        A client that has not been told, in the head of an answer, that its
        connection ends may have sent a request that is not read yet, so
        that connection is closed a little later.
        """
        self._await_quiet()
        if self.requests and not self.requests[0].startedWriting:
            self.requests[0].responseHeaders.setRawHeaders(b"Connection", [b"close"])
            self.persistent = False

    def _await_quiet(self) -> None:
        _cancel(self._closing)
        self._closing = self.site.reactor.callLater(QUIET, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.requests:
            self.loseConnection()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Begin an answer; its head is kept for what is written next, or until L{send_head}."""
        lines = [b"%b %b %b" % (version, code, reason)]
        lines += [b"%b: %b" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self._head = b"\r\n".join(lines) + b"\r\n\r\n"

    def send_head(self) -> None:
        """Send the head of an answer, if none of its body has taken it along."""
        if self._head:
            self.write(b"")

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send a part of an answer in several pieces."""
        self.write(b"".join(iovec))

    def write(self, data: bytes) -> None:
        """Send a part of an answer, its head with the first; that is often all of it, and goes at once if it can."""
        if self._head:
            data, self._head = self._head + data, b""
            if self._socket is not None and len(data) <= SHORT and self._may_send_now(self._socket):
                # Where it fails, so it will when the transport tries, which then ends the connection.
                sent = self._socket.writeSomeData(data)
                if isinstance(sent, int):
                    data = data[sent:]
        if data:
            self.transport.write(data)

    def _may_send_now(self, connection: Connection) -> bool:
        """Whether the socket can be given something without the reactor, which asks it first, and reads from it."""
        if not connection.connected or connection._aborting or _holds_back(connection):
            return False
        # A client that has gone would seem to get it; the reactor finds that out as it reads.
        return not self.requests[0].awaits_delivery or not _has_ended(connection.socket)

    def when_flushed(self, report: Callable[[bool], None]) -> None:
        """
        Call C{report} once: with L{True} when everything written so far has
        been handed to the operating system, with L{False} if the connection is
        lost first.
        """
        if self._socket is not None and self._socket.connected and not _holds_back(self._socket):
            report(True)
            return
        self._flush_waits.append(report)
        if len(self._flush_waits) == 1:
            # A TLS transport collects small writes until the next turn of the reactor.
            self._flush_watch = self.site.reactor.callLater(0, self._watch_flush)

    def _watch_flush(self) -> None:
        descriptor: Any = getattr(self.transport, "transport", self.transport)
        # What a timer has written is gone by now; a client that has read it may have closed, which is read before dry.
        if hasattr(descriptor, "startWriting") and _holds_back(descriptor):
            _FlushWatch(descriptor, lambda: self._report_flush(True))
        else:
            self._report_flush(True)

    def _has_flushed(self) -> bool:
        """Whether all that was written has gone; a connection may end before anybody has looked, or when it has."""
        if self._socket is not None:
            return not _holds_back(self._socket)
        # What TLS collects is counted nowhere; it has gone on by the time that somebody looks.
        looked = self._flush_watch is not None and not self._flush_watch.active()
        return looked and hasattr(self.transport, "dataBuffer") and not _holds_back(self.transport)

    def _report_flush(self, flushed: bool) -> None:
        _cancel(self._flush_watch)
        waits, self._flush_waits = self._flush_waits, []
        for report in waits:
            report(flushed)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._parting = True
        try:
            super().connectionLost(reason)  # type: ignore[no-untyped-call]
        finally:
            self.end_deadline()
            _cancel(self._stall)
            _cancel(self._closing)
            self._report_flush(self._has_flushed())
            self.site.left(self)

    def connectionMade(self) -> None:
        """The connection is there."""
        if isinstance(self.transport, Connection):
            self._socket = self.transport
        self.site.channels.add(self)
        super().connectionMade()  # type: ignore[no-untyped-call]


class EmulatorSite(Site):
    """
    A L{Site} over one resource, which does all the routing.

    @ivar channels: the connections that are open.
    @ivar guard: looks at each request before it is routed.
    @ivar errors: how many error answers there were, by the error's name.
    """

    head_timeout = HEAD_TIMEOUT
    body_timeout = BODY_TIMEOUT
    close_timeout = CLOSE_TIMEOUT
    stall_timeout = STALL_TIMEOUT

    protocol = EmulatorChannel  # type: ignore[assignment]
    noisy = False

    def __init__(self, resource: IResource, guard: BrowserGuard, reactor: IReactorTime, errors: Counter[str]) -> None:
        super().__init__(resource, requestFactory=EmulatorRequest, reactor=reactor)  # type: ignore[no-untyped-call]
        self.guard = guard
        self.errors = errors
        self.channels: set[EmulatorChannel] = set()
        self._drained: Deferred[None] | None = None
        self._second = 0
        self._date = b""

    def date(self) -> bytes:
        """
        @return: the time as the Date header has it, made once a second.
        """
        now = int(self.reactor.seconds())
        if now != self._second:
            self._second, self._date = now, datetimeToString(now)
        return self._date

    def startFactory(self) -> None:
        """No request is logged, so there is no clock to keep for the log's lines."""

    def stopFactory(self) -> None:
        """There is nothing to undo."""

    def left(self, channel: EmulatorChannel) -> None:
        """A connection is gone."""
        self.channels.discard(channel)
        if not self.channels and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def drain(self, grace: float) -> Deferred[None]:
        """
        Close every connection: one with a request when that is answered, an idle one soon.

        @param grace: seconds after which those that are left are cut off.
        @return: fires when there is none.
        """
        if not self.channels:
            return succeed(None)
        self._drained = Deferred()
        drained = self._drained
        cut: IDelayedCall = self.reactor.callLater(grace, self._cut_off)
        for channel in list(self.channels):
            channel.close_when_answered()

        return drained.addCallback(lambda _: _cancel(cut))

    def _cut_off(self) -> None:
        for channel in list(self.channels):
            channel.transport.abortConnection()

    def log(self, request: HTTPRequest) -> None:
        """No line for each request: the broker logs what happens to jobs."""
