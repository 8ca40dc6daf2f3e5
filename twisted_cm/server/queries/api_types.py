"""The types of parameters and results as the public API describes them (functions API, section 2)."""

from __future__ import annotations

from ...model.types import JSONValue

#: The types that have the same name in a posted schema and in the API.
SAME = frozenset({"boolean", "integer", "float", "double", "string", "long", "date", "timestamp"})

_OF_VALUES = {str: "string", bool: "boolean", int: "double", float: "double"}

#: The type that stands for a JSON Schema's type.
_OF_JSON_SCHEMA = {"string": "string", "boolean": "boolean", "integer": "integer", "number": "double"}


def api_type(data_type: JSONValue, in_ontology: bool) -> JSONValue:
    """Return how the API describes a data type.

    Args:
        data_type: The type as a module posts it, in Foundry's form.
        in_ontology: Whether the ontologies API describes it, which has a type for maps. The functions API has none.
    """
    kind = data_type["type"]
    if kind in SAME:
        return {"type": kind}
    if kind in ("list", "set"):
        element = api_type(data_type[kind]["elementsType"], in_ontology)
        return {"type": "array" if kind == "list" else "set", "subType": element}
    if kind == "map" and in_ontology:
        return {
            "type": "entrySet",
            "keyType": api_type(data_type["map"]["keysType"], in_ontology),
            "valueType": api_type(data_type["map"]["valuesType"], in_ontology),
        }
    if kind == "optionalType":
        # OSDK takes the first member for the type of the value.
        wrapped = api_type(data_type["optionalType"]["wrappedType"], in_ontology)
        return {"type": "union", "unionTypes": [wrapped, {"type": "null"}]}
    if kind == "anonymousCustomType":
        fields = data_type["anonymousCustomType"]["fields"].items()
        return {
            "type": "struct",
            "fields": [{"name": name, "fieldType": api_type(each, in_ontology)} for name, each in fields],
        }
    return unsupported(kind)


def api_type_of_json_schema(schema: JSONValue) -> JSONValue:
    """Return how the API describes the values of a JSON Schema: as far as it has a type of its own for them."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, list):
        others = [each for each in kind if each != "null"]
        if len(others) != 1:
            return unsupported("any")
        wrapped = api_type_of_json_schema({**schema, "type": others[0]})
        return wrapped if len(kind) == 1 else {"type": "union", "unionTypes": [wrapped, {"type": "null"}]}
    if kind in _OF_JSON_SCHEMA:
        return {"type": _OF_JSON_SCHEMA[kind]}
    if kind == "array" and isinstance(schema.get("items"), dict):
        return {"type": "array", "subType": api_type_of_json_schema(schema["items"])}
    if kind == "object" and isinstance(schema.get("properties"), dict):
        fields = schema["properties"].items()
        return {
            "type": "struct",
            "fields": [{"name": name, "fieldType": api_type_of_json_schema(each)} for name, each in fields],
        }
    return unsupported("any" if kind is None else str(kind))


def api_type_of_value(value: JSONValue) -> JSONValue:
    """Return how the API describes a value of which only itself is known."""
    if isinstance(value, dict):
        return {
            "type": "struct",
            "fields": [{"name": name, "fieldType": api_type_of_value(each)} for name, each in value.items()],
        }
    if isinstance(value, list) and value:
        return {"type": "array", "subType": api_type_of_value(value[0])}
    return {"type": _OF_VALUES[type(value)]} if type(value) in _OF_VALUES else unsupported("any")


def unsupported(kind: str) -> JSONValue:
    """Return how the API describes a type that it has no form for."""
    return {"type": "unsupported", "unsupportedType": kind, "params": {}}
