"""The directory for certificates and the files of runtimes.

This module imports little, so that commands that only need the directory start fast.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

#: The option that names the directory; the server and the commands share it.
STATE_DIR_OPTION = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    envvar="TWISTED_CM_STATE_DIR",
    help="Directory for certificates and runtime files.  [default: ~/.local/state/twisted-cm]",
)


def default_state_dir() -> Path:
    """Return ``twisted-cm`` in the user's directory for state (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "twisted-cm"


def make_private_directory(path: Path) -> None:
    """Create a directory and those above it that are missing, for this user only."""
    if not path.is_dir():
        make_private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, so that only one process changes it.

    Raises:
        OSError: The lock cannot be opened, for example because it is a symbolic link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(directory / "lock", flags, 0o600), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read; it appears complete or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
