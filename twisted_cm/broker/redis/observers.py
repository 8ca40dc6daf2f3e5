"""Who observes changes through this node?"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ..interface import Change, Observer
from .connection import ignore_outage
from .node import RedisNode
from .records import JobRecords
from .values import text


class Observers:
    """The observers of this node. Redis publishes changes to the node only while it has any."""

    def __init__(self, node: RedisNode, records: JobRecords) -> None:
        self._node = node
        self._records = records
        self._observers: dict[Deferred[None], Observer] = {}
        node.handlers["change"] = self._changed

    async def attached(self) -> None:
        """Have changes published to this node again."""
        if self._observers:
            await self._node.send("observe", "1")

    def add(self, observer: Observer) -> Deferred[None]:
        """Call ``observer`` with each change: see :meth:`.IBroker.observe`."""
        observing: Deferred[None] = Deferred(self._remove)
        if not self._observers:
            self._publish("1")
        self._observers[observing] = observer
        return observing

    def _remove(self, observing: Deferred[None]) -> None:
        del self._observers[observing]
        if not self._observers:
            self._publish("0")

    def _publish(self, wanted: str) -> None:
        self._node.call("observe", wanted).addErrback(ignore_outage)

    def _changed(self, runtime_id: str, record: list[str] | None, forgotten: bool) -> None:
        change = Change(text(runtime_id), self._records.job(record) if record else None, forgotten)
        for observer in list(self._observers.values()):
            observer(change)

    def stop(self) -> None:
        """End all observations."""
        observing, self._observers = list(self._observers), {}
        for each in observing:
            each.callback(None)
