"""Whether a query fits the function that it is for.

A function's schema is either in Foundry's own form, which is translated to a
JSON Schema here, or it is a JSON Schema already, which then describes the query.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from ..model.runtimes import FunctionSchema
from ..model.types import JSONValue
from .function_schemas import CANNOT_PARSE_INPUTS, is_foundry_form
from .json_body import to_json
from .violations import Violation, violation_of

#: The most violations that are reported for one query.
MOST_VIOLATIONS = 20


class UncheckableQuery(Exception):
    """The function's schema cannot be applied to the query; the message says why."""


#: A query and a schema in Foundry's form with more bytes take too long to check in the reactor.
_SHORT_QUERY = 4 * 1024
_SHORT_SCHEMA = 16 * 1024


def is_quick(schema: FunctionSchema, query: bytes) -> bool:
    """Return whether a check takes no longer than the reactor may.

    A JSON Schema may take any time, however short it is. Foundry's form has no part that refers to others.
    """
    if len(query) > _SHORT_QUERY or not is_foundry_form(schema.payload):
        return False
    return len(to_json(schema.payload)) <= _SHORT_SCHEMA


def check_query(schema: FunctionSchema, query: bytes) -> list[Violation]:
    """Check a query, which is JSON, against its function's schema: see :func:`query_violations`.

    Raises:
        UncheckableQuery: As there; or a number of the query has more digits than Python reads.
    """
    try:
        value = json.loads(query)
    except ValueError:
        longest = max(map(len, re.findall(rb"[0-9]+", query)), default=0)
        raise UncheckableQuery(f"a number in the query has {longest} digits, which is too many") from None
    return query_violations(schema, value)


def query_violations(schema: FunctionSchema, query: JSONValue) -> list[Violation]:
    """Check a query against its function's schema.

    Returns:
        What is wrong, at most :data:`MOST_VIOLATIONS`. Nothing is wrong if the schema
        does not describe the inputs, or if its inputs could not be understood.

    Raises:
        UncheckableQuery: The schema refers to something outside of itself or has numbers too large to
            compute with, or the schema or the query is nested too deeply.
    """
    violations = []
    try:
        wanted = _query_schema(schema)
        # The registry is empty, so a reference to a file or a URL is never followed.
        kind = validator_for(wanted, default=Draft202012Validator)
        validator = kind(wanted, registry=Registry(), format_checker=_FORMATS)
        for error in validator.iter_errors(query):
            violations.append(violation_of(error))
            if len(violations) == MOST_VIOLATIONS:
                break
    except Unresolvable as error:
        raise UncheckableQuery(f"its reference {error.ref!r} cannot be resolved") from None
    except RecursionError:
        raise UncheckableQuery("it or the query is nested too deeply") from None
    except Exception as error:
        # A reference may lead to something that is no schema, and a number may be too large to divide.
        raise UncheckableQuery(f"{type(error).__name__}: {error}"[:300]) from None
    return violations


def _query_schema(schema: FunctionSchema) -> JSONValue:
    """Return the JSON Schema that a query must fit."""
    payload = schema.payload
    if not is_foundry_form(payload):
        return payload
    # The Python SDK posts no inputs for a function whose input has no type hint.
    if CANNOT_PARSE_INPUTS in schema.issues or not payload["inputs"]:
        return True
    fields = {each["name"]: each["dataType"] for each in payload["inputs"]}
    return _object(fields, {each["name"] for each in payload["inputs"] if each.get("required", True)})


def _object(fields: dict[str, JSONValue], required: set[str]) -> JSONValue:
    # The Python SDK fills in a field of an optional type even if it declares it as required.
    required = {name for name in required if fields[name]["type"] != "optionalType"}
    return {
        "type": "object",
        "properties": {
            # A field that may be left out may also be null.
            name: _value(data_type) if name in required else {"anyOf": [{"type": "null"}, _value(data_type)]}
            for name, data_type in fields.items()
        },
        "required": sorted(required),
        "additionalProperties": False,
    }


def _whole(bits: int) -> JSONValue:
    return {"type": "integer", "minimum": -(2 ** (bits - 1)), "maximum": 2 ** (bits - 1) - 1}


def _array(data_type: JSONValue, kind: str) -> JSONValue:
    return {"type": "array", "items": _value(data_type[kind]["elementsType"])}


def _custom(data_type: JSONValue) -> JSONValue:
    fields = data_type["anonymousCustomType"]["fields"]
    return _object(fields, set(fields))


_NUMBER: JSONValue = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}

_DECIMAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z"

#: The values of a schema's ``format`` that are checked; ``long``, added below, is for a long in a string.
_FORMATS = FormatChecker(["date"])


@_FORMATS.checks("long", raises=ValueError)
def _is_long(value: object) -> bool:
    return not isinstance(value, str) or (len(value) <= 20 and -(2**63) <= int(value) < 2**63)


#: How Foundry writes a value of each data type in JSON.
_VALUES: dict[str, Callable[[JSONValue], JSONValue]] = {
    "boolean": lambda _: {"type": "boolean"},
    "byte": lambda _: _whole(8),
    "short": lambda _: _whole(16),
    "integer": lambda _: _whole(32),
    "long": lambda _: {"anyOf": [_whole(64), {"type": "string", "pattern": r"^-?[0-9]+\Z", "format": "long"}]},
    "float": lambda _: _NUMBER,
    "double": lambda _: _NUMBER,
    "decimal": lambda _: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": _DECIMAL}]},
    "string": lambda _: {"type": "string"},
    "binary": lambda _: {"type": "string"},
    "date": lambda _: {"type": "string", "format": "date"},
    "timestamp": lambda _: {"type": ["string", "integer"]},
    "list": lambda data_type: _array(data_type, "list"),
    "set": lambda data_type: _array(data_type, "set"),
    "map": lambda data_type: {"type": "object", "additionalProperties": _value(data_type["map"]["valuesType"])},
    "optionalType": lambda data_type: {"anyOf": [{"type": "null"}, _value(data_type["optionalType"]["wrappedType"])]},
    "anonymousCustomType": _custom,
    "ontologyEdit": lambda _: True,
}


def _value(data_type: JSONValue) -> JSONValue:
    return _VALUES[data_type["type"]](data_type)
