"""The commands for seed files."""

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
    """Write a commented starter seed to FILE (seed.yaml)."""
    try:
        with file.open("xb") as written:
            written.write(files("twisted_cm.config").joinpath("starter.yaml").read_bytes())
    except FileExistsError:
        raise click.ClickException(f"{file} is there already; name another file") from None
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}; name another file") from None
    click.echo(f"Wrote {file}. Start with: twisted-cm serve --seed {shlex.quote(str(file))}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Say whether FILE is a seed that serve would take."""
    try:
        seed = read_seed(file)
    except InvalidSeed as error:
        raise click.ClickException(str(error)) from None
    for warning in seed.warnings:
        click.echo(f"{file}: {warning}", err=True)
    click.echo(f"{file}: {len(seed.runtimes)} runtimes, {len(seed.bindings)} deployed apps, {len(seed.tokens)} tokens")
