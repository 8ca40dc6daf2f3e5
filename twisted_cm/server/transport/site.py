"""The protocol factory of a listener, and how its connections end."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolNegotiationFactory, IReactorTime
from twisted.internet.protocol import Factory
from twisted.web.http import datetimeToString
from zope.interface import implementer

from ...broker.timers import cancel_timer
from .channel import EmulatorChannel
from .interface import Answerer, Guard
from .request import EmulatorRequest

#: Seconds that an idle connection stays open.
IDLE_TIMEOUT = 60.0

#: Seconds within which the headers of a request must arrive, from its first byte.
HEAD_TIMEOUT = 10.0

#: Seconds within which a body must arrive, except that of a result.
BODY_TIMEOUT = 60.0

#: Seconds within which a client must receive part of what is left when its connection closes.
CLOSE_TIMEOUT = 60.0

#: Seconds within which a client must receive part of an answer.
STALL_TIMEOUT = 120.0


@implementer(IProtocolNegotiationFactory)
class EmulatorSite(Factory):
    """The protocol factory of a listener.

    Attributes:
        answerer: Answers each request that the guard admits.
        guard: Checks each request before it is routed.
        reactor: The source of time.
        count_error: Called with the name of each error that is answered.
        channels: The open connections.
    """

    idle_timeout = IDLE_TIMEOUT
    head_timeout = HEAD_TIMEOUT
    body_timeout = BODY_TIMEOUT
    close_timeout = CLOSE_TIMEOUT
    stall_timeout = STALL_TIMEOUT

    noisy = False

    def __init__(
        self,
        answerer: Answerer[EmulatorRequest],
        guard: Guard[EmulatorRequest],
        reactor: IReactorTime,
        count_error: Callable[[str], None],
    ) -> None:
        self.answerer = answerer
        self.guard = guard
        self.reactor = reactor
        self.count_error = count_error
        self.channels: set[EmulatorChannel] = set()
        self._drained: Deferred[None] | None = None
        self._second = 0
        self._date = b""

    def buildProtocol(self, addr: IAddress | None) -> EmulatorChannel:
        return EmulatorChannel(self)

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def date(self) -> bytes:
        """Return the value of the ``Date`` header, made once a second."""
        now = int(self.reactor.seconds())
        if now != self._second:
            self._second, self._date = now, datetimeToString(now)
        return self._date

    def joined(self, channel: EmulatorChannel) -> None:
        """Record a new connection."""
        self.channels.add(channel)

    def left(self, channel: EmulatorChannel) -> None:
        """Forget a connection that is lost."""
        self.channels.discard(channel)
        if not self.channels and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def drain(self, grace: float) -> Deferred[None]:
        """Close every connection: one with a request when that is answered, an idle one soon.

        Args:
            grace: Seconds after which the connections that are left are aborted.

        Returns:
            A Deferred that fires when no connection is left.
        """
        if not self.channels:
            return succeed(None)
        drained = self._drained = Deferred()
        cut: IDelayedCall = self.reactor.callLater(grace, self._abort_all)
        for channel in list(self.channels):
            channel.close_when_answered()
        return drained.addCallback(lambda _: cancel_timer(cut))

    def _abort_all(self) -> None:
        for channel in list(self.channels):
            channel.abort()
