"""Offsets at which the writer of a result ended a chunk, as a set of bits."""

from __future__ import annotations

import re

_NOT_ZERO = re.compile(rb"[^\0]")

#: For each byte the positions of its bits that are set.
_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


class NotedEnds:
    """A set of offsets. It takes one bit for each byte up to the last offset, however many there are.

    Attributes:
        bits: The set: bit ``n % 8`` of byte ``n // 8`` says whether the offset ``n + 1`` is in it, so that a part of a
            result has the same part of the bits.
    """

    __slots__ = ("bits",)

    def __init__(self, bits: bytes = b"") -> None:
        self.bits = bytearray(bits)

    def add(self, offset: int) -> None:
        """Add an offset, which is greater than 0."""
        place, bit = divmod(offset - 1, 8)
        missing = place + 1 - len(self.bits)
        if missing > 0:
            self.bits += bytes(missing)
        self.bits[place] |= 1 << bit

    def between(self, start: int, end: int) -> list[int]:
        """Return the offsets that are greater than ``start`` and at most ``end``, in order."""
        found = [
            place.start() * 8 + bit + 1
            for place in _NOT_ZERO.finditer(self.bits, start // 8, (end + 7) // 8)
            for bit in _BITS[place.group()[0]]
        ]
        # Only the first and the last byte can hold others.
        return [offset for offset in found if start < offset <= end]
