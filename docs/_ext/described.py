"""Write the reference of the routes and of the seed from the descriptions that the emulator itself uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from twisted_cm.config.json_schemas import load_schema
from twisted_cm.server.routes.openapi import load_description

METHODS = ("get", "post", "put", "delete")

#: The names of the security schemes in the text.
TOKENS = {
    "bearer": "bearer token",
    "moduleAuthToken": "Module-Auth-Token",
    "client": "client id and secret, as HTTP Basic or in the form",
}


class Description:
    """A JSON document whose parts refer to each other with ``$ref``."""

    def __init__(self, document: Any) -> None:
        self.document = document

    def resolved(self, item: Any) -> Any:
        """Return the target of an item's reference, or the item.

        Keys beside a ``$ref`` override those of its target.
        """
        if not isinstance(item, dict) or "$ref" not in item:
            return item
        target = self.document
        for step in item["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        target = self.resolved(target)
        return {**target, **{name: value for name, value in item.items() if name != "$ref"}}

    def kind(self, schema: Any) -> str:
        """Describe a schema in a few words, with a link to its own section if it has one."""
        if schema is True or schema == {}:
            return "any JSON value"
        reference = schema.get("$ref", "")
        if "/schemas/" in reference and self._is_large(self.resolved(schema)):
            name = reference.rpartition("/")[2]
            return f":ref:`{name} <schema-{name.lower()}>`"
        schema = self.resolved(schema)
        if "const" in schema:
            return f"``{json.dumps(schema['const'])}``"
        if "enum" in schema:
            return " or ".join(f"``{each}``" for each in schema["enum"])
        for key, joint in (("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")):
            if key in schema and "properties" not in schema:
                return joint.join(self.kind(each) if "$ref" in each else "more" for each in schema[key])
        kinds = schema.get("type", "any JSON value")
        words = [kinds] if isinstance(kinds, str) else list(kinds)
        if schema.get("items"):
            words[words.index("array")] = f"array of {self.kind(schema['items'])}"
        return " or ".join(words) + _limits(schema)

    def _is_large(self, schema: Any) -> bool:
        return any(key in schema for key in ("properties", "oneOf", "anyOf", "allOf"))

    def fields(self, schema: Any, path: str = "", optional: bool = False) -> Iterator[tuple[str, str, str, bool]]:
        """Yield the properties of an object and of the unnamed objects inside it.

        Yields:
            The path of the property, its kind, its description and whether it is required.
        """
        schema = self.resolved(schema)
        for part in (*schema.get("allOf", ()), *schema.get("oneOf", ())):
            if "if" not in part and "$ref" not in part:
                yield from self.fields(part, path)
        for name, each in schema.get("properties", {}).items():
            if each is False:
                continue
            inner = {} if each is True else each
            text = self.resolved(inner).get("description", "")
            here = f"{path}.{name}" if path else name
            yield here, self.kind(each), text, name in schema.get("required", ())
            if "/schemas/" not in inner.get("$ref", ""):
                resolved = self.resolved(inner)
                yield from self.fields(resolved, here)
                if "/schemas/" not in resolved.get("items", {}).get("$ref", ""):
                    yield from self.fields(resolved.get("items", {}), f"{here}[]")
                more = resolved.get("additionalProperties")
                if isinstance(more, dict):
                    yield f"{here}.NAME", self.kind(more), "", False
                    yield from self.fields(more, f"{here}.NAME")

    def table(self, schema: Any) -> Iterator[str]:
        """Write the properties of an object as a table; write nothing if it has none."""
        rows = list(dict.fromkeys(self.fields(schema)))
        if rows:
            yield from (
                "",
                ".. list-table::",
                "   :header-rows: 1",
                "   :widths: 32 68",
                "",
                "   * - Field",
                "     - Value",
            )
        for path, kind, text, required in rows:
            said = f". {text.rstrip('.')}" if text else ""
            yield from (f"   * - ``{path}``", f"     - {kind}{', required' if required else ''}{said}")
        yield ""

    def body(self, item: Any) -> tuple[str, Any]:
        """Return the kind of a body in words, and its schema or None."""
        for content_type, content in self.resolved(item).get("content", {}).items():
            schema = content.get("schema")
            of = f": {self.kind(schema)}" if schema is not None else ""
            return f"``{content_type}``{of}", schema
        return "", None


def _limits(schema: Any) -> str:
    """Describe the bounds of a number."""
    said = [
        f"{word} {schema[key]:,}"
        for key, word in (("minimum", "at least"), ("exclusiveMinimum", "more than"), ("maximum", "at most"))
        if key in schema
    ]
    return f", {', '.join(said)}" if said else ""


class Routes(SphinxDirective):
    """``.. routes:: TAG``: the routes with a tag."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        described = Description(load_description())
        lines: list[str] = []
        for path, operations in described.document["paths"].items():
            for method in METHODS:
                operation = operations.get(method)
                if operation is not None and self.arguments[0] in operation["tags"]:
                    parameters = [*operations.get("parameters", ()), *operation.get("parameters", ())]
                    lines += self._route(described, method, path, operation, parameters)
        self.env.note_reread()
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)

    def _route(
        self, described: Description, method: str, path: str, operation: Any, parameters: list[Any]
    ) -> Iterator[str]:
        title = operation["summary"]
        yield from ("", f".. _route-{operation['operationId'].lower()}:", "", title, "~" * len(title), "")
        yield from (".. code-block:: http", "", f"   {method.upper()} {path} HTTP/1.1", "")
        yield from (operation.get("description", ""), "")
        ways = operation.get("security", [{}])
        names = [TOKENS[each] for way in ways for each in way]
        optional = " (not on loopback)" if {} in ways and names == [TOKENS["bearer"]] else ""
        yield f":Token: {' or '.join(names) + optional if names else 'none'}"
        for parameter in map(described.resolved, parameters):
            if parameter["in"] != "path":
                said = f"{described.kind(parameter['schema'])}. {parameter.get('description', '')}".rstrip(". ")
                yield f":{parameter['in'].capitalize()} ``{parameter['name']}``: {said}"
        schema = None
        if "requestBody" in operation:
            kind, schema = described.body(operation["requestBody"])
            yield f":Body: {kind}"
        yield from ("",)
        if schema is not None:
            yield from described.table(schema)
        answered = None
        for status, response in operation["responses"].items():
            answer = described.resolved(response)
            kind, schema = described.body(response)
            if kind.endswith("<schema-error>`"):
                kind = ""
            elif schema is not None and "$ref" not in schema:
                answered = schema
            yield f"- **{status}** {answer['description']} {kind}".rstrip()
        yield ""
        if answered is not None:
            yield from described.table({**answered, **answered.get("items", {})})


