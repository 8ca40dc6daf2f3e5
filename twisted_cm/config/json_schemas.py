"""The JSON Schemas of what users write: seed files, recordings and function schemas."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def load_schema(name: str) -> dict[str, Any]:
    """
    @param name: a file in C{twisted_cm/config/schemas}.
    @return: the JSON Schema in it.
    """
    schema: dict[str, Any] = json.loads(files("twisted_cm.config").joinpath("schemas", name).read_bytes())
    return schema
