"""Polls with tokens that are not valid, which are answered late.

The SDKs poll again at once and for ever, whatever the answer. A process whose replica is gone would keep the emulator
and itself busy.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..broker.parked import Parked, fire_all
from ..model.replicas import ModuleIdentity
from .logged_once import LoggedOnce

#: Seconds for which such a poll waits for its answer.
HOLD = 1.0


class RefusedPolls:
    """The polls that wait for their refusal. Each replica is logged once, until one of its polls is accepted."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[int, Parked[None]] = {}
        self._logged: LoggedOnce[tuple[str, str]] = LoggedOnce()
        self._stopped = False

    @property
    def waiting(self) -> int:
        """The number of polls that wait."""
        return len(self._waiting)

    def hold(self, runtime_id: str, replica_id: str) -> Deferred[None]:
        """Wait until a poll of a replica may be refused.

        Returns:
            A Deferred that fires after :data:`HOLD` seconds, or when the emulator stops. To cancel it ends the wait.
        """
        if self._logged.is_due((runtime_id, replica_id)):
            self._log.warn(
                "runtime {runtime_id}, replica {replica_id}: a process polls with a token that is not valid;"
                " stop it, or start it again with a new token",
                runtime_id=runtime_id,
                replica_id=replica_id,
            )
        if self._stopped:
            return succeed(None)
        return Parked(self._clock, self._waiting, HOLD, None).deferred

    def accepted(self, identity: ModuleIdentity) -> None:
        """Note that a poll of a replica has been accepted, so that its next refusal is logged again."""
        self._logged.forget((identity.runtime_id, identity.replica_id))

    def stop(self) -> None:
        """Let all polls be refused now."""
        self._stopped = True
        fire_all(self._waiting, None)
