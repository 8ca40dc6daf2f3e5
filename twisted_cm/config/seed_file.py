"""The text of a seed file: its value, and the line of each part of it."""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

from ..model.texts import REFUSAL, REFUSED
from .json_lines import survey_json
from .seed_path import ALREADY_DEFINED, Lines, SeedPath, message_at

#: The most values in a seed, with aliases expanded. Aliases of aliases can stand for billions of them.
_MOST_NODES = 1_000_000


class InvalidSeed(Exception):
    """A seed that cannot be used.

    Attributes:
        problems: Everything that is wrong with it, one line each, with path and line number where there is one.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_document(text: str, is_json: bool) -> tuple[Any, Lines, list[str]]:
    """Parse the text of a seed file.

    Returns:
        The value, the line of each part of it, and a warning for each key that is defined twice.

    Raises:
        InvalidSeed: The text is not YAML or not JSON, or is too deep or too large, or a key is not text, or a text has
            what no text of a seed may contain.
    """
    return _load_json(text) if is_json else _load_yaml(text)


def _load_json(text: str) -> tuple[Any, Lines, list[str]]:
    try:
        document = json.loads(
            text, object_pairs_hook=_keep_first, parse_float=_finite_number, parse_constant=_finite_number
        )
        lines, warnings, problems = survey_json(text)
    except json.JSONDecodeError as error:
        raise InvalidSeed([f"line {error.lineno}: not JSON: {error.msg}"]) from None
    except RecursionError:
        raise InvalidSeed(["not readable as JSON: nested too deeply"]) from None
    except ValueError as error:
        raise InvalidSeed([f"not readable as JSON: {error}"]) from None
    if problems:
        raise InvalidSeed(problems)
    return document, lines, warnings


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _keep_first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def _load_yaml(text: str) -> tuple[Any, Lines, list[str]]:
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        # The text has characters that YAML does not allow.
        raise InvalidSeed([f"not YAML: {' '.join(str(error).split())}"]) from None
    try:
        node = loader.get_single_node()
        survey = _Survey(loader)
        if node is not None:
            survey.visit(node, ())
        if survey.problems:
            raise InvalidSeed(survey.problems)
        document = None if node is None else loader.construct_document(node)
        return document, survey.lines, survey.warnings
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise InvalidSeed([f"{where}not YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise InvalidSeed([f"not YAML: {error}"]) from None
    except RecursionError:
        raise InvalidSeed(["not readable as YAML: nested too deeply"]) from None
    finally:
        loader.dispose()


class _Survey:
    """A look at every value of a YAML document, before it is constructed.

    Attributes:
        lines: The line of every value.
        warnings: A line for each key that is defined twice. The second definition is dropped from the document.
        problems: A line for each value that YAML cannot construct or a seed cannot have, and for each such key.
    """

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.lines = Lines()
        self.warnings: list[str] = []
        self.problems: list[str] = []
        self._loader = loader
        self._above: list[yaml.Node] = []
        self._budget = _MOST_NODES

    def visit(self, node: yaml.Node, path: SeedPath) -> None:
        """Look at a value and at everything in it.

        Raises:
            InvalidSeed: The value contains itself, or there are too many values.
        """
        self._budget -= 1
        if node in self._above or self._budget < 0:
            raise InvalidSeed([message_at(_line(node), path, "aliases that never end")])
        self.lines.at.setdefault(path, _line(node))
        self._above.append(node)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index))
        elif isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, path)
        elif isinstance(node, yaml.ScalarNode):
            if self._is_refused(node):
                self._note(node, path, REFUSAL)
            else:
                self._construct(node, path)
        self._above.pop()

    @staticmethod
    def _is_refused(node: yaml.ScalarNode) -> bool:
        """Join the surrogate pairs of a text, and return whether it has what no text of a seed may contain."""
        if REFUSED.search(node.value):
            # JSON writes some characters as two escapes, each of which PyYAML takes for a character.
            node.value = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return REFUSED.search(node.value) is not None

    def _construct(self, node: yaml.ScalarNode, path: SeedPath) -> Any:
        """Return the value of a scalar. Note a problem if it has none, or one that no part of a seed can have."""
        try:
            value = self._loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception:
            # PyYAML does not check what stands behind a tag, or looks like a number or a date.
            kind = node.tag.rpartition(":")[2]
            self._note(node, path, f"not a valid {kind}: {node.value[:40]!r}")
            return None
        if isinstance(value, int) and abs(value) >= 2**63:
            self._note(node, path, f"a number of {value.bit_length()} bits is too large")
        elif isinstance(value, float) and not math.isfinite(value):
            self._note(node, path, f"{node.value} is not a finite number")
        return value

    def _note(self, node: yaml.Node, path: SeedPath, message: str) -> None:
        self.problems.append(message_at(_line(node), path, message))

    def _visit_mapping(self, node: yaml.MappingNode, path: SeedPath) -> None:
        seen: set[str] = set()
        kept = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._note(key, path, "a key must be text")
                continue
            if key.tag == "tag:yaml.org,2002:merge":
                self.visit(value, (*path, key.value))
                kept.append((key, value))
                continue
            if self._is_refused(key):
                self._note(key, path, f"a key {REFUSAL}")
                continue
            if not isinstance(self._construct(key, path), str):
                self._note(key, path, "a key must be text; put it in quotes")
                continue
            if key.value in seen:
                self.warnings.append(message_at(_line(key), (*path, key.value), ALREADY_DEFINED))
                continue
            seen.add(key.value)
            kept.append((key, value))
            self.lines.at[(*path, key.value)] = _line(key)
            self.visit(value, (*path, key.value))
        node.value = kept


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line
