"""How long another server may take for an answer."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ...broker.timers import cancel_timer

#: Seconds within which a server must take part of a request, and then begin its answer.
ANSWER_TIMEOUT = 60.0


class Patience:
    """Cancels a request when the server has done nothing for :data:`ANSWER_TIMEOUT` seconds although it was its turn.

    Attributes:
        expired: Whether the request was canceled for that.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.expired = False
        self._clock = clock
        self._asking: Deferred[object] | None = None
        self._timer: IDelayedCall | None = None

    def watch(self, asking: Deferred[object]) -> None:
        """Set what is to be canceled."""
        self._asking = asking

    def start(self) -> None:
        """Wait for the server from now on."""
        self.stop()
        self._timer = self._clock.callLater(ANSWER_TIMEOUT, self._expire)

    def stop(self) -> None:
        """Wait no longer: it is the caller's turn, or the answer has begun."""
        cancel_timer(self._timer)

    def _expire(self) -> None:
        self.expired = True
        if self._asking is not None:
            self._asking.cancel()
