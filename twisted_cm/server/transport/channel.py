"""A connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers
from zope.interface import implementer

from .request import BULK, EmulatorRequest
from .timers import cancel_timer

if TYPE_CHECKING:
    from .site import EmulatorSite

#: Seconds that an idle connection is kept at shutdown, for a request that is on its way.
QUIET = 1.0


#: The most bytes of an answer, or its beginning, that are sent at once: what is longer goes out at the reactor's pace.
SHORT = 16 * 1024


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
        cancel_timer(self._deadline)
        self._deadline = self.site.reactor.callLater(seconds, self.transport.abortConnection)

    def end_deadline(self) -> None:
        """Whatever had to be there in time is there, or may take longer."""
        self._body_due = False
        cancel_timer(self._deadline)
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
        cancel_timer(self._stall)
        self._stall = self.site.reactor.callLater(self.site.stall_timeout, self.transport.abortConnection)

    def resumeProducing(self) -> None:
        """The client has taken what was written."""
        cancel_timer(self._stall)
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
        cancel_timer(self._closing)
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
        cancel_timer(self._flush_watch)
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
            cancel_timer(self._stall)
            cancel_timer(self._closing)
            self._report_flush(self._has_flushed())
            self.site.left(self)

    def connectionMade(self) -> None:
        """The connection is there."""
        if isinstance(self.transport, Connection):
            self._socket = self.transport
        self.site.channels.add(self)
        super().connectionMade()  # type: ignore[no-untyped-call]
