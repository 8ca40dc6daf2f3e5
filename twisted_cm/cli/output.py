"""How does a command print what it found: as a table, as lines or as JSON?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import click

from ..model.printable import printable
from ..model.types import JSONValue

#: The cells of one row.
Row = Sequence[str]

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "raised": "red",
    "canceled": "yellow",
    "running": "cyan",
    "responsive": "green",
    "busy": "cyan",
    "starting": "yellow",
    "silent": "red",
}


def show_time(milliseconds: int | None) -> str:
    """Format milliseconds since the epoch as a local time."""
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


def show_duration(start: int | None, end: int | None) -> str:
    """Format the time between two moments, given in milliseconds, in seconds."""
    return "-" if start is None or end is None else f"{(end - start) / 1000:.3f} s"


def show_text(value: JSONValue) -> str:
    """Format a value that may be missing."""
    return "-" if value is None else str(value)


def style_state(state: str) -> str:
    """Color the state of a job, padded to the longest state."""
    return click.style(state.ljust(9), fg=_STYLES.get(state))


def print_table(columns: Row, rows: Iterable[Row], nothing: str = "") -> None:
    """Print rows: as a table on a terminal, elsewhere as lines with tabs.

    Args:
        nothing: Printed on a terminal if there are no rows.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    # Importing rich takes 70 ms, and only a terminal needs it.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        click.echo(nothing)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading, *cells in zip(columns, *rows, strict=True):
        # A column that is no wider than its heading gains nothing from folding; the wider ones have to.
        table.add_column(heading, no_wrap=all(len(cell) <= len(heading) for cell in cells))
    for row in rows:
        # A str would be searched for markup, a Text is not.
        table.add_row(*(Text(cell, style=_STYLES.get(cell, ""), overflow="fold") for cell in row))
    Console().print(table)


def print_json(value: JSONValue) -> None:
    """Print a value as JSON in ASCII, so that nothing in it can control a terminal."""
    click.echo(json.dumps(value, indent=2))


def print_list(
    found: list[dict[str, JSONValue]],
    as_json: bool,
    columns: Row,
    row: Callable[[dict[str, JSONValue]], Row],
    nothing: str,
) -> None:
    """Print a list of records, as JSON or with a row for each.

    Args:
        row: Makes the cells of a record's row.
        nothing: Printed on a terminal if the list is empty.
    """
    if as_json:
        print_json(found)
    else:
        print_table(columns, [row(each) for each in found], nothing)
