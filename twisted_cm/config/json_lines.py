"""A look at each value in a JSON text: its line, and whether a seed can have it."""

from __future__ import annotations

import json
import re

from .seed_path import ALREADY_DEFINED, HALF_A_PAIR, NO_CHARACTER, Lines, SeedPath, message_at

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
        """Note the lines of the value that begins at the current token, and of everything in it.

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
        elif self._token.startswith('"') and noted:
            self._check(json.loads(self._token), path)

    def _check(self, text: str, path: SeedPath) -> None:
        if HALF_A_PAIR.search(text):
            self.problems.append(message_at(self._line, path, NO_CHARACTER))

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
            first = key not in seen
            seen.add(key)
            if noted and first:
                self.lines.at[inner] = self._line
            elif noted:
                self.warnings.append(message_at(self._line, inner, ALREADY_DEFINED))
            if noted:
                self._check(key, path)
            colon = self.next()
            assert colon == ":"
            self.next()
            self.visit(inner, noted and first)


def survey_json(text: str) -> tuple[Lines, list[str], list[str]]:
    """Look at everything in a text that is known to be JSON.

    Returns:
        The line of each value, a warning for each repeated key, and what is wrong with a key or a value.
    """
    survey = _Survey(text)
    survey.next()
    survey.visit(())
    return survey.lines, survey.warnings, survey.problems
