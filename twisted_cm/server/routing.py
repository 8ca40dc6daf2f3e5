"""How paths lead to routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from klein import Klein
from werkzeug.routing import BaseConverter, Map, ValidationError


class IdConverter(BaseConverter):
    """An id in a path: text that is percent-encoded there, and decoded once."""

    regex = "[^/]+"
    part_isolating = True

    def to_python(self, value: str) -> str:
        """Decode an id.

        Raises:
            ValidationError: The id is not UTF-8 or contains a NUL, so no route matches.
        """
        try:
            decoded = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise ValidationError from None
        if "\0" in decoded:
            raise ValidationError
        return decoded


class RestConverter(BaseConverter):
    """The rest of a path, of any number of segments, empty ones too."""

    regex = ".*"
    part_isolating = False


#: A method, or ``None`` for every method; a path, with ``<id:name>`` in it or ``<rest:name>`` at the end; and the
#: arguments of the handler that are not in the path.
_Rule = tuple[str | None, str, tuple[tuple[str, str], ...]]


class App:
    """The routes of a listener.

    Attributes:
        handlers: The handler of each endpoint.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., Any]] = {}
        self._rules: list[_Rule] = []

    def add(self, method: str | None, path: str, handler: Callable[..., Any], **defaults: str) -> None:
        """Add a route.

        Args:
            method: The method of the requests; ``None`` for every method.
            defaults: Arguments of the handler that are not in the path.
        """
        self._rules.append((method, path, tuple(defaults.items())))
        self.handlers[_endpoint(method, path)] = handler

    @property
    def url_map(self) -> Map:
        """Klein's map of the routes."""
        return self.klein().url_map

    def klein(self) -> Klein:
        """Return a Klein application with the routes."""
        # So Klein binds an application to an instance of the class that it is an attribute of.
        return _compiled(tuple(self._rules)).__get__(self, App)


@lru_cache(16)
def _compiled(rules: tuple[_Rule, ...]) -> Klein:
    """Return a Klein application that looks up its handlers in the :class:`App` that it is bound to.

    Werkzeug takes half a millisecond to compile a rule, so emulators in one process share the compiled rules.
    """
    app = Klein()
    app.url_map.converters["id"] = IdConverter
    app.url_map.converters["rest"] = RestConverter
    app.url_map.merge_slashes = False
    for method, path, defaults in rules:
        endpoint = _endpoint(method, path)
        methods = None if method is None else [method]
        app.route(path, methods=methods, endpoint=endpoint, defaults=dict(defaults) or None)(_caller(endpoint))
    return app


def _endpoint(method: str | None, path: str) -> str:
    # Klein's own name for a route is that of its handler, which two groups of routes may have in common.
    return f"{method or '*'} {path}"


def _caller(endpoint: str) -> Callable[..., Any]:
    def call(app: App, *args: Any, **kwargs: Any) -> Any:
        return app.handlers[endpoint](*args, **kwargs)

    return call


def add_routes(app: App, routes: Iterable[tuple[str, str, Callable[..., Any]]], **defaults: str) -> None:
    """Put routes on ``app``.

    Args:
        routes: The method, path and handler of each.
        defaults: Arguments of the handlers that are not in the paths.
    """
    for method, path, handler in routes:
        app.add(method, path, handler, **defaults)
