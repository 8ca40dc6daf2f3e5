"""Text that is safe to print on a terminal."""

from __future__ import annotations


def printable(text: str, kept: str = "") -> str:
    r"""Escape the characters that could control a terminal, for example as ``\x1b``.

    Text from a job or a server could otherwise move the cursor, change colors or reverse the writing direction.

    Args:
        kept: Characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each in kept or each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
