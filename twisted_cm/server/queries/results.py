"""The result of a job as the API has it: one value, or the array of the values that the function streamed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ...model.json_values import ValueScanner, Wants
from .signature import NotAValue, Signature


def convert_result(signature: Signature, result: bytes, ends: Sequence[int] = (), of_stream: bool = False) -> bytes:
    """Return a result, or one of the values of a stream, as one JSON value.

    Args:
        signature: What the function returns.
        result: The bytes that the module posted.
        ends: Offsets at which one of its values ends, where values touch.
        of_stream: Whether the bytes are one of the values that the function streams.

    Raises:
        NotAValue: The bytes are not JSON values.
    """
    if of_stream:
        return signature.value_of(result, of_stream=True)
    if not ends or ends[0] == len(result):
        # Nearly every result is one value, which is found faster as a whole.
        with suppress(NotAValue):
            if signature.is_whole(result):
                return signature.value_of(result)
    values = split(result, ends)
    if len(values) == 1 and signature.is_whole(values[0]):
        return signature.value_of(values[0])
    if not values and signature.output is signature.elements:
        raise NotAValue("nothing")
    return signature.array_of(values)


def split(result: bytes, ends: Sequence[int] = ()) -> list[bytes]:
    """Return the JSON values in the bytes that a module posted.

    Raises:
        NotAValue: The bytes are something else.
    """
    scanner = ValueScanner(marked=True)
    scanner.add(result, final=True)
    scanner.note_ends(ends, len(result))
    values = []
    try:
        while (found := scanner.find()) is not Wants.BYTES:
            if isinstance(found, bytes):
                values.append(found)
    except ValueError:
        raise NotAValue("something that is not JSON") from None
    return values
