"""Commands that write and check seed files."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

import click

from ..config.found_seed import NAMES, find_seed
from ..config.seed import read_seed
from ..config.seed_file import InvalidSeed


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("seed.yaml"))
def init(file: Path) -> None:
    """Write a starter seed file.

    The seed is written to FILE, or to seed.yaml. Comments in it explain each entry.

    \b
    Examples:
      twisted-cm init
      twisted-cm init staging.yaml
    """
    try:
        with file.open("xb") as written:
            written.write(files("twisted_cm.config").joinpath("starter.yaml").read_bytes())
    except FileExistsError:
        raise click.ClickException(f"{file} already exists. Choose another file name.") from None
    except OSError as error:
        raise click.ClickException(f"Cannot write {file}: {error.strerror}. Choose another file name.") from None
    named = "" if str(file) in NAMES else f" --seed {shlex.quote(str(file))}"
    click.echo(f"Wrote {file}. Start with: twisted-cm serve{named}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
def check(file: Path | None) -> None:
    """Check a seed file for mistakes.

    If 'serve' would refuse FILE, every mistake is printed with its line, and the exit status is 1. Without FILE, the
    file twisted-cm.yaml or seed.yaml of the current directory is checked.

    \b
    Examples:
      twisted-cm check seed.yaml
    """
    file = file or find_seed()
    if file is None:
        raise click.UsageError(f"There is no {' or '.join(NAMES)} here. Name a file.")
    try:
        seed = read_seed(file)
    except InvalidSeed as error:
        raise click.ClickException(str(error)) from None
    for warning in seed.warnings:
        click.echo(f"{file}: {warning}", err=True)
    click.echo(f"{file}: {len(seed.runtimes)} runtimes, {len(seed.bindings)} deployed apps, {len(seed.tokens)} tokens")
