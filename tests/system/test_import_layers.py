"""The drawing of the imports between the rooms of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import ROOT

PACKAGE = ROOT / "twisted_cm"
COMMAND = ROOT / "docs" / "_ext" / "import_layers.py"
GROUP = "{http://www.w3.org/2000/svg}g"


@pytest.fixture(scope="module")
def drawing() -> ElementTree.Element:
    ran = subprocess.run([sys.executable, str(COMMAND)], capture_output=True, text=True, timeout=60, check=True)
    return ElementTree.fromstring(ran.stdout)


def groups(drawing: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [each for each in drawing.iter(GROUP) if kind in each.get("class", "").split()]


def name_of_module(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def imported_modules(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the modules of the package that a file imports, as the file writes them."""
    module = name_of_module(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(each.name.split(".")) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level] if node.level else ()
            target = (*base, *(node.module or "").split("."))
            yield from ((*filter(None, target), each.name) for each in node.names)


def test_every_room_is_in_the_drawing_once(drawing: ElementTree.Element) -> None:
    rooms = {
        each.stem
        for each in PACKAGE.iterdir()
        if (each.suffix == ".py" and not each.stem.startswith("__")) or (each / "__init__.py").exists()
    }
    assert sorted(rooms) == sorted(each.get("data-room", "") for each in groups(drawing, "room"))


def test_an_arrow_is_only_where_the_code_imports(drawing: ElementTree.Element) -> None:
    rooms = {each.get("data-room") for each in groups(drawing, "room")}
    imports = {
        (name_of_module(path)[1], module[1])
        for path in PACKAGE.rglob("*.py")
        for module in imported_modules(path)
        if module[0] == PACKAGE.name
    }
    expected = {(one, other) for one, other in imports if one != other and rooms.issuperset((one, other))}
    arrows = [(each.get("data-from"), each.get("data-to")) for each in groups(drawing, "import")]
    assert sorted(arrows, key=str) == sorted(expected, key=str)


def test_no_arrow_leads_upward(drawing: ElementTree.Element) -> None:
    assert [each.attrib for each in groups(drawing, "upward")] == []
