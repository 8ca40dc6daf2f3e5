"""Callers and polls that wait."""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .interface import BrokerError

T = TypeVar("T")


class Parked(Generic[T]):
    """One caller or poll that waits: a Deferred on a shelf, with a deadline.

    A shelf is a dictionary of parked callers or polls. The Deferred is fired once: by :meth:`fire` or :meth:`fail`, or
    at the deadline. To cancel it takes it off the shelf.

    Attributes:
        deferred: What the caller or poll waits for.
    """

    __slots__ = ("_key", "_number", "_shelf", "_shelves", "_timer", "deferred")

    def __init__(
        self,
        clock: IReactorTime,
        shelf: dict[int, Parked[T]],
        wait: float,
        at_deadline: T,
        shelves: dict[str, dict[int, Parked[T]]] | None = None,
        key: str = "",
        number: int | None = None,
    ) -> None:
        """Put a new Deferred on a shelf.

        Args:
            clock: The source of time.
            shelf: Where to put it.
            wait: Seconds until the deadline.
            at_deadline: The result at the deadline.
            shelves: The dictionary that holds ``shelf`` under ``key``. An empty shelf is removed from it.
            key: The key of ``shelf``.
            number: Its key on the shelf; by default one that no other has.
        """
        self.deferred: Deferred[T] = Deferred(self._cancel)
        self._shelf = shelf
        self._shelves = shelves
        self._key = key
        self._timer: IDelayedCall = clock.callLater(wait, self.fire, at_deadline)
        self._number = id(self) if number is None else number
        shelf[self._number] = self

    def _cancel(self, deferred: Deferred[T]) -> None:
        self._leave()

    def _leave(self) -> None:
        del self._shelf[self._number]
        if not self._shelf and self._shelves is not None:
            del self._shelves[self._key]
        if self._timer.active():
            self._timer.cancel()

    def fire(self, value: T) -> None:
        """Take it off the shelf and answer it."""
        self._leave()
        self.deferred.callback(value)

    def fail(self, error: BrokerError) -> None:
        """Take it off the shelf and answer it with an error."""
        self._leave()
        self.deferred.errback(error)


def fire_all(shelf: dict[int, Parked[T]] | None, value: T) -> None:
    """Answer everything on a shelf. ``None`` is a shelf that does not exist, because nothing waits."""
    for parked in list(shelf.values()) if shelf else ():
        parked.fire(value)
