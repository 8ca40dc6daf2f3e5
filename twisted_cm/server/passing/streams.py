"""The bodies of a request that is passed on and of its answer: each flows at the pace of its receiver."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from ..transport.request import EmulatorRequest
from .patience import Patience


@implementer(IBodyProducer, IConsumer)
class PassedBody:
    """The body of a request, on its way to another server.

    Attributes:
        length: The bytes of the body, or :data:`UNKNOWN_LENGTH`.
    """

    def __init__(self, request: EmulatorRequest, patience: Patience) -> None:
        """Take nothing yet.

        Args:
            request: The request.
            patience: Waits while it is the server's turn.
        """
        self.length: Any = UNKNOWN_LENGTH if request.body.length is None else request.body.length
        self._request = request
        self._patience = patience
        self._consumer: Any = None
        self._producer: IPushProducer | None = None
        self._piping: Deferred[None] | None = None
        self._paused = False
        self._stopped = False

    # What Twisted's client calls

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        sent: Deferred[None] = Deferred()

        def ended(result: Any) -> None:
            # The client must hear nothing after it has stopped the body.
            if self._stopped:
                return
            self._patience.start()
            sent.callback(result)

        self._request.take_your_time()
        self._patience.stop()
        piping = self._piping = self._request.body.pipe(self, sys.maxsize)
        piping.addBoth(ended)
        return sent

    def pauseProducing(self) -> None:
        self._paused = True
        self._patience.start()
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        self._patience.stop()
        if self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        if not self._stopped:
            self._stopped = True
            if self._piping is not None:
                self._piping.cancel()

    # What the body of the request calls

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        if self._paused:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        if not self._stopped:
            self._consumer.write(data)


class PassedAnswer(Protocol):
    """The body of an answer, on its way to the caller.

    Attributes:
        ended: Fires with whether all of it was written. To cancel it aborts the connection to the server.
    """

    transport: Any

    def __init__(self, request: EmulatorRequest) -> None:
        self.ended: Deferred[bool] = Deferred(lambda _: self.transport.stopProducing())
        self._request = request

    def connectionMade(self) -> None:
        self._request.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        if not self._request.gone:
            self._request.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._request.gone:
            self._request.unregisterProducer()
        if not self.ended.called:
            # An answer of unknown length ends with its connection.
            self.ended.callback(reason.check(ResponseDone, PotentialDataLoss) is not None)
