"""The ``Idempotency-Key`` header, by which a submission that is sent again is known again."""

from __future__ import annotations

from hashlib import sha256

from . import errors
from .transport.request import EmulatorRequest

HEADER = "Idempotency-Key"

#: The most characters of a key.
LONGEST_KEY = 255


def submission_key(request: EmulatorRequest, caller: str) -> str | None:
    """Return what identifies a submission of a caller, or ``None`` if the caller sent no key.

    It is a digest of the key and the caller, so the keys of one caller mean nothing for another.

    Args:
        caller: Who submits, in a form that no other caller has.

    Raises:
        ApiError: 400 if the header is not a key.
    """
    keys = request.header_values(HEADER)
    if not keys:
        return None
    if len(keys) > 1:
        raise errors.invalid_request(f"The request has {len(keys)} {HEADER} headers. Send one.", header=HEADER)
    (key,) = keys
    if not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise errors.invalid_request(
            f"The {HEADER} header must have 1 to {LONGEST_KEY} printable ASCII characters.", header=HEADER
        )
    return sha256(f"{caller}\0{key}".encode()).hexdigest()
