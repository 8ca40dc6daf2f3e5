"""The text of a seed file: its value, and the line of each part of it."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import yaml

#: The keys and indexes that lead to a value of the seed.
SeedPath: TypeAlias = tuple[str | int, ...]

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


class Lines:
    """The line of each value in the file."""

    def __init__(self) -> None:
        self.at: dict[SeedPath, int] = {}

    def line(self, path: SeedPath) -> int:
        """Return the line of a value, or of the nearest value around it that has one."""
        while path and path not in self.at:
            path = path[:-1]
        return self.at.get(path, 1)


def dotted(path: SeedPath) -> str:
    """Return a path as people write it, such as ``foundry.compute_modules.runtimes[0]``."""
    if path[:1] == ("tokens",) and len(path) > 1:
        # The key is a bearer token, and messages about a seed go to the log.
        path = ("tokens", "*", *path[2:])
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(the whole file)"


def load_document(text: str, is_json: bool) -> tuple[Any, Lines, list[str]]:
    """Parse the text of a seed file.

    Returns:
        The value, the line of each part of it, and a warning for each key that is defined twice.

    Raises:
        InvalidSeed: The text is not YAML or not JSON, or is too deep or too large.
    """
    if is_json:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidSeed([f"line {error.lineno}: not JSON: {error.msg}"]) from None
        except RecursionError:
            raise InvalidSeed(["not readable as JSON: nested too deeply"]) from None
        # YAML reads JSON, except for tabs between tokens.
        text = text.replace("\t", " ")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines, warnings = Lines(), list[str]()
        if node is None:
            return None, lines, warnings
        _survey(node, (), lines, warnings, [], [_MOST_NODES])
        return loader.construct_document(node), lines, warnings
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise InvalidSeed([f"{where}not YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise InvalidSeed([f"not YAML: {error}"]) from None
    except RecursionError:
        raise InvalidSeed(["not readable as YAML: nested too deeply"]) from None
    except ValueError as error:
        raise InvalidSeed([f"not readable as YAML: {error}"]) from None
    finally:
        loader.dispose()


def _survey(
    node: yaml.Node, path: SeedPath, lines: Lines, warnings: list[str], above: list[yaml.Node], budget: list[int]
) -> None:
    """Note the line of every value, and drop the second of two values with the same key."""
    budget[0] -= 1
    if node in above or budget[0] < 0:
        raise InvalidSeed([f"line {node.start_mark.line + 1}: {dotted(path)}: aliases that never end"])
    lines.at.setdefault(path, node.start_mark.line + 1)
    above.append(node)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _survey(item, (*path, index), lines, warnings, above, budget)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        kept = []
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                warnings.append(f"line {line}: {dotted((*path, key.value))}: already defined; the first one counts")
                continue
            kept.append((key, value))
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
                lines.at[(*path, key.value)] = key.start_mark.line + 1
                _survey(value, (*path, key.value), lines, warnings, above, budget)
        node.value = kept
    above.pop()
