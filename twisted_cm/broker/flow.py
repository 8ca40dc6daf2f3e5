"""How results flow: neither the writer nor a reader is much faster than the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer


class PacedWriter(ABC):
    """The producer side of a result: pauses the producer of its bytes while the result is behind.

    The producer is usually the transport of the runtime's post.
    """

    __slots__ = ("_paused", "_producer")

    def __init__(self) -> None:
        self._producer: IPushProducer | None = None
        self._paused = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        self._paused = False

    def unregisterProducer(self) -> None:
        self._producer = None

    @abstractmethod
    def is_behind(self) -> bool:
        """Return whether the producer must wait."""

    def balance(self) -> None:
        """Pause the producer if the result is behind; resume it otherwise."""
        if self._producer is None:
            return
        behind = self.is_behind()
        if behind and not self._paused:
            self._paused = True
            self._producer.pauseProducing()
        elif self._paused and not behind:
            self._paused = False
            self._producer.resumeProducing()


@implementer(IPushProducer)
class ResultReader(ABC):
    """Copies one result to a consumer at the consumer's pace, and follows the result while it is being posted.

    Attributes:
        offset: The number of bytes copied so far.
    """

    def __init__(self, consumer: IConsumer) -> None:
        self.offset = 0
        self._consumer = consumer
        self._paused = False
        self._closed = False
        self._done: Deferred[bool] = Deferred(lambda _: self.stopProducing())

    def start(self) -> Deferred[bool]:
        """Start to copy. Call this once.

        Returns:
            A Deferred that fires with ``True`` after the last byte and with ``False`` if the result was aborted.
            It does not fire after :meth:`stopProducing`, by which the consumer says that it went away.
        """
        self.attach()
        self._consumer.registerProducer(self, True)
        self.pump()
        return self._done

    @abstractmethod
    def attach(self) -> None:
        """Ask the result to call this reader when it grows or ends."""

    @abstractmethod
    def detach(self) -> None:
        """Undo :meth:`attach`."""

    @abstractmethod
    def pump(self) -> None:
        """Copy the next bytes, unless the reader is paused or closed; close it at the end of the result."""

    def close(self, whole: bool) -> None:
        """Report the end of the result to the consumer, once."""
        if not self._closed:
            self.stopProducing()
            self._consumer.unregisterProducer()
            self._done.callback(whole)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self.pump()

    def stopProducing(self) -> None:
        self._closed = True
        self.detach()
