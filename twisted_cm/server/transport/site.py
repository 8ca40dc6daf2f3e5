"""The protocol factory of a listener."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http import Request as HTTPRequest
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource
from twisted.web.server import Site

from ..browsers import BrowserGuard
from .channel import EmulatorChannel
from .request import EmulatorRequest
from .timers import cancel_timer

#: Seconds in which the headers of a request that has begun must be there.
HEAD_TIMEOUT = 10.0


#: Seconds in which a body must be there, unless its route takes its time: that of a result does.
BODY_TIMEOUT = 60.0


#: Seconds that a client may take to receive what was written before its connection was closed.
CLOSE_TIMEOUT = 60.0


#: Seconds in which a client must take something of the answer that waits for it.
STALL_TIMEOUT = 120.0


class EmulatorSite(Site):
    """
    A L{Site} over one resource, which does all the routing.

    @ivar channels: the connections that are open.
    @ivar guard: looks at each request before it is routed.
    @ivar count_error: called with the name of each error that is answered.
    """

    head_timeout = HEAD_TIMEOUT
    body_timeout = BODY_TIMEOUT
    close_timeout = CLOSE_TIMEOUT
    stall_timeout = STALL_TIMEOUT

    protocol = EmulatorChannel  # type: ignore[assignment]
    noisy = False

    def __init__(
        self, resource: IResource, guard: BrowserGuard, reactor: IReactorTime, count_error: Callable[[str], None]
    ) -> None:
        super().__init__(resource, requestFactory=EmulatorRequest, reactor=reactor)  # type: ignore[no-untyped-call]
        self.guard = guard
        self.count_error = count_error
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

        return drained.addCallback(lambda _: cancel_timer(cut))

    def _cut_off(self) -> None:
        for channel in list(self.channels):
            channel.transport.abortConnection()

    def log(self, request: HTTPRequest) -> None:
        """No line for each request: the broker logs what happens to jobs."""
