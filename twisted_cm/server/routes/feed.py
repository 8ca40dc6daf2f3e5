"""An answer that goes on while there is something to send, at the pace of its client."""

from __future__ import annotations

from abc import ABC, abstractmethod

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from ..transport.request import EmulatorRequest

#: Seconds without news after which something is sent to keep the connection open.
HEARTBEAT = 15.0


@implementer(IPushProducer)
class Feed(ABC):
    """Sends news to one client. What it has not sent waits in the subclass while the client does not read.

    Attributes:
        paused: Whether the client does not read.
    """

    def __init__(self, clock: IReactorTime, request: EmulatorRequest, gather: float) -> None:
        """Begin to send.

        Args:
            clock: The source of time.
            request: The request of the client.
            gather: Seconds for which news are gathered before they are sent.
        """
        self.paused = False
        self._clock = clock
        self._request = request
        self._gather = gather
        request.registerProducer(self, True)
        self._timer: IDelayedCall = clock.callLater(HEARTBEAT, self._send)

    @abstractmethod
    def _take(self) -> bytes:
        """Return what is to be sent now, which then waits no longer; something harmless if there is nothing."""

    def _send_soon(self) -> None:
        self._timer.reset(self._gather)

    def _send(self) -> None:
        self._timer = self._clock.callLater(HEARTBEAT, self._send)
        if not self.paused:
            self._request.write(self._take())

    def close(self) -> None:
        """Send nothing more."""
        self._timer.cancel()
        if not self._request.gone:
            self._request.unregisterProducer()

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self._send_soon()

    def stopProducing(self) -> None:
        # The client is gone, so the route is canceled and closes the feed.
        self.paused = True
