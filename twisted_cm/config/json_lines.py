"""What a JSON text has besides its value: lines, repeated keys, and characters that a seed cannot have."""

from __future__ import annotations

import json
import re

from ..model.texts import REFUSAL, REFUSED
from .seed_path import ALREADY_DEFINED, Lines, SeedPath, message_at

#: The parts of a JSON text: ends of lines, strings, punctuation, and numbers or words.
_TOKEN = re.compile(r'\n|"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+')


class _Survey:
    """A walk over the tokens of a text that is known to be JSON."""

    def __init__(self, text: str) -> None:
        self.lines = Lines()
        self.warnings: list[str] = []
        self.problems: list[str] = []
        self._tokens = _TOKEN.finditer(text)
        self._line = 1
        self._token = ""

    def next(self) -> str:
        """Go on to the next token and return it."""
        for found in self._tokens:
            self._token = found[0]
            if self._token != "\n":
                break
            self._line += 1
        return self._token

    def visit(self, path: SeedPath, noted: bool = True) -> None:
        """Note lines and problems of the value that begins at the current token, and of everything in it.

        Args:
            path: Where the value is.
            noted: Whether the value counts; not if its key was defined before.
        """
        if noted:
            self.lines.at.setdefault(path, self._line)
        if self._token == "[":
            self._visit_array(path, noted)
        elif self._token == "{":
            self._visit_object(path, noted)
        elif noted and self._token[0] == '"':
            # Only a string with such an escape needs to be decoded again.
            text = json.loads(self._token) if "\\u" in self._token else self._token
            if REFUSED.search(text):
                self.problems.append(message_at(self._line, path, REFUSAL))

    def _visit_array(self, path: SeedPath, noted: bool) -> None:
        index = 0
        while self.next() != "]":
            if self._token == ",":
                index += 1
            else:
                self.visit((*path, index), noted)

    def _visit_object(self, path: SeedPath, noted: bool) -> None:
        seen: set[str] = set()
        while self.next() != "}":
            if self._token == ",":
                continue
            key: str = json.loads(self._token)
            inner = (*path, key)
            counts = noted and key not in seen
            seen.add(key)
            if counts and REFUSED.search(key):
                self.problems.append(message_at(self._line, path, f"a key {REFUSAL}"))
                counts = False
            elif counts:
                self.lines.at[inner] = self._line
            elif noted:
                self.warnings.append(message_at(self._line, inner, ALREADY_DEFINED))
            colon = self.next()
            assert colon == ":"
            self.next()
            self.visit(inner, counts)


def survey_json(text: str) -> tuple[Lines, list[str], list[str]]:
    """Look at everything in a text that is known to be JSON.

    Returns:
        The line of each value, a warning for each repeated key, and what is wrong with a key or a value.
    """
    survey = _Survey(text)
    survey.next()
    survey.visit(())
    return survey.lines, survey.warnings, survey.problems
