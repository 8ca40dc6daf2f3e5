"""Observers of a broker's changes."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ..model.jobs import Job
from .interface import Change, Observer


class Observers:
    """The observers of one broker."""

    def __init__(self) -> None:
        self._observers: dict[Deferred[None], Observer] = {}
        # Those that hear only of steps that are taken through this process.
        self._only_here: set[Deferred[None]] = set()

    @property
    def everywhere(self) -> bool:
        """Whether any of them hears of the steps of other processes, too."""
        return len(self._observers) > len(self._only_here)

    def add(self, observer: Observer, only_here: bool = False) -> Deferred[None]:
        """Add an observer.

        Args:
            only_here: Whether it hears only of steps that are taken through this process.

        Returns:
            A Deferred that :meth:`end` fires. To cancel it removes the observer.
        """
        observing: Deferred[None] = Deferred(self.remove)
        self._observers[observing] = observer
        if only_here:
            self._only_here.add(observing)
        return observing

    def remove(self, observing: Deferred[None]) -> None:
        """Remove an observer whose Deferred was canceled."""
        del self._observers[observing]
        self._only_here.discard(observing)

    def notify(
        self,
        runtime_id: str,
        job: Job | None = None,
        forgotten: bool = False,
        missed: bool = False,
        here: bool = True,
    ) -> None:
        """Call each observer with a :class:`Change`; if another process took the step, only those that hear of it."""
        if self._observers:
            change = Change(runtime_id, job, forgotten, missed)
            heard = [each for observing, each in self._observers.items() if here or observing not in self._only_here]
            for observer in heard:
                observer(change)

    def end(self) -> None:
        """Remove all observers and fire their Deferreds."""
        observing, self._observers = list(self._observers), {}
        self._only_here.clear()
        for each in observing:
            each.callback(None)
