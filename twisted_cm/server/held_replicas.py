"""Replicas that end with the command that runs their process.

``twisted-cm exec`` has a request parked while its module runs. A command that is killed cannot delete its replica, but
its connection closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..broker.interface import BrokerError, IBroker
from ..broker.timers import cancel_timer
from .replica_lookup import find_replica

#: Seconds after the end of its connection within which a command asks again, unless it has gone.
GRACE = 5.0

#: Seconds within which the polls of a killed process end. Their end counts as heard.
_ECHO = 1.0

#: Why a replica ends whose command has gone.
COMMAND_GONE = "the command that ran the replica was killed"


class HeldReplicas:
    """The replicas for which a command has a request parked."""

    def __init__(self, clock: IReactorTime, broker: IBroker) -> None:
        self._clock = clock
        self._broker = broker
        self._holders: Counter[tuple[str, str]] = Counter()
        self._leaving: dict[tuple[str, str], IDelayedCall] = {}
        self._stopped = False

    @contextmanager
    def held(self, runtime_id: str, replica_id: str) -> Iterator[None]:
        """Hold a replica for the time of a request.

        If the connection closes before the request is answered, and no other request comes soon, close the replica. A
        command that does not ask again after an answer may be suspended.
        """
        key = (runtime_id, replica_id)
        self._holders[key] += 1
        cancel_timer(self._leaving.pop(key, None))
        lost = False
        try:
            yield
        except CancelledError:
            lost = True
            raise
        finally:
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                if lost and not self._stopped:
                    self._leaving[key] = self._clock.callLater(GRACE, self._close, key, self._clock.seconds())

    def _close(self, key: tuple[str, str], since: float) -> None:
        del self._leaving[key]
        closing = Deferred.fromCoroutine(self._close_if_silent(*key, since))
        # If the broker cannot be reached, the replica becomes silent.
        closing.addErrback(lambda failure: failure.trap(BrokerError))

    async def _close_if_silent(self, runtime_id: str, replica_id: str, since: float) -> None:
        """Close a replica, unless something was heard of it: the command may have connected to another emulator."""
        found = await find_replica(self._broker, runtime_id, replica_id)
        if found is None or found.replica.gone:
            return
        heard_at = max(found.replica.last_poll_at or 0, found.replica.last_heard_at or 0)
        if not found.parked_polls and heard_at <= (since + _ECHO) * 1000:
            await self._broker.close_replica(runtime_id, replica_id, COMMAND_GONE)

    def stop(self) -> None:
        """Close no more replicas."""
        self._stopped = True
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()
