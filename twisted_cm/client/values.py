"""How to find JSON values in a stream of bytes, as Python values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from ..model.json_values import ValueScanner
from ..model.types import JSONValue


class ValueParser:
    """Find and decode JSON values in bytes that arrive in chunks.

    A large value is decoded once, when its end has arrived.
    """

    def __init__(self, object_pairs_hook: Callable[[list[tuple[str, JSONValue]]], JSONValue] | None = None) -> None:
        """Make a parser.

        Args:
            object_pairs_hook: Makes the value of each object, as in ``json.loads``.
        """
        self._json = json.JSONDecoder(object_pairs_hook=object_pairs_hook)
        self._scanner = ValueScanner()

    def feed(self, data: bytes, final: bool = False) -> Iterator[JSONValue]:
        """Yield the values that are complete after these bytes.

        A number at the end of the bytes is complete only if ``final`` is set.

        Args:
            final: Whether no more bytes follow.

        Raises:
            ValueError: What follows the yielded values is not JSON in UTF-8, or the last value is incomplete.
        """
        self._scanner.add(data, final)
        while isinstance(found := self._scanner.find(), bytes):
            value, _ = self._json.raw_decode(found.decode("utf-8"))
            yield value
