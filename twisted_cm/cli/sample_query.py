"""A query that a function accepts, made up from its schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..model.types import JSONValue

#: Makes up a value of each type, from the description of the type (contract section 1, "Schemas").
_SAMPLES: dict[str, Callable[[Mapping[str, JSONValue]], JSONValue]] = {
    "boolean": lambda _: True,
    "byte": lambda _: 1,
    "short": lambda _: 1,
    "integer": lambda _: 1,
    "long": lambda _: 1,
    "float": lambda _: 1.5,
    "double": lambda _: 1.5,
    "decimal": lambda _: "1.5",
    "string": lambda _: "text",
    "binary": lambda _: "AA==",
    "date": lambda _: "2026-01-31",
    "timestamp": lambda _: "2026-01-31T12:00:00Z",
    "list": lambda description: [_sample(description["elementsType"])],
    "set": lambda description: [_sample(description["elementsType"])],
    "map": lambda description: {},
    "optionalType": lambda description: _sample(description["wrappedType"]),
    "anonymousCustomType": lambda description: {
        name: _sample(each) for name, each in sorted(description["fields"].items())
    },
}


def sample_query(schema: JSONValue) -> JSONValue:
    """Return a query for a function; an empty object if its schema says nothing of its inputs."""
    try:
        return {each["name"]: _sample(each["dataType"]) for each in schema["inputs"] if each.get("required", True)}
    except (LookupError, TypeError, AttributeError):
        return {}


def _sample(data_type: JSONValue) -> JSONValue:
    kind = data_type["type"]
    return _SAMPLES[kind](data_type[kind])
