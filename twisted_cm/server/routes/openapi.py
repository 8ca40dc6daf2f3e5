"""The description of the routes in OpenAPI 3.1, from ``server/openapi.yaml``."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

import yaml

from ... import __version__
from ...model.types import JSONValue
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest


class OpenAPIRoute:
    """The route that answers with the description of all routes."""

    def register(self, app: App) -> None:
        """Put the route on ``app``."""
        add_routes(app, [("GET", "/openapi.json", self.describe)])

    def describe(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /openapi.json`` with the description."""
        return request.answer(_serialized(), "application/json")


def load_description() -> JSONValue:
    """Return the description, as JSON."""
    text = files("twisted_cm.server").joinpath("openapi.yaml").read_bytes()
    # With libyaml, which PyYAML has on most systems, this takes a tenth of the time.
    description = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    description["info"]["version"] = __version__
    return description


@lru_cache
def _serialized() -> bytes:
    # Loaded at the first request, because it would make every start slower.
    return json.dumps(load_description()).encode("ascii")
