"""A connection: its time limits, its back-pressure, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers

from ...broker.timers import cancel_timer
from .flushing import FlushWatch
from .interface import ServingSite
from .request import EmulatorRequest
from .stall import StallWatch
from .twisted_private import OpenHTTPChannel

#: Seconds that an idle connection stays open at shutdown, for a request that is on its way.
QUIET = 1.0

#: Bytes of further requests that are kept while a request is being answered.
AHEAD = 16 * 1024

#: Bytes to read at once of a large body.
BULK = 256 * 1024


class EmulatorChannel(OpenHTTPChannel):
    """A connection of the emulator.

    Attributes:
        site: The site of the listener.
        held: Whether the transport holds so much that it has paused the connection.
    """

    site: ServingSite[EmulatorRequest]
    requestFactory = EmulatorRequest
    transport: Any
    # The base class would abort an idle connection 15 seconds after it begins to close: close_timeout is enough.
    abortTimeout = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The state of the request that is being received or answered.
        self._request_line = b""
        self._head_complete = False
        self._body_expected = False
        self._complete = False
        self._bulk = False
        # The state of the connection.
        self._receiving = False
        self._parting = False
        self.held = False
        self._deadline: IDelayedCall | None = None
        self._stall: StallWatch
        self._close: StallWatch
        self._closing: IDelayedCall | None = None
        self._address: IAddress | None = None
        self._flush: FlushWatch | None = None

    def getHost(self) -> IAddress:
        # Each call of the base class is a system call.
        if self._address is None:
            self._address = super().getHost()  # type: ignore[no-untyped-call]
        return self._address

    def connectionMade(self) -> None:
        self._stall = StallWatch(self.site.reactor, self.transport)
        self._close = StallWatch(self.site.reactor, self.transport)
        self.site.joined(self)
        super().connectionMade()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._parting = True
        try:
            super().connectionLost(reason)  # type: ignore[no-untyped-call]
        finally:
            self._end_deadline()
            self._stall.stop()
            self._close.stop()
            cancel_timer(self._closing)
            if self._flush is not None:
                self._flush.connection_lost()
            self.site.left(self)

    # Receiving

    def dataReceived(self, data: bytes) -> None:
        if self._parting:
            # TLS delivers data until the client has agreed to close.
            return
        # requestDone() delivers pipelined requests from within this method.
        nested, self._receiving = self._receiving, True
        try:
            super().dataReceived(data)  # type: ignore[no-untyped-call]
        finally:
            self._receiving = nested
        if nested or self._deadline is not None or self.transport.disconnecting:
            return
        if self._body_expected:
            self._set_deadline(self.site.body_timeout)
        elif (self.requests and not self._head_complete) or self._has_partial_line():
            self._set_deadline(self.site.head_timeout)

    def _has_partial_line(self) -> bool:
        """Return whether the beginning of a line has arrived."""
        line = self.clearLineBuffer()
        if line:
            # Looking at the buffer takes it away.
            super().dataReceived(line)  # type: ignore[no-untyped-call]
        return bool(line)

    def lineReceived(self, line: bytes) -> None:
        if b"\r" in line:
            # Twisted accepts a bare CR in a header before 26.10. Other servers take it for the end of a line.
            self.refuse()
            return
        before = len(self.requests)
        try:
            super().lineReceived(line)  # type: ignore[no-untyped-call]
        except ValueError:
            # Python converts no number of that many digits, here those of Content-Length.
            self.refuse()
            return
        if len(self.requests) > before:
            self._request_line = line

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse()

    def refuse(self) -> None:
        if self.requests and self.requests[-1].startedWriting:
            # The client has its answer; it would take a 400 for the answer to its next request.
            self.loseConnection()
        else:
            super().refuse()

    def allHeadersReceived(self) -> None:
        """Route a request that has a body before the body arrives."""
        self._head_complete = True
        self._end_deadline()
        super().allHeadersReceived()  # type: ignore[no-untyped-call]
        if self.length != 0:
            # If the body comes in the same piece as the headers, there is no need for a timer.
            self._body_expected = True
            self.requests[-1].begin(*self._request_line.split(b" "))

    def allContentReceived(self) -> None:
        self._complete = True
        self._end_deadline()
        super().allContentReceived()  # type: ignore[no-untyped-call]

    def rawDataReceived(self, data: bytes) -> None:
        """Receive a part of a body, or requests that follow the one that is being answered.

        The channel keeps at most :data:`AHEAD` bytes of the latter, and one read. While the answer is being written,
        it stops reading, so the client has to wait. While the request is parked, it aborts the connection instead: if
        it stopped reading, it would not notice that the client disconnects.
        """
        super().rawDataReceived(data)
        if self._complete and self.bytes_ahead > AHEAD:
            if self.requests[0].startedWriting:
                self.transport.pauseProducing()
            else:
                self.transport.abortConnection()

    # Time limits

    def _set_deadline(self, seconds: float) -> None:
        cancel_timer(self._deadline)
        self._deadline = self.site.reactor.callLater(seconds, self.transport.abortConnection)

    def _end_deadline(self) -> None:
        self._body_expected = False
        cancel_timer(self._deadline)
        self._deadline = None

    def allow_slow_body(self, length: int | None) -> None:
        """Lift the time limits on the body of the current request.

        A body of more than :data:`BULK` bytes is read in pieces of that size, until the request is answered.

        Args:
            length: Bytes of the body, if known.
        """
        self.setTimeout(None)
        self._end_deadline()
        if length is not None and length > BULK and isinstance(self.transport, FileDescriptor):
            self._bulk = True
            self.transport.bufferSize = BULK

    # Answering

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        lines = [b"%b %b %b" % (version, code, reason)]
        lines += [b"%b: %b" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")

    def pauseProducing(self) -> None:
        """Pause because the client receives too slowly; abort if it receives nothing for ``stall_timeout``."""
        self.held = True
        super().pauseProducing()  # type: ignore[no-untyped-call]
        self._stall.start(self.site.stall_timeout)

    def resumeProducing(self) -> None:
        self.held = False
        self._stall.stop()
        super().resumeProducing()  # type: ignore[no-untyped-call]

    def requestDone(self, request: HTTPRequest) -> None:
        self._head_complete = self._complete = False
        if self._bulk:
            self._bulk = False
            self.transport.bufferSize = FileDescriptor.bufferSize
        self._end_deadline()
        if self._closing is not None:
            self._await_quiet()
        super().requestDone(request)  # type: ignore[no-untyped-call]
        if self.persistent and not self.requests and self.timeOut is None:
            # The base class restores only a limit that was in force when the body was complete.
            self.setTimeout(self.site.timeOut)

    @property
    def awaits_flush(self) -> bool:
        """Whether a report to :meth:`when_flushed` is due."""
        return self._flush is not None and not self._flush.done

    def when_flushed(self, report: Callable[[bool], None]) -> None:
        """Call ``report`` once with whether everything written so far reached the operating system.

        True: the operating system has it. False: the connection was lost before.
        """
        if self._flush is None or self._flush.done:
            self._flush = FlushWatch(self.site.reactor, self.transport, self, self.held)
        self._flush.add(report)
        self._flush.write_now()

    # Closing

    def loseConnection(self) -> None:
        """Close the connection once everything written has been sent.

        It is aborted if the client receives nothing for ``close_timeout`` seconds.
        """
        super().loseConnection()  # type: ignore[no-untyped-call]
        if self._flush is not None and not self._flush.done:
            self._flush.connection_closes()
        if not self._parting:
            self._parting = True
            self._close.start(self.site.close_timeout)

    def abort_when_flushed(self) -> None:
        """Abort the connection once everything written has been sent, or as :meth:`loseConnection` does."""
        self._close.start(self.site.close_timeout)
        self.when_flushed(lambda flushed: self.transport.abortConnection() if flushed else None)

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:
        persistent: bool = super().checkPersistence(request, version)  # type: ignore[no-untyped-call]
        if self._closing is not None:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return persistent and self._closing is None

    def close_when_answered(self) -> None:
        """Answer the requests that have been sent, then close the connection.

        A client that has not read ``Connection: close`` yet may have a request on its way, so an idle connection stays
        open for :data:`QUIET` seconds.
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
