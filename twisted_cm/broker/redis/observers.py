"""Observers of changes that are published to this node."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from ..interface import Observer
from ..observers import Observers
from .connection import ignore_outage
from .node import RedisNode
from .records import JobRecords
from .values import text


class NodeObservers(Observers):
    """The observers of this node.

    Its own steps come with the replies of Redis. Redis publishes the steps of others to the node only while it has an
    observer that hears of them: in a group of many nodes, they would be most of what a node reads.
    """

    def __init__(self, node: RedisNode, records: JobRecords) -> None:
        super().__init__()
        self._node = node
        self._records = records
        self._up_before = False
        node.handlers["change"] = self._changed

    def joined(self) -> None:
        """Have changes published to this node again, and tell the observers that they may have missed some.

        Observers may come and go until the node has joined, and ask then for what they have missed.
        """
        if self.everywhere:
            self._publish("1")
        if self._up_before:
            self.notify("", missed=True)
        self._up_before = True

    def add(self, observer: Observer, only_here: bool = False) -> Deferred[None]:
        if not only_here and not self.everywhere:
            self._publish("1")
        return super().add(observer, only_here)

    def remove(self, observing: Deferred[None]) -> None:
        before = self.everywhere
        super().remove(observing)
        if before and not self.everywhere:
            self._publish("0")

    def _publish(self, wanted: str) -> None:
        self._node.call("observe", wanted).addErrback(ignore_outage)

    def _changed(
        self, runtime_id: bytes | str, record: Any, forgotten: int | None, taken_by: bytes | str | None = None
    ) -> None:
        job = self._records.job(record) if record else None
        runtime = text(runtime_id) if job is None else job.runtime_id
        self.notify(runtime, job, bool(forgotten), here=taken_by is None)
