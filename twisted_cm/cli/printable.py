"""Text that is safe to print."""

from __future__ import annotations


def printable(text: str, kept: str = "") -> str:
    """
    Text from a job or a server for a terminal: what could move its cursor, colour it or turn its writing round is
    escaped, as in C{\\x1b}.

    @param kept: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each in kept or each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
