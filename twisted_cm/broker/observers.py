"""Observers of a broker's changes."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ..model.jobs import Job
from .interface import Change, Observer


class Observers:
    """The observers of one broker."""

    def __init__(self) -> None:
        self._observers: dict[Deferred[None], Observer] = {}

    def __len__(self) -> int:
        return len(self._observers)

    def add(self, observer: Observer) -> Deferred[None]:
        """Add an observer.

        Returns:
            A Deferred that :meth:`end` fires. To cancel it removes the observer.
        """
        observing: Deferred[None] = Deferred(self.remove)
        self._observers[observing] = observer
        return observing

    def remove(self, observing: Deferred[None]) -> None:
        """Remove an observer whose Deferred was canceled."""
        del self._observers[observing]

    def notify(
        self,
        runtime_id: str,
        job: Job | None = None,
        forgotten: bool = False,
        missed: bool = False,
        here: bool = True,
    ) -> None:
        """Call each observer with a :class:`Change`."""
        if self._observers:
            change = Change(runtime_id, job, forgotten, missed, here)
            for observer in list(self._observers.values()):
                observer(change)

    def end(self) -> None:
        """Remove all observers and fire their Deferreds."""
        observing, self._observers = list(self._observers), {}
        for each in observing:
            each.callback(None)
