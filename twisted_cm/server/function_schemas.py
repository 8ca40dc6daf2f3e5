"""Which function schemas a runtime may post (contract section 1, Schemas).

A post is read into named entries. Each entry is either in Foundry's own form (it has
``inputs`` or ``output``) or a JSON Schema. A post is taken as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from ..config.json_schemas import load_schema
from ..model.runtimes import FunctionSchema
from ..model.types import JSONValue
from .violations import Violation, pointer_step, pointer_to

CANNOT_PARSE_INPUTS = "CANNOT_PARSE_INPUTS"
CANNOT_PARSE_OUTPUT = "CANNOT_PARSE_OUTPUT"

_NAME_KEYS = ("functionName", "function_name", "name")
_SCHEMA_KEYS = ("schema", "schemaPayload")
_CONTAINER_KEYS = ("functions", "schemas")

#: Which formats jsonschema checks by default depends on the packages that happen to be installed.
_NO_FORMATS = FormatChecker(())

_FOUNDRY = load_schema("function_schema.json")


def _part(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$defs": _FOUNDRY["$defs"], "$ref": f"#/$defs/{name}"})


_INPUTS = _part("inputs")
_OUTPUT = _part("output")


class InvalidSchemas(Exception):
    """A post that is refused, with everything that is wrong in it."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(map(str, violations)))
        self.violations = violations


@frozen
class _Entry:
    pointer: str
    name: str
    schema_pointer: str
    schema: JSONValue


def _entries(value: JSONValue, pointer: str) -> Iterator[_Entry | Violation]:
    """Yield every named entry in a post, whatever it is wrapped in, and a violation where a name is missing."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield from _entries(item, pointer + pointer_step(index))
            else:
                yield Violation(pointer + pointer_step(index), "a function schema must be an object")
        return
    name_key = next((key for key in _NAME_KEYS if key in value), None)
    if name_key is not None and not isinstance(value[name_key], Mapping):
        name = value[name_key]
        if not isinstance(name, str) or not name.strip():
            yield Violation(pointer + pointer_step(name_key), "a function's name must be a string that is not blank")
            return
        schema_key = next((key for key in _SCHEMA_KEYS if key in value), None)
        if schema_key is None:
            yield _Entry(pointer, name, pointer, value)
        else:
            yield _Entry(pointer, name, pointer + pointer_step(schema_key), value[schema_key])
        return
    container = next((key for key in _CONTAINER_KEYS if isinstance(value.get(key), list)), None)
    if container is not None:
        yield from _entries(value[container], pointer + pointer_step(container))
        return
    if {"inputs", "output"} & value.keys() or not all(isinstance(item, Mapping) for item in value.values()):
        yield Violation(pointer, "a function schema must have a functionName")
        return
    for name, schema in value.items():
        if name.strip():
            yield _Entry(pointer + pointer_step(name), name, pointer + pointer_step(name), schema)
        else:
            yield Violation(pointer + pointer_step(name), "a function's name must not be blank")


def is_foundry_form(schema: JSONValue) -> bool:
    """Return whether a function's schema is in Foundry's own form; otherwise it is a JSON Schema."""
    return "inputs" in schema or "output" in schema


def _understood(validator: Draft202012Validator, value: JSONValue) -> bool:
    try:
        return bool(validator.is_valid(value))
    except RecursionError:
        return False


def _check(entry: _Entry) -> FunctionSchema | Violation:
    schema = entry.schema
    if not isinstance(schema, dict):
        return Violation(entry.schema_pointer, "a function schema must be an object")
    if is_foundry_form(schema):
        issues = []
        if not _understood(_INPUTS, schema.get("inputs")):
            issues.append(CANNOT_PARSE_INPUTS)
        if not _understood(_OUTPUT, schema.get("output")):
            issues.append(CANNOT_PARSE_OUTPUT)
        return FunctionSchema(entry.name, schema, tuple(issues))
    if not isinstance(schema.get("$schema", ""), str):
        return Violation(entry.schema_pointer + "/$schema", "must be a string")
    try:
        # The annotations of jsonschema lack the second argument.
        kind: Any = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema, _NO_FORMATS)
    except SchemaError as error:
        pointer = entry.schema_pointer + pointer_to(error.absolute_path)
        return Violation(pointer, f"not a JSON Schema: {error.message}")
    except RecursionError:
        return Violation(entry.schema_pointer, "not a JSON Schema that can be read: nested too deeply")
    return FunctionSchema(entry.name, schema)


def parse_function_schemas(posted: JSONValue) -> list[FunctionSchema]:
    """Read what a runtime posted.

    Args:
        posted: The body, as JSON.

    Returns:
        Each function once, in the order posted. The registry sets ``posted_at``.

    Raises:
        InvalidSchemas: Something is wrong in the post; the exception holds every violation.
    """
    if not isinstance(posted, list | dict):
        raise InvalidSchemas([Violation("", "function schemas must be an array or an object")])
    found: dict[str, FunctionSchema] = {}
    violations = []
    for entry in _entries(posted, ""):
        checked = entry if isinstance(entry, Violation) else _check(entry)
        if isinstance(checked, Violation):
            violations.append(checked)
        elif isinstance(entry, _Entry):
            former = found.setdefault(entry.name, checked)
            if former.payload != checked.payload:
                violations.append(
                    Violation(entry.pointer, f"function '{entry.name}' is posted twice, with different schemas")
                )
    if violations:
        raise InvalidSchemas(violations)
    return list(found.values())
