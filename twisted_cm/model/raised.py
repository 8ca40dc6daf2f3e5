"""Results by which an SDK reports that its function raised (contract section 1).

To the protocol such a job has succeeded. A function that returns the same itself cannot be told apart.
"""

from __future__ import annotations

import json

#: What people see as the status of a job whose function raised.
RAISED = "raised"

#: A result of more bytes is not looked at.
MOST_BYTES = 64 * 1024

#: The most characters of a message that are kept.
MOST_CHARACTERS = 2000

#: How the results begin: those of the Python SDK, of the Python and TypeScript SDKs, and of the Java SDK.
_BEGINNINGS = (b'{"exception":', b'{"error":', b"JobId: ", b"Exception serializing ")

#: What the Java SDK posts before the id of a job if it has no stack trace.
_JAVA_WITHOUT_TRACE = "Exception serializing exception for job, check logs: "


def raised_message(job_id: str, result: bytes, most: int = MOST_CHARACTERS) -> str | None:
    """Return what the function of a job raised, or ``None`` if the result does not report that.

    Args:
        job_id: The job. The Java SDK writes its id before the stack trace.
        result: The whole result.
        most: How many characters of the message to return.
    """
    if not result.startswith(_BEGINNINGS) or len(result) > MOST_BYTES:
        return None
    message = _from_json(result) if result.startswith(b"{") else _from_java(job_id, result)
    if message is None:
        return None
    # Half a surrogate pair can be neither kept nor printed.
    return message[:most].encode("utf-8", "backslashreplace").decode("utf-8")


def first_line(message: str) -> str:
    """Return the part of a message that fits a line: the Python SDK adds a traceback after ``: ``."""
    line = message.strip().partition("\n")[0]
    return line.removesuffix(": Traceback (most recent call last):").strip()


def _from_java(job_id: str, result: bytes) -> str | None:
    first, _, trace = result.decode("utf-8", "replace").partition("\n")
    if first == f"{_JAVA_WITHOUT_TRACE}{job_id}":
        return first
    return trace.strip() if first.strip() == f"JobId: {job_id}" else None


def _from_json(result: bytes) -> str | None:
    try:
        value = json.loads(result)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        return None
    if value.keys() == {"error", "reason"}:
        return f"{value['error']}: {value['reason']}"
    if value.keys() == {"exception"} or value.keys() == {"error"}:
        (message,) = value.values()
        return str(message)
    return None
