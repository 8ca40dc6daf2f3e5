"""The data files of the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def read_packaged(name: str) -> bytes:
    """
    @param name: a file in C{twisted_cm/schemas}.
    """
    return files("twisted_cm").joinpath("schemas", name).read_bytes()


def load_schema(name: str) -> dict[str, Any]:
    """
    @param name: a file in C{twisted_cm/schemas}.
    @return: the JSON Schema in it.
    """
    schema: dict[str, Any] = json.loads(read_packaged(name))
    return schema
