"""The data files of the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def read_packaged(directory: str, name: str) -> bytes:
    """
    @param directory: one in C{twisted_cm}.
    @param name: a file in it.
    """
    return files("twisted_cm").joinpath(directory, name).read_bytes()


def load_schema(name: str) -> dict[str, Any]:
    """
    @param name: a file in C{twisted_cm/schemas}.
    @return: the JSON Schema in it.
    """
    schema: dict[str, Any] = json.loads(read_packaged("schemas", name))
    return schema
