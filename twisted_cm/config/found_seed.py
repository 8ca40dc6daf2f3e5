"""The seed file of the current directory, which commands use unless they are given another one."""

from __future__ import annotations

from pathlib import Path

import click

#: The names of such a file; the first one that is there counts.
NAMES = ("twisted-cm.yaml", "seed.yaml")


def find_seed() -> Path | None:
    """Return the seed file of the current directory, and say on standard error that it is used."""
    for name in NAMES:
        path = Path(name)
        if path.is_file():
            click.echo(f"twisted-cm: using {name}", err=True)
            return path
    return None
