"""Type aliases that every room shares."""

from __future__ import annotations

from typing import Any, TypeAlias

#: Any value that JSON can express.
JSONValue: TypeAlias = Any
