"""Which route a request is for, and what happens to what the route returns or raises.

The routes are Klein's. Klein's own resource does more for each request than is needed here: it binds the map of routes
again, it looks for pages and templates in what a route returns, and it runs the coroutine of a route in Deferreds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import CoroutineType
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.routing import Map, ValidationError

from .errors import ApiError
from .route_run import RouteRun
from .routing import App
from .transport.body import BodyLost
from .transport.request import EmulatorRequest

#: The number of paths whose route is remembered.
REMEMBERED = 1024

#: The id that stands for any other at the end of a remembered path.
ANY_ID = "-"

_LAST_ID = re.compile(r"/<id:(\w+)>$")


class Routes:
    """The map of routes, with the routes of recent paths.

    Werkzeug searches its map for each request, which takes a fifth of the CPU of a synchronous job and leaves cyclic
    garbage (see docs/performance.rst). Most paths are requested repeatedly. The path of a result ends with the id of a
    job and is requested once, so the id is left out of the search.
    """

    def __init__(self, url_map: Map) -> None:
        rules = {rule.endpoint: rule.rule for rule in url_map.iter_rules()}
        self._words = {rule.rule.rpartition("/")[2] for rule in url_map.iter_rules()}
        self._last_ids = {endpoint: found[1] for endpoint, path in rules.items() if (found := _LAST_ID.search(path))}
        self._ids = url_map.converters["id"](url_map)
        self._search = lru_cache(REMEMBERED)(url_map.bind("localhost").match)

    def match(self, method: str, path: str) -> tuple[str, Mapping[str, Any]]:
        """Return the endpoint that a request is for, and the arguments of the route.

        Raises:
            HTTPException: No route has this path and method.
        """
        parent, _, last = path.rpartition("/")
        if last and last not in self._words:
            endpoint, arguments = self._search(f"{parent}/{ANY_ID}", method)
            name = self._last_ids.get(endpoint)
            if name is not None:
                try:
                    return endpoint, {**arguments, name: self._ids.to_python(last)}
                except ValidationError:
                    pass
        endpoint, arguments = self._search(path, method)
        return endpoint, arguments


def _let_go(failure: Failure) -> None:
    """Drop the traceback of an error: its frames, which refer to the error, would keep the body of the request."""
    failure.cleanFailure()
    error: BaseException | None = failure.value
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


class Dispatcher:
    """Answers requests with the routes of a listener.

    Attributes:
        app: The routes.
    """

    _log = Logger()

    def __init__(self, app: App, refusal: Callable[[Exception], ApiError]) -> None:
        """Answer nothing yet.

        Args:
            app: The routes.
            refusal: Returns the answer to an exception. It logs unexpected ones.
        """
        self.app = app
        self._handlers = app.handlers
        self._refusal = refusal
        self._routes = Routes(app.url_map)

    def answer(self, request: EmulatorRequest) -> None:
        """Call the route of a request, and write the answer when the route returns it."""
        try:
            endpoint, arguments = self._routes.match(request.method.decode("latin-1"), request.path.decode("latin-1"))
            answer = self._handlers[endpoint](request, **arguments)
        except Exception as error:
            # A coroutine raises later.
            self._answer_error(error, request)
            return
        if isinstance(answer, CoroutineType):
            RouteRun(answer, request, self._answered, self._refused).start()
        else:
            self._answered(answer, request)

    def _answered(self, answer: bytes | None, request: EmulatorRequest) -> None:
        if request.gone:
            return
        try:
            if answer:
                request.write(answer)
            request.finish()
        except Exception:
            self._failed(Failure(), request)

    def _refused(self, failure: Failure, request: EmulatorRequest) -> None:
        ended_early = failure.check(CancelledError, BodyLost)
        if request.gone and ended_early:
            _let_go(failure)
        elif request.gone or request.startedWriting or ended_early or not isinstance(failure.value, Exception):
            self._failed(failure, request)
        else:
            self._answer_error(failure.value, request)
            _let_go(failure)

    def _answer_error(self, error: Exception, request: EmulatorRequest) -> None:
        try:
            answer = request.error(self._refusal(error))
        except Exception:
            self._failed(Failure(), request)
        else:
            self._answered(answer, request)

    def _failed(self, failure: Failure, request: EmulatorRequest) -> None:
        """Break off an answer that has begun. It is too late for an error."""
        self._log.failure("cannot answer {method} {path}", failure, method=request.method, path=request.path)
        _let_go(failure)
        if not request.gone:
            request.break_off()
