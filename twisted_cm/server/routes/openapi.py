"""The description of the routes in OpenAPI 3.1, kept in C{server/openapi.yaml}."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

import yaml
from klein import Klein

from ... import __version__
from ...model.types import JSONValue
from ..transport.request import EmulatorRequest


class OpenAPIRoute:
    """The one route that answers with the description of all."""

    def register(self, app: Klein) -> None:
        """Put the route on C{app}."""
        app.route("/openapi.json", methods=["GET"])(self.describe)

    def describe(self, request: EmulatorRequest) -> bytes:
        """C{GET /openapi.json}."""
        return request.answer(_serialized(), "application/json")


def load_description() -> JSONValue:
    """
    @return: the description, as JSON.
    """
    description = yaml.safe_load(files("twisted_cm.server").joinpath("openapi.yaml").read_bytes())
    description["info"]["version"] = __version__
    return description


@lru_cache
def _serialized() -> bytes:
    # Read when somebody asks for the first time: it would make every start slower.
    return json.dumps(load_description()).encode("ascii")
