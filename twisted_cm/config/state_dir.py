"""The directory for certificates and the files of runtimes.

This module imports little, so that commands that only need the directory start fast.
"""

from __future__ import annotations

import os
import tempfile
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
