"""One party that waits."""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .interface import BrokerError

T = TypeVar("T")


class Parked(Generic[T]):
    """
    One party that waits: a Deferred on a shelf, with at most one timer.

    The shelf fires it, exactly once; its deadline fires it with C{lapsed};
    cancelling the Deferred takes it off the shelf.
    """

    __slots__ = ("_key", "_shelf", "_shelves", "_timer", "deferred")

    def __init__(
        self,
        clock: IReactorTime,
        shelf: dict[int, Parked[T]],
        wait: float,
        lapsed: T,
        shelves: dict[str, dict[int, Parked[T]]] | None = None,
        key: str = "",
    ) -> None:
        """
        @param shelves: what to take C{shelf} out of, under C{key}, once it is empty.
        """
        self.deferred: Deferred[T] = Deferred(self._vanish)
        self._shelf = shelf
        self._shelves = shelves
        self._key = key
        self._timer: IDelayedCall = clock.callLater(wait, self.fire, lapsed)
        shelf[id(self)] = self

    def _vanish(self, deferred: Deferred[T]) -> None:
        self._leave()

    def _leave(self) -> None:
        del self._shelf[id(self)]
        if not self._shelf and self._shelves is not None:
            del self._shelves[self._key]
        if self._timer.active():
            self._timer.cancel()

    def fire(self, value: T) -> None:
        self._leave()
        self.deferred.callback(value)

    def fail(self, error: BrokerError) -> None:
        self._leave()
        self.deferred.errback(error)


def fire_all(shelf: dict[int, Parked[T]] | None, value: T) -> None:
    """Answer everybody on a shelf; a shelf that nobody needed does not exist."""
    for parked in list(shelf.values()) if shelf else ():
        parked.fire(value)
