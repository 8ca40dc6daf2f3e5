"""The JSON Schemas of seed files, function schemas and recordings."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def load_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema in a file of ``twisted_cm/config/schemas``."""
    schema: dict[str, Any] = json.loads(files("twisted_cm.config").joinpath("schemas", name).read_bytes())
    return schema
