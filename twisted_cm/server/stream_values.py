"""Reading the JSON values of a result one at a time, also while a module still posts it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from ..broker.interface import UnknownJob
from ..model.jobs import JobResult
from ..model.json_values import ValueScanner, Wants

#: A complete result of no more bytes is read at once, before its job can be forgotten.
READ_AT_ONCE = 64 * 1024

#: Bytes that are looked at before other work has its turn. Brackets alone take a few microseconds each.
SLICE = 16 * 1024

#: Bytes whose noted ends are asked for at once.
ENDS_AT_ONCE = 64 * 1024

#: A value counts as so many bytes more, for the work that it makes.
VALUE_COST = 64


class BrokenOff(Exception):
    """The result ends before it is complete."""


@implementer(IConsumer)
class ValueStream:
    """The JSON values of a result, each as the bytes that the module posted.

    A result holds one value after another, separated by white space or not. Where numbers touch, they are told apart by
    the ends of the chunks in which the module posted them. While no value is asked for, the delivery of the result is
    paused, and with it the post of a module that is much faster. Memory is bounded by the largest value.

    Close a stream that is not read to its end: it would hold up the module.
    """

    def __init__(self, result: JobResult, reactor: IReactorTime) -> None:
        """Begin to follow a result.

        Args:
            result: The result, complete or not.
            reactor: Gives other work its turn while long results are read.
        """
        self._result = result
        self._reactor = reactor
        self._scanner = ValueScanner(marked=True)
        self._spent = 0
        # What was delivered and not given to the scanner yet.
        self._delivered = memoryview(b"")
        self._producer: IPushProducer | None = None
        self._asking: Deferred[None] | None = None
        # Whether the end of the result has been delivered: None is not yet, False is that it broke off.
        self._whole: bool | None = None
        self._error: Exception | None = None
        self._closed = False
        self._delivery = Deferred.fromCoroutine(self._deliver())

    async def next(self) -> bytes | None:
        """Return the next value as soon as it is complete; ``None`` at the end. Await one call before the next.

        To cancel it closes the stream, and so does an error.

        Raises:
            BrokenOff: The result ends before it is complete. The values before have been returned.
            ValueError: What follows the values that have been returned is not JSON in UTF-8.
            BrokerUnavailable: The result cannot be read.
        """
        try:
            while not self._closed:
                if self._spent >= SLICE:
                    self._spent = 0
                    await deferLater(self._reactor, 0)
                found = self._scanner.find()
                if isinstance(found, bytes):
                    self._spent += VALUE_COST
                    return found
                if found is Wants.ENDS:
                    await self._ask_for_ends()
                elif not await self._scan_more():
                    self.close()
        except BaseException:
            self.close()
            raise
        return None

    def close(self) -> None:
        """Stop the delivery. Then there are no more values."""
        self._closed = True
        self._delivered = memoryview(b"")
        self._delivery.cancel()
        self._answer()

    async def _ask_for_ends(self) -> None:
        start = self._scanner.ends_wanted
        end = min(start + ENDS_AT_ONCE, self._scanner.received + len(self._delivered))
        try:
            self._scanner.note_ends(await self._result.ends(start, end), end)
        except UnknownJob:
            raise BrokenOff from None

    async def _scan_more(self) -> bool:
        """Give more bytes to the scanner. Return ``False`` at the end."""
        if not self._delivered and self._whole is None:
            await self._more()
        if self._delivered:
            piece, self._delivered = bytes(self._delivered[:SLICE]), self._delivered[SLICE:]
            self._spent += len(piece)
            self._scanner.add(piece)
            return True
        if self._error is not None:
            raise self._error
        if self._whole is False:
            raise BrokenOff
        if self._whole and not self._scanner.final:
            self._scanner.add(b"", final=True)
            return True
        return self._whole is None

    async def _more(self) -> None:
        """Wait until more of the result is delivered, or its end is."""
        self._asking = Deferred()
        if self._producer is not None:
            self._producer.resumeProducing()
        try:
            await self._asking
        finally:
            self._asking = None

    def _answer(self) -> None:
        if self._asking is not None and not self._asking.called:
            self._asking.callback(None)

    # The delivery

    async def _deliver(self) -> None:
        result = self._result
        try:
            if result.complete and result.size <= READ_AT_ONCE:
                self._delivered = memoryview(await result.read(0, result.size))
                self._whole = True
            else:
                self._whole = await result.deliver(self)
        except CancelledError:
            return
        except UnknownJob:
            self._whole = False
        except Exception as error:
            self._whole, self._error = False, error
        self._answer()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self._delivered = memoryview(bytes(self._delivered) + data if self._delivered else data)
        if self._producer is not None:
            self._producer.pauseProducing()
        self._answer()
