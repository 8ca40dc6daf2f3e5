"""Docstrings in epytext, as autodoc reads them."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_FIELD = re.compile(r"^(\s*)@(param|return|raise|ivar)\b ?([^:]*):")
_MARKED = ((re.compile(r"L\{([^}]*)\}"), r":py:obj:`~\1`"), (re.compile(r"C\{([^}]*)\}"), r"``\1``"))


def translate(app: Sphinx, what: str, name: str, target: object, options: Any, lines: list[str]) -> None:
    """Turn fields and marks of epytext into those of reStructuredText, in place."""
    text = "\n".join(
        _FIELD.sub(lambda found: f"{found[1]}:{found[2]}{found[3] and ' ' + found[3]}:", each) for each in lines
    )
    for pattern, replacement in _MARKED:
        text = pattern.sub(replacement, text)
    lines[:] = text.split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", translate)
    return {"parallel_read_safe": True}
