"""How a route answers a request: its coroutine runs until it waits, and goes on when what it waits for is there."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .transport.request import EmulatorRequest

#: The coroutine of a route. It returns the rest of the answer.
RouteCoroutine: TypeAlias = "Coroutine[Deferred[Any], object, bytes | None]"


class RouteRun:
    """The coroutine of a route at work on one request.

    Twisted's ``ensureDeferred`` does the same with a Deferred and a context for each coroutine, which costs more: see
    docs/performance.rst. A run owns no Deferred. Each that the route waits for is fired by its owner,
    and canceled if the client disconnects.
    """

    __slots__ = ("_awaited", "_canceled", "_coroutine", "_raised", "_request", "_returned")

    def __init__(
        self,
        coroutine: RouteCoroutine,
        request: EmulatorRequest,
        returned: Callable[[bytes | None, EmulatorRequest], None],
        raised: Callable[[Failure, EmulatorRequest], None],
    ) -> None:
        """Run nothing yet.

        Args:
            coroutine: The route.
            request: The request that it answers.
            returned: Called with what the route returns.
            raised: Called with what it raises. When the route ends, one of the two is called, once.
        """
        self._coroutine = coroutine
        self._request = request
        self._returned = returned
        self._raised = raised
        # What the route waits for now.
        self._awaited: Deferred[Any] | None = None
        # Whether it is to be canceled as soon as it waits.
        self._canceled = False

    def start(self) -> None:
        """Run the route until it ends or waits. If the client disconnects, the request cancels it."""
        self._request.answering = self
        self._go_on(None)

    def cancel(self) -> None:
        """Cancel what the route waits for, now or the next time that it waits."""
        if self._awaited is None:
            self._canceled = True
        else:
            self._awaited.cancel()

    def _go_on(self, result: object) -> None:
        """Run until the route ends or waits. It does not wait for a Deferred that has fired: ``await`` returns at once.

        Args:
            result: The result of what it has waited for.
        """
        self._awaited = None
        try:
            if isinstance(result, Failure):
                awaited = result.throwExceptionIntoGenerator(self._coroutine)
            else:
                awaited = self._coroutine.send(None)
        except StopIteration as end:
            answer = end.value
        except BaseException:
            self._request.answering = None
            # Not in a variable: the traceback has this frame, so the failure would be in a reference cycle.
            self._raised(Failure(), self._request)
            return
        else:
            self._awaited = awaited
            awaited.addBoth(self._go_on)
            if self._canceled:
                self._canceled = False
                awaited.cancel()
            return
        # The request and its run would keep each other.
        self._request.answering = None
        self._returned(answer, self._request)
