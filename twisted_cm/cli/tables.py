"""How does a table fit the width of a terminal?

No line is longer than the terminal is wide, and no word is broken: a cell that is too long ends with an ellipsis.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import click
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .columns import Columns, Row, style_state

#: No column becomes narrower than this.
_NARROWEST = 4

#: The spaces around a cell in a table of rich, and between two cells of a live table.
_GAP = 2


def print_table(columns: Columns, rows: Sequence[Row]) -> None:
    """Print rows under headings. The longest cells are cropped until the table fits the terminal."""
    console = Console()
    wanted = [
        max(cell_len(text) for text in (column.heading, *cells)) for column, *cells in zip(columns, *rows, strict=True)
    ]
    fixed = [column.whole for column in columns]
    widths = _fit(wanted, fixed, console.width - _GAP * len(columns))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column.heading, width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(
            *(
                # A str would be searched for markup, a Text is not.
                Text.from_ansi(style_state(_crop(cell, width, column.keep_end)))
                for cell, column, width in zip(row, columns, widths, strict=True)
            )
        )
    console.print(table)


def print_two_columns(rows: Sequence[Row]) -> None:
    """Print names and values without headings. Long values go on in the next line, between words."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="ellipsis")
    for name, value in rows:
        table.add_row(Text(name), Text.from_ansi(style_state(value)))
    Console().print(table)


class LiveTable:
    """A table whose rows are printed as they come: the widths of its columns cannot depend on them."""

    def __init__(self, columns: Sequence[tuple[str, int | None]]) -> None:
        """Print the headings.

        Args:
            columns: The heading and the width of each column. Those with the width ``None`` share the rest.
        """
        # The last cell of a line must not make the terminal wrap.
        room = shutil.get_terminal_size().columns - _GAP * (len(columns) - 1)
        room -= sum(width for _, width in columns if width is not None)
        share = max(room // sum(width is None for _, width in columns), _NARROWEST)
        self._widths = [share if width is None else width for _, width in columns]
        click.echo(click.style(self._line([heading for heading, _ in columns]), bold=True))

    def print_row(self, row: Row) -> None:
        """Print a row whose cells are printable."""
        click.echo(self._line(row))

    def _line(self, row: Row) -> str:
        cells = (style_state(_pad(_crop(cell, width), width)) for cell, width in zip(row, self._widths, strict=True))
        return (" " * _GAP).join(cells).rstrip()


def _fit(wanted: list[int], fixed: Sequence[bool], room: int) -> list[int]:
    """Return widths of columns that fit a room: the widest ones become narrower."""
    widths = [width if whole else min(width, max(room, _NARROWEST)) for width, whole in zip(wanted, fixed, strict=True)]
    while sum(widths) > room:
        widest = max((index for index, whole in enumerate(fixed) if not whole), key=lambda index: widths[index])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _crop(text: str, width: int, keep_end: bool = False) -> str:
    """Return a text that is at most so wide, with an ellipsis for what it lacks."""
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        # A terminal shows most characters in one cell, so that this is short.
        excess = max((cell_len(text) - width + 1) // 2, 1)
        text = text[excess:] if keep_end else text[:-excess]
    return f"…{text}" if keep_end else f"{text}…"


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))
