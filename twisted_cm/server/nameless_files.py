"""Files without a name, which hold what is too long for memory.

The worker processes import this module, so it imports little.
"""

from __future__ import annotations

import os
import tempfile
from typing import IO


def nameless_file() -> IO[bytes]:
    """Open a file without a name: in memory where the system offers that, otherwise in the temporary directory."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("twisted-cm"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def write_all(file: IO[bytes], data: bytes | bytearray) -> None:
    """Write bytes to a file without a buffer, which may take a part of them at a time.

    Raises:
        OSError: The file cannot be written.
    """
    with memoryview(data) as rest:
        written = 0
        while written < len(data):
            written += file.write(rest[written:])
