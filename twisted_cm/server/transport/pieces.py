"""How a long answer that is in memory is written: a piece at a time, as fast as the client takes it."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer

from ...broker.flow import ResultReader

#: The most bytes that are written at once.
PIECE = 64 * 1024


class _Pieces(ResultReader):
    """Writes parts of an answer to a consumer, one after the other."""

    def __init__(self, parts: Sequence[bytes], consumer: IConsumer) -> None:
        super().__init__(consumer)
        self._rest = [memoryview(part) for part in reversed(parts)]
        self._pumping = False

    def attach(self) -> None:
        pass

    def detach(self) -> None:
        self._rest.clear()

    def pump(self) -> None:
        # A consumer may call resumeProducing() while it is being written to.
        if self._pumping:
            return
        self._pumping = True
        while self._rest and not self._paused:
            part = self._rest.pop()
            if len(part) > PIECE:
                self._rest.append(part[PIECE:])
            self._consumer.write(bytes(part[:PIECE]))
        self._pumping = False
        if not self._rest:
            self.close(True)


def write_pieces(consumer: IConsumer, parts: Sequence[bytes]) -> Deferred[bool]:
    """Write parts to ``consumer`` without a copy of the whole.

    Returns:
        A Deferred that fires after the last byte. It does not fire if the consumer goes away.
    """
    return _Pieces(parts, consumer).start()
