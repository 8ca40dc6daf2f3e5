"""Refuse times that are not finite numbers: no timer can wait for them."""

from __future__ import annotations

import math
from typing import Any

from attrs import Attribute


def finite(name: str, value: float | None) -> None:
    """Check a number that is given in Python.

    Args:
        name: What it is, for the message.
        value: The number, or ``None`` for no limit.

    Raises:
        ValueError: It is NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{name}: {value} is not a finite number")


def finite_field(instance: object, attribute: Attribute[Any], value: float | None) -> None:
    """Check a field of a record; this is a validator of attrs."""
    finite(attribute.name, value)
