"""The violations of a seed's JSON Schema, in words for the person who wrote the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from jsonschema.exceptions import ValidationError

from .seed_path import Lines, SeedPath, message_at


def format_problem(path: SeedPath, lines: Lines, message: str) -> str:
    """Return one line about the value at a path, with the number of its line."""
    return message_at(lines.line(path), path, message)


def suggest(given: str, known: Sequence[str], otherwise: str) -> str:
    """Return a question for the nearest known name, or what to say if none is near."""
    near = difflib.get_close_matches(given, known, n=1)
    return f"did you mean '{near[0]}'?" if near else otherwise


def explain(error: ValidationError) -> Iterator[tuple[SeedPath, str]]:
    """Explain one violation: the path of each value that it is about, and what is wrong there."""
    path = tuple(error.absolute_path)
    validator = error.validator
    value: Any = error.validator_value
    schema: Any = error.schema
    if validator == "additionalProperties" and isinstance(error.instance, dict):
        known = [key for key, described in schema["properties"].items() if described is not True]
        for key in error.instance.keys() - schema["properties"].keys():
            hint = suggest(str(key), known, f"known keys: {', '.join(known)}")
            yield (*path, key), f"unknown key; {hint}"
    elif validator == "required" and isinstance(error.instance, dict):
        for key in value:
            if key not in error.instance:
                yield path, f"'{key}' is missing"
    elif validator == "type":
        names = value if isinstance(value, str) else " or ".join(value)
        yield path, f"must be of type {names}, not {_type_name(error.instance)}"
    elif error.parent is None and "propertyNames" in error.absolute_schema_path:
        if path[:1] == ("tokens",):
            message = "a token must not be empty or contain white space"
        else:
            message = "a variable must have letters, digits and underscores, and begin with no digit"
        yield (*path, str(error.instance)), message
    elif validator == "pattern" and "must" in schema:
        yield path, f"must {schema['must']}"
    elif validator == "pattern":
        yield path, "must not be blank or contain characters that are not allowed"
    else:
        yield path, error.message


def _type_name(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)
