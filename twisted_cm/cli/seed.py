"""Commands that write and check seed files."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

import click

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
    click.echo(f"Wrote {file}. Start with: twisted-cm serve --seed {shlex.quote(str(file))}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check a seed file for mistakes.

    If 'serve' would refuse FILE, every mistake is printed with its line, and the exit status is 1.

    \b
    Examples:
      twisted-cm check seed.yaml
    """
    try:
        seed = read_seed(file)
    except InvalidSeed as error:
        raise click.ClickException(str(error)) from None
    for warning in seed.warnings:
        click.echo(f"{file}: {warning}", err=True)
    click.echo(f"{file}: {len(seed.runtimes)} runtimes, {len(seed.bindings)} deployed apps, {len(seed.tokens)} tokens")
