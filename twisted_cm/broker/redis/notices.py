"""Which changes have the other nodes yet to notice?"""

from __future__ import annotations

from collections import Counter

from attrs import define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

#: Seconds that a change waits for every node to notice it. A node that hangs holds it up no longer.
NOTICE = 2.0


@define(eq=False)
class _Notice:
    """A change that other nodes have yet to notice.

    Attributes:
        version: The version of the registry and the faults that the change made.
        receivers: The number of nodes that were told.
        done: Fires when all of them have noticed it.
    """

    version: int
    receivers: int
    done: Deferred[None]


class Notices:
    """The changes of this node that other nodes have yet to notice."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._pending: list[_Notice] = []
        self._seen_by: Counter[int] = Counter()

    def seen(self, version: int) -> None:
        """Count one more node that has noticed a change."""
        # This may come before the answer to the operation that made the change, so versions are counted in any case.
        self._seen_by[version] += 1
        for each in list(self._pending):
            if self._seen_by[each.version] >= each.receivers:
                self._forget(each)
                each.done.callback(None)

    def expect(self, version: int, receivers: int) -> Deferred[None]:
        """Return a Deferred that fires when all receivers have noticed a change, after ``NOTICE`` seconds at most."""
        if self._seen_by[version] >= receivers:
            del self._seen_by[version]
            return succeed(None)
        notice = _Notice(version, receivers, Deferred(lambda _: self._forget(notice)))
        self._pending.append(notice)
        return notice.done.addTimeout(NOTICE, self._clock, lambda result, timeout: None)

    def _forget(self, notice: _Notice) -> None:
        self._pending.remove(notice)
        del self._seen_by[notice.version]

    def clear(self) -> None:
        """Wait for no node any more: after the connection is lost, no notice arrives."""
        self._seen_by.clear()
        pending, self._pending = self._pending, []
        for each in pending:
            each.done.callback(None)