class Schemas(SphinxDirective):
    """``.. schemas::``: a section for each named part of a body."""

    def run(self) -> list[nodes.Node]:
        described = Description(load_description())
        lines: list[str] = []
        for name, schema in described.document["components"]["schemas"].items():
            if any(key in schema for key in ("properties", "oneOf", "anyOf", "allOf")):
                lines += [
                    "",
                    f".. _schema-{name.lower()}:",
                    "",
                    name,
                    "~" * len(name),
                    "",
                    schema.get("description", ""),
                ]
                if "oneOf" in schema or "allOf" in schema:
                    parts = [each for each in schema.get("oneOf", schema.get("allOf")) if "$ref" in each]
                    if parts:
                        joint = " or " if "oneOf" in schema else " and "
                        lines += ["", f"{joint.join(map(described.kind, parts))}, and:".strip(), ""]
                lines += described.table(schema)
        self.env.note_reread()
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class SeedKeys(SphinxDirective):
    """``.. seed-keys::``: a table of every key of a seed file."""

    def run(self) -> list[nodes.Node]:
        schema = load_schema("seed.json")
        self.env.note_reread()
        return self.parse_text_to_nodes("\n".join(Description(schema).table(schema)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives to Sphinx."""
    app.add_directive("routes", Routes)
    app.add_directive("schemas", Schemas)
    app.add_directive("seed-keys", SeedKeys)
    return {"parallel_read_safe": True}
