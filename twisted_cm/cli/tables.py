"""Tables, lines and JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click

from ..client.api import EmulatorControl
from ..model.types import JSONValue
from .connection_options import caller_options, connection
from .printable import printable
from .reactor import run

P = ParamSpec("P")


#: What one row shows.
Row = Sequence[str]


JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


_STYLES = {"succeeded": "green", "failed": "red", "canceled": "yellow", "running": "cyan"}


def show_time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


def show_seconds(start: int | None, end: int | None) -> str:
    return "-" if start is None or end is None else f"{(end - start) / 1000:.3f} s"


def show_age(since: int, now: float) -> str:
    minutes, seconds = divmod(max(int(now - since / 1000), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def show_text(value: JSONValue) -> str:
    return "-" if value is None else str(value)


def print_table(columns: Row, rows: Iterable[Row], nothing: str = "") -> None:
    """
    Print rows, as a table on a terminal.

    @param nothing: what to say on a terminal when there are none.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        click.echo(nothing)
        return
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # Text has no markup.
        table.add_row(*(Text(cell, style=_STYLES.get(cell, ""), overflow="fold") for cell in row))
    Console().print(table)


def print_json(value: JSONValue) -> None:
    # ASCII, so that nothing in it can control a terminal.
    click.echo(json.dumps(value, indent=2))


def print_list(
    found: list[dict[str, JSONValue]],
    as_json: bool,
    columns: Row,
    row: Callable[[dict[str, JSONValue]], Row],
    nothing: str,
) -> None:
    """Print what an emulator has of one kind, as JSON or in a row for each; C{nothing} is said where it has none."""
    if as_json:
        print_json(found)
    else:
        print_table(columns, [row(each) for each in found], nothing)


def ask(
    work: Callable[[EmulatorControl], Awaitable[None]], token: str, url: str, ca: Path | None, state_dir: Path | None
) -> None:
    async def main(reactor: Any) -> None:
        from ..client.api import EmulatorControl

        async with EmulatorControl(url, token, **connection(reactor, url, ca, state_dir)) as control:
            await work(control)

    run(main)


def asking(command: Callable[P, Callable[[EmulatorControl], Awaitable[None]]]) -> Callable[..., None]:
    """Give a command the options of a caller, and what it returns a server to ask."""

    @wraps(command)
    def wrapper(
        token: str, url: str, ca: Path | None, state_dir: Path | None, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        ask(command(*args, **kwargs), token, url, ca, state_dir)

    return caller_options(wrapper)


def styled(state: str) -> str:
    return click.style(state.ljust(9), fg=_STYLES.get(state))
