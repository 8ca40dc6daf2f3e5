"""Draw the imports between the rooms of the package, from the top layer to the bottom one.

The layers are read from the contract in pyproject.toml that import-linter checks; the imports are read from the code.
The drawing is the directive ``import-layers`` on the page on the architecture, and a command::

    python docs/_ext/import_layers.py > imports.svg
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import grimp
from attrs import frozen
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"

#: How many imports lead from one room (the first) to another.
Imports = Mapping[tuple[str, str], int]

# Sizes in the drawing's units. A step is what one box stands to the right of the one above it.
BOX_WIDTH, BOX_HEIGHT = 96, 26
STEP, ROW = 38, 36
MARGIN, BAND_GAP, CORNER = 12, 4, 7

# Colors follow the text of the page. A file of its own has no page, so the root element sets them.
STYLE = """
svg:root { color: #1d2733; background: #ffffff; }
@media (prefers-color-scheme: dark) { svg:root { color: #e4e8ec; background: #14181d; } }
.import-layers { font: 13px system-ui, sans-serif; }
.import-layers text { fill: currentColor; }
.import-layers .layer { fill: currentColor; fill-opacity: .05; }
.import-layers .room rect { fill: currentColor; fill-opacity: .07; stroke: currentColor; stroke-opacity: .55; }
.import-layers .room text { text-anchor: middle; font-weight: 600; }
.import-layers .import path { fill: none; stroke: #3f8fbf; stroke-width: 1.6; }
.import-layers .import text { font-size: 11px; text-anchor: end; fill-opacity: .85; }
.import-layers .import.upward path { stroke: #d2452f; stroke-dasharray: 5 3; }
.import-layers .import:hover path { stroke: #e08a1e; stroke-width: 3; }
.import-layers marker path { fill: #3f8fbf; }
"""


@frozen
class Layers:
    """The layers of a package as import-linter's contract has them.

    Attributes:
        package: The name of the package.
        rows: The rooms of each layer, top layer first.
    """

    package: str
    rows: tuple[tuple[str, ...], ...]

    @property
    def rooms(self) -> list[str]:
        """The rooms from top to bottom."""
        return [room for row in self.rows for room in row]


def read_layers(pyproject: Path = PYPROJECT) -> Layers:
    """Read the layers from the first contract of that type in pyproject.toml."""
    settings = tomllib.loads(pyproject.read_text("utf-8"))["tool"]["importlinter"]
    contract = next(each for each in settings["contracts"] if each["type"] == "layers")
    # "a | b" are rooms that may not import each other, "a : b" are rooms that may, and "(a)" need not exist.
    rows = ([part.strip("() ") for part in layer.replace(":", "|").split("|")] for layer in contract["layers"])
    return Layers(settings["root_package"], tuple(map(tuple, rows)))


def read_imports(layers: Layers) -> Imports:
    """Count the imports between modules of different rooms."""
    # Without a cache: building the documentation leaves no files behind.
    graph = grimp.build_graph(layers.package, cache_dir=None)
    known = set(layers.rooms)
    found: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            rooms = _room(importer), _room(imported)
            if rooms[0] != rooms[1] and known.issuperset(rooms):
                found[rooms] += 1
    return found


def _room(module: str) -> str:
    """Return the room of a module; the package itself is in none."""
    return module.split(".")[1] if "." in module else ""


def draw(layers: Layers, imports: Imports) -> str:
    """Draw rooms and imports as SVG.

    Each box stands one step below and to the right of the one before. An import leaves a box to the right, turns in the
    column of the imported room and runs down to it, so no arrow crosses a box. An import against the layers, which
    import-linter refuses, is dashed and runs up on the left.
    """
    width = 2 * MARGIN + BOX_WIDTH + STEP * (len(layers.rooms) - 1) + STEP // 2
    height = 2 * MARGIN + ROW * len(layers.rooms) + BAND_GAP * (len(layers.rows) - 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" class="import-layers" role="img" aria-labelledby="import-layers-title">',
        f'<title id="import-layers-title">Imports between the rooms of {escape(layers.package)}</title>',
        f"<style>{STYLE}</style>",
        '<defs><marker id="import-layers-tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 0 10 5 0 10z"/></marker></defs>',
    ]
    places: dict[str, tuple[int, int]] = {}
    top = MARGIN
    for row in layers.rows:
        size = f'width="{width - MARGIN}" height="{ROW * len(row)}"'
        lines.append(f'<rect class="layer" x="{MARGIN // 2}" y="{top}" {size} rx="6"/>')
        for room in row:
            places[room] = (MARGIN + STEP * len(places), top + ROW // 2)
            top += ROW
        top += BAND_GAP
    for (importer, imported), number in sorted(imports.items(), key=lambda item: _order(layers, *item[0])):
        lines += _draw_import(importer, imported, number, places)
    for room, (left, middle) in places.items():
        lines += _draw_room(room, left, middle)
    return "\n".join([*lines, "</svg>"])


def _order(layers: Layers, importer: str, imported: str) -> tuple[int, int]:
    return layers.rooms.index(importer), layers.rooms.index(imported)


def _draw_room(room: str, left: int, middle: int) -> Iterator[str]:
    yield f'<g class="room" data-room="{escape(room)}">'
    yield f'<rect x="{left}" y="{middle - BOX_HEIGHT // 2}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>'
    yield f'<text x="{left + BOX_WIDTH // 2}" y="{middle + 5}">{escape(room)}</text></g>'


def _draw_import(importer: str, imported: str, number: int, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    left, start = places[importer]
    target, end = places[imported]
    if end > start:
        kind, column = "import", target + BOX_WIDTH - STEP // 2
        path = f"M{left + BOX_WIDTH} {start}H{column - CORNER}q{CORNER} 0 {CORNER} {CORNER}V{end - BOX_HEIGHT // 2}"
        label = column - 5
    else:
        kind, column = "import upward", target - STEP // 4
        path = f"M{left} {start}H{column + CORNER}q-{CORNER} 0 -{CORNER} -{CORNER}V{end}H{target}"
        label = left - 5
    yield f'<g class="{kind}" data-from="{escape(importer)}" data-to="{escape(imported)}">'
    yield f"<title>{escape(importer)} imports {escape(imported)}: {number}</title>"
    yield f'<path d="{path}" marker-end="url(#import-layers-tip)"/>'
    yield f'<text x="{label}" y="{start - 4}">{number}</text></g>'


class ImportLayers(SphinxDirective):
    """``.. import-layers::``: the drawing, in a page of HTML."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        layers = read_layers()
        drawing = draw(layers, read_imports(layers))
        # On a narrow screen the drawing scrolls instead of the page.
        return [nodes.raw("", f'<div style="overflow-x: auto">{drawing}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive to Sphinx."""
    app.add_directive("import-layers", ImportLayers)
    return {"parallel_read_safe": True}


def main() -> None:
    """Print the drawing."""
    layers = read_layers()
    print(draw(layers, read_imports(layers)))


if __name__ == "__main__":
    main()
