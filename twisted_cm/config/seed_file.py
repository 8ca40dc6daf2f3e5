"""The text of a seed file, and where in it each value stands."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, TypeAlias

import yaml
from jsonschema.exceptions import ValidationError

SeedPath: TypeAlias = tuple[str | int, ...]


#: The most places a seed may have, aliases followed: more is a bomb.
_MOST_NODES = 1_000_000


class InvalidSeed(Exception):
    """
    A seed that cannot be used.

    @ivar problems: everything wrong with it, a line each, with path and line number where there is one.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Lines:
    """Which line of the file each value stands on."""

    def __init__(self) -> None:
        self.at: dict[SeedPath, int] = {}

    def line(self, path: SeedPath) -> int:
        while path and path not in self.at:
            path = path[:-1]
        return self.at.get(path, 1)


def format_problem(path: SeedPath, lines: Lines, message: str) -> str:
    return f"line {lines.line(path)}: {_dotted(path)}: {message}"


def _dotted(path: SeedPath) -> str:
    if path[:1] == ("tokens",) and len(path) > 1:
        # A token is a key here, and what is said of a seed goes to the log.
        path = ("tokens", "*", *path[2:])
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(the whole file)"


def load_document(text: str, is_json: bool) -> tuple[Any, Lines, list[str]]:
    if is_json:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidSeed([f"line {error.lineno}: not JSON: {error.msg}"]) from None
        except RecursionError:
            raise InvalidSeed(["not JSON that can be read: nested too deeply"]) from None
        # JSON is YAML but for the tabs between its tokens.
        text = text.replace("\t", " ")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines, warnings = Lines(), list[str]()
        if node is None:
            return None, lines, warnings
        budget = [_MOST_NODES]
        _survey(node, (), lines, warnings, [], budget)
        return loader.construct_document(node), lines, warnings
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise InvalidSeed([f"{where}not YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise InvalidSeed([f"not YAML: {error}"]) from None
    except RecursionError:
        raise InvalidSeed(["not YAML that can be read: nested too deeply"]) from None
    except ValueError as error:
        raise InvalidSeed([f"not YAML that can be read: {error}"]) from None
    finally:
        loader.dispose()


def _survey(
    node: yaml.Node, path: SeedPath, lines: Lines, warnings: list[str], above: list[yaml.Node], budget: list[int]
) -> None:
    """Note the line of every value; of two with one key keep the first."""
    budget[0] -= 1
    if node in above or budget[0] < 0:
        raise InvalidSeed([f"line {node.start_mark.line + 1}: {_dotted(path)}: aliases that never end"])
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
                lines.at[(*path, key.value, "again")] = key.start_mark.line + 1
                warnings.append(
                    f"line {key.start_mark.line + 1}: {_dotted((*path, key.value))}: "
                    "defined before; the first one counts"
                )
                continue
            kept.append((key, value))
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
                lines.at[(*path, key.value)] = key.start_mark.line + 1
                _survey(value, (*path, key.value), lines, warnings, above, budget)
        node.value = kept
    above.pop()


def explain(error: ValidationError) -> Iterator[tuple[SeedPath, str]]:
    """What one violation says, in words for the person who wrote the file."""
    path = tuple(error.absolute_path)
    validator = error.validator
    value: Any = error.validator_value
    schema: Any = error.schema
    if validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(schema["properties"])
        for key in error.instance:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
                yield (*path, key), f"unknown key; {hint}"
    elif validator == "required" and isinstance(error.instance, dict):
        for key in value:
            if key not in error.instance:
                yield path, f"'{key}' is missing"
    elif validator == "type":
        names = value if isinstance(value, str) else " or ".join(value)
        yield path, f"must be of type {names}, not {_type_name(error.instance)}"
    elif validator == "pattern":
        yield path, "must not be blank, nor hold what is not text"
    elif error.parent is None and "propertyNames" in error.absolute_schema_path:
        yield (*path, str(error.instance)), "a token must not be empty or hold white space"
    else:
        yield path, error.message


def _type_name(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)
