"""What does a table consist of?"""

from __future__ import annotations

from collections.abc import Sequence

import click
from attrs import frozen

from ..logs import STATE_COLORS

#: The cells of one row.
Row = Sequence[str]

_COLORS = {
    **STATE_COLORS,
    "running": "cyan",
    "responsive": "green",
    "busy": "cyan",
    "starting": "yellow",
    "silent": "red",
}


@frozen
class Column:
    """A column of a table on a terminal.

    Attributes:
        whole: Whether its cells are never cropped, because people copy them.
        keep_end: Whether a cell that is too long is cropped at its start.
    """

    heading: str
    whole: bool = False
    keep_end: bool = False


Columns = Sequence[Column]


def style_state(text: str) -> str:
    """Color the state of a job or of a replica; leave other text as it is."""
    return click.style(text, fg=_COLORS.get(text.rstrip())) if text.rstrip() in _COLORS else text
