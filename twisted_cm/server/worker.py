"""A worker process: does one piece of work after another for the emulator, and ends with it.

It imports little at first, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .json_fields import NotReadable, find_fields
from .nameless_files import write_all

#: Precedes each message: its length.
LENGTH = struct.Struct(">I")

#: Seconds after the time limit of a piece of work in which the emulator should have ended the process.
_GRACE = 2.0

#: The most memory that a worker may use, in bytes.
_MOST_MEMORY = 4 * 1024**3

#: The scheduling priority is lowered by so much: the reactor comes first.
_NICE = 10


def main() -> None:
    """Serve the socket that is the standard input, until its other end is closed."""
    # Ctrl-C goes to every process of the terminal; the emulator ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_the_emulator()
    os.nice(_NICE)
    _limit_memory()
    with socket.socket(fileno=0) as connection:
        connection.sendall(LENGTH.pack(0))
        while True:
            size, descriptors, *_ = socket.recv_fds(connection, LENGTH.size, 1)
            if not size:
                return
            try:
                wanted = json.loads(receive(connection, LENGTH.unpack(size)[0]))
            except ConnectionResetError:
                return
            # The default action of the signal ends the process, even if the work never returns to Python.
            signal.setitimer(signal.ITIMER_REAL, wanted["limit"] + _GRACE)
            try:
                answer = json.dumps(_answer(descriptors[0], wanted)).encode("ascii")
            finally:
                os.close(descriptors[0])
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(LENGTH.pack(len(answer)) + answer)


def receive(connection: socket.socket, size: int) -> bytes:
    """Receive so many bytes, on either side.

    Raises:
        ConnectionResetError: The other process has ended.
    """
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            # Only the emulator shows this. A worker whose emulator ended just ends, too.
            raise ConnectionResetError("the worker process ended")
        received += part
    return received


def _end_with_the_emulator() -> None:
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _limit_memory() -> None:
    import resource

    with suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, most))


def _answer(descriptor: int, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        answer = _WORK[wanted["work"]](text, wanted)
        if isinstance(answer, bytes):
            with open(descriptor, "r+b", buffering=0, closefd=False) as file:
                file.seek(0)
                file.truncate()
                write_all(file, answer)
            return {}
        return answer
    except NotReadable as error:
        return {"refused": str(error), "parameters": error.parameters}
    except MemoryError:
        return {"refused": "It takes too much memory to be checked.", "parameters": {}}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def _find_fields(text: bytes, wanted: dict[str, Any]) -> dict[str, Any]:
    spans = find_fields(text)
    return {"spans": {name: spans[name] for name in wanted["names"] if name in spans}}


def _prepare(_text: bytes, _wanted: dict[str, Any]) -> dict[str, Any]:
    from . import query_validation  # noqa: F401 - the imports take longer than most checks
    from .queries import results  # noqa: F401

    return {}


def _check_query(text: bytes, wanted: dict[str, Any]) -> dict[str, Any]:
    from ..model.runtimes import FunctionSchema
    from .query_validation import UncheckableQuery, check_query

    schema = FunctionSchema("", wanted["schema"], tuple(wanted["issues"]))
    try:
        return {"violations": [[each.pointer, each.message] for each in check_query(schema, text)]}
    except UncheckableQuery as error:
        return {"uncheckable": str(error)}


def _convert_parameters(text: bytes, wanted: dict[str, Any]) -> bytes | dict[str, Any]:
    from .errors import ApiError
    from .queries.signature import signature_of

    try:
        return signature_of(wanted["schema"], tuple(wanted["issues"])).query_of(text, wanted["in_ontology"])
    except ApiError as error:
        return {"error": [error.status, error.error, error.description, error.parameters]}


def _convert_result(text: bytes, wanted: dict[str, Any]) -> bytes | dict[str, Any]:
    from .queries.results import convert_result
    from .queries.signature import UNKNOWN, NotAValue, signature_of

    signature = UNKNOWN if wanted["schema"] is None else signature_of(wanted["schema"], tuple(wanted["issues"]))
    try:
        return convert_result(signature, text, wanted["ends"], wanted["of_stream"])
    except NotAValue as error:
        return {"not a value": str(error)}


#: Each piece of work: it answers with an object, or with bytes that take the place of the text in the file.
_WORK: dict[str, Callable[[bytes, dict[str, Any]], bytes | dict[str, Any]]] = {
    "find fields": _find_fields,
    "convert parameters": _convert_parameters,
    "convert result": _convert_result,
    "prepare": _prepare,
    "check query": _check_query,
}
