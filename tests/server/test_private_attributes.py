"""Test that the server uses no private attribute of another object, be it one of Twisted."""

from __future__ import annotations

import ast
from pathlib import Path

import twisted_cm.server


def test_no_module_of_the_server_uses_a_private_attribute_of_another_object() -> None:
    root = Path(twisted_cm.server.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
                continue
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            assert own, f"{file.relative_to(root)}:{node.lineno}: {node.attr}"
