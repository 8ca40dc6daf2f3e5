"""How does a command print what it found: as a table, as lines or as JSON?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from datetime import datetime

import click

from ..model.printable import printable
from ..model.types import JSONValue
from .columns import Columns, Row

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def show_time(milliseconds: int | None) -> str:
    """Format milliseconds since the epoch as a local time."""
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


def show_short_time(milliseconds: int | None) -> str:
    """Format milliseconds since the epoch as a time of day, or, if that is not of today, as a day and a time."""
    if milliseconds is None:
        return "-"
    moment = datetime.fromtimestamp(milliseconds / 1000)
    return moment.strftime("%H:%M:%S" if moment.date() == datetime.now().date() else "%m-%d %H:%M")


def show_duration(start: int | None, end: int | None) -> str:
    """Format the time between two moments, given in milliseconds, in seconds."""
    return "-" if start is None or end is None else f"{(end - start) / 1000:.3f} s"


def show_text(value: JSONValue) -> str:
    """Format a value that may be missing."""
    return "-" if value is None else str(value)


def print_json(value: JSONValue) -> None:
    """Print a value as JSON in ASCII, so that nothing in it can control a terminal."""
    click.echo(json.dumps(value, indent=2))


def print_list(
    found: list[dict[str, JSONValue]],
    as_json: bool,
    row: Callable[[dict[str, JSONValue]], Row],
    columns: Columns,
    shown_row: Callable[[dict[str, JSONValue]], Row],
    nothing: str,
) -> None:
    """Print a list of records: as JSON, as lines with tabs and whole values, or on a terminal as a table.

    Args:
        row: Makes the cells of a line.
        columns: The columns of the table.
        shown_row: Makes the cells of a row of the table.
        nothing: Printed on a terminal if the list is empty.
    """
    if as_json:
        print_json(found)
    elif not sys.stdout.isatty():
        print_lines(map(row, found))
    elif found:
        # Only a terminal needs the module, whose imports take 70 ms.
        from .tables import print_table

        print_table(columns, [printable_row(shown_row(each)) for each in found])
    else:
        click.echo(nothing)


def print_fields(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values: as lines with tabs, or on a terminal as a table."""
    if not sys.stdout.isatty():
        print_lines(rows)
        return
    from .tables import print_two_columns

    print_two_columns(list(map(printable_row, rows)))


def print_lines(rows: Iterable[Row]) -> None:
    """Print rows as lines with tabs."""
    for row in rows:
        click.echo("\t".join(printable_row(row)))


def printable_row(row: Row) -> list[str]:
    """Escape what could control a terminal."""
    return [printable(cell) for cell in row]
