"""Servers on Node's own HTTP server, which show what a job would cost elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
from floor import Floor

SCRIPT = Path(__file__).with_suffix(".mjs")


class Elsewhere(Floor):
    """A Node process that answers until it is closed."""

    def __init__(self, kind: str) -> None:
        """Start the server.

        Args:
            kind: ``constant``, or ``timer`` for a small emulator that looks for jobs every 10 ms.
        """
        node = shutil.which("node")
        if node is None:
            raise click.ClickException("Node.js is not on the PATH. Install version 18 or later, then try again.")
        self.start([node, str(SCRIPT), kind])
