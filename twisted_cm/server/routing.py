"""How paths lead to routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from klein import Klein
from werkzeug.routing import BaseConverter, ValidationError


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


def new_app() -> Klein:
    """Return a Klein application without routes, for paths with ``<id:name>`` in them or ``<rest:name>`` at the end."""
    app = Klein()
    app.url_map.converters["id"] = IdConverter
    app.url_map.converters["rest"] = RestConverter
    app.url_map.merge_slashes = False
    return app


def add_routes(app: Klein, routes: Iterable[tuple[str, str, Callable[..., Any]]], **defaults: str) -> None:
    """Put routes on ``app``.

    Args:
        routes: The method, path and handler of each.
        defaults: Arguments of the handlers that are not in the paths.
    """
    for method, path, handler in routes:
        # Klein's own name for a route is that of its handler, which two groups of routes may have in common.
        app.route(path, methods=[method], endpoint=f"{method} {path}", defaults=defaults or None)(handler)
