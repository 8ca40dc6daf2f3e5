"""A connection: its requests in turn, its time limits, its back-pressure, and how it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ...broker.timers import cancel_timer
from .body import RequestBody
from .flushing import FlushWatch
from .head import RequestHead
from .incoming import Incoming
from .interface import ServingSite
from .reader import MalformedRequest, RequestReader
from .request import EmulatorRequest
from .sending import Sender
from .stall import StallWatch

#: Seconds that an idle connection stays open at shutdown, for a request that is on its way.
QUIET = 1.0

#: Bytes of further requests that are kept while a request is being answered, besides those of one read.
AHEAD = 16 * 1024

#: Bytes to read at once of a large body.
BULK = 256 * 1024

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@implementer(IPushProducer)
class EmulatorChannel(Protocol):
    """A connection of the emulator.

    It answers one request after another. Requests that come ahead of their turn wait: those of one read as requests,
    what follows as bytes.

    Attributes:
        site: The site of the listener.
        held: Whether the transport holds so much that it has paused the connection.
        persistent: Whether the connection stays open after the current request.
        incoming: What the connection receives.
    """

    _log = Logger()
    transport: Any

    def __init__(self, site: ServingSite[EmulatorRequest]) -> None:
        self.site = site
        self.held = False
        self.persistent = True
        self._reader = RequestReader(self)
        # The request that is being answered or received, and those that came with it.
        self._requests: deque[EmulatorRequest] = deque()
        self._answering = False
        self._ahead = b""
        self._malformed = False
        # Whether the channel is within _advance(), which request_done() may call again.
        self._advancing = False
        self._bulk = False
        self._body_expected = False
        self._parting = False
        self._producer: IPushProducer | None = None
        self._idle_since = 0.0
        self._idle: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self.incoming: Incoming
        self._sender: Sender
        self._stall: StallWatch
        self._close: StallWatch
        self._closing: IDelayedCall | None = None
        self._flush: FlushWatch | None = None

    @cached_property
    def host(self) -> IAddress:
        # Each call is a system call.
        address: IAddress = self.transport.getHost()
        return address

    @property
    def is_secure(self) -> bool:
        return ISSLTransport.providedBy(self.transport)

    def connectionMade(self) -> None:
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        clock = self.site.reactor
        self.incoming = Incoming(transport)
        self._sender = Sender(transport)
        self._stall = StallWatch(clock, transport, self.abort)
        self._close = StallWatch(clock, transport, self.abort)
        self._idle_since = clock.seconds()
        self._idle = clock.callLater(self.site.idle_timeout, self._look_idle)
        self.site.joined(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._parting = True
        try:
            for request in self._requests:
                request.connection_lost()
        finally:
            self._reader.stop()
            self._sender.stop()
            self._end_deadline()
            self._stall.stop()
            self._close.stop()
            cancel_timer(self._idle)
            cancel_timer(self._closing)
            if self._flush is not None:
                self._flush.connection_lost()
            self.site.left(self)

    # Receiving

    def dataReceived(self, data: bytes) -> None:
        if self._parting:
            # TLS delivers data until the client has agreed to close.
            return
        if self._requests and self._requests[0].body.ended:
            self._keep_ahead(data)
            return
        self._read(data)
        self._advance()

    def _keep_ahead(self, data: bytes) -> None:
        """Keep bytes that follow the request that is being answered.

        While the answer is being written, the channel stops reading if they are too many, so the client has to wait.
        While the request is parked, it aborts the connection instead: if it stopped reading, it would not notice that
        the client disconnects.
        """
        self._ahead += data
        if len(self._ahead) > AHEAD:
            if self._answering and not self._requests[0].startedWriting:
                self.abort()
            else:
                self.incoming.pauseProducing()

    @property
    def bytes_ahead(self) -> int:
        """The number of bytes kept of requests that follow the current one."""
        return len(self._ahead)

    def _read(self, data: bytes) -> None:
        try:
            self._reader.read(data)
        except MalformedRequest:
            self._malformed = True

    def head_received(self, head: RequestHead) -> RequestBody:
        request = EmulatorRequest(self, head)
        self._requests.append(request)
        if self._deadline is not None:
            self._end_deadline()
        self._body_expected = True
        return request.body

    def body_received(self) -> None:
        self._body_expected = False
        if self._deadline is not None:
            self._end_deadline()
        self._requests[-1].body_ended()

    def _advance(self) -> None:
        """Answer the request whose turn it is, then the next ones, as long as each is answered at once."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._step():
                pass
        finally:
            self._advancing = False
        if self._body_expected or not self._requests:
            self._set_deadline()

    def _step(self) -> bool:
        """Do the next thing that can be done at once; return whether there was one."""
        requests = self._requests
        if self._parting:
            return False
        if requests and not self._answering and not self.held:
            self._answering = True
            self.persistent = requests[0].persistent and self._closing is None
            requests[0].process()
        elif self._malformed and not (requests and requests[0].body.ended):
            self._refuse()
        elif self._ahead and not (requests and requests[0].body.ended):
            data, self._ahead = self._ahead, b""
            self._read(data)
        else:
            return False
        return True

    def _refuse(self) -> None:
        """Answer 400 to what is no HTTP, and close the connection."""
        if not (self._requests and self._requests[0].startedWriting):
            # If an answer has begun, the client would take the 400 for the answer to its next request.
            self.write(_BAD_REQUEST)
        self.loseConnection()

    # Time limits

    def _set_deadline(self) -> None:
        """Limit the time for what is being received, if the limit does not run yet."""
        if self._parting or self._deadline is not None:
            return
        if self._body_expected and self._answering and not self._requests[0].body.ended:
            self._deadline = self.site.reactor.callLater(self.site.body_timeout, self._time_out)
        elif not self._requests and self._reader.unfinished:
            self._deadline = self.site.reactor.callLater(self.site.head_timeout, self._time_out)

    def _end_deadline(self) -> None:
        cancel_timer(self._deadline)
        self._deadline = None

    def _time_out(self) -> None:
        self._log_time_out()
        self.abort()

    def _log_time_out(self) -> None:
        # Clients leave idle connections open all the time, and the lines would hide others.
        self._log.debug("Timing out client: {peer}", peer=str(self.transport.getPeer()))

    def _look_idle(self) -> None:
        """Close the connection if it has been idle for long enough, or look again later.

        One timer for each connection costs less than one for each request.
        """
        busy = self._requests or self._deadline is not None
        limit = self.site.idle_timeout
        left = limit if busy else self._idle_since + limit - self.site.reactor.seconds()
        if left > 0:
            self._idle = self.site.reactor.callLater(left, self._look_idle)
        else:
            self._log_time_out()
            self.loseConnection()

    def allow_slow_body(self, length: int | None) -> None:
        """Lift the time limit on the body of the current request.

        A body of more than :data:`BULK` bytes is read in pieces of that size, until the request is answered.

        Args:
            length: Bytes of the body, if known.
        """
        if not self._requests[0].body.ended:
            self._body_expected = False
            self._end_deadline()
        if length is not None and length > BULK and isinstance(self.transport, FileDescriptor):
            self._bulk = True
            self.transport.bufferSize = BULK

    # Answering

    def write(self, data: bytes, unless_arrived: bool = False) -> None:
        """Send bytes to the client, after all that were written before: see :meth:`.Sender.write`."""
        # After a 400, a route that still works would write behind it.
        if not self._parting:
            self._sender.write(data, unless_arrived)

    @property
    def all_sent(self) -> bool:
        """Whether it is certain that the operating system has everything that was written."""
        return self._sender.all_sent

    def pauseProducing(self) -> None:
        """Pause because the client receives too slowly; abort if it receives nothing for ``stall_timeout``."""
        self.held = True
        if self._producer is not None:
            self._producer.pauseProducing()
        if not self._answering:
            self.incoming.pauseProducing()
        self._stall.start(self.site.stall_timeout)

    def resumeProducing(self) -> None:
        self.held = False
        self._stall.stop()
        if self._producer is not None:
            self._producer.resumeProducing()
        if not self._answering:
            self.incoming.resumeProducing()
            self._advance()

    def stopProducing(self) -> None:
        if self._producer is not None:
            self._producer.stopProducing()

    def register(self, producer: IPushProducer) -> None:
        self._producer = producer
        if self.held:
            producer.pauseProducing()

    def unregister(self) -> None:
        self._producer = None

    def request_done(self) -> None:
        self._requests.popleft()
        self._answering = False
        self._idle_since = self.site.reactor.seconds()
        if self._bulk:
            self._bulk = False
            self.transport.bufferSize = FileDescriptor.bufferSize
        if not self.persistent:
            self.loseConnection()
            return
        if self._closing is not None:
            self._await_quiet()
        if self.held:
            # The client would get ever more answers that it does not take.
            self.incoming.pauseProducing()
        elif self.incoming.paused:
            # The connection has stopped to read, for requests ahead or for a body that nobody took.
            self.incoming.resumeProducing()
        self._advance()

    @property
    def awaits_flush(self) -> bool:
        """Whether a report to :meth:`when_flushed` is due."""
        return self._flush is not None and not self._flush.done

    def when_flushed(self, report: Callable[[bool], None]) -> None:
        """Call ``report`` once with whether everything written so far reached the operating system.

        True: the operating system has it. False: the connection was lost before.
        """
        if self.all_sent:
            report(True)
            return
        if self._flush is None or self._flush.done:
            self._flush = FlushWatch(self.site.reactor, self.transport, self, self.held)
        self._flush.add(report)
        self._flush.write_now()

    # Closing

    def loseConnection(self) -> None:
        """Close the connection once everything written has been sent.

        It is aborted if the client receives nothing for ``close_timeout`` seconds.
        """
        self._end_deadline()
        self._sender.stop()
        # A transport with a producer would not close.
        self.transport.unregisterProducer()
        if self.incoming.paused:
            # Over TLS, the client has to agree.
            self.incoming.resumeProducing()
        self.transport.loseConnection()
        if self._flush is not None and not self._flush.done:
            self._flush.connection_closes()
        if not self._parting:
            self._parting = True
            self._close.start(self.site.close_timeout)

    def abort_when_flushed(self) -> None:
        """Abort the connection once everything written has been sent, or as :meth:`loseConnection` does."""
        self._close.start(self.site.close_timeout)
        self.when_flushed(lambda flushed: self.abort() if flushed else None)

    def abort(self) -> None:
        """Close the connection at once. What has not left is dropped."""
        self._sender.stop()
        self.transport.abortConnection()

    def close_when_answered(self) -> None:
        """Answer the requests that have been sent, then close the connection.

        A client that has not read ``Connection: close`` yet may have a request on its way, so an idle connection stays
        open for :data:`QUIET` seconds.
        """
        self._await_quiet()
        if self._requests and not self._requests[0].startedWriting:
            self.persistent = False

    def _await_quiet(self) -> None:
        cancel_timer(self._closing)
        self._closing = self.site.reactor.callLater(QUIET, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._requests:
            self.loseConnection()
