"""The dashboard: a page that shows what the emulator does, and the files that it is made of.

The files hold no data of jobs or runtimes, so they load without a token. The page asks
for a token and sends it to the routes of inspection.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath

from attrs import frozen
from werkzeug.http import parse_etags, quote_etag

from ...model.paths import DASHBOARD, EMULATOR
from .. import errors
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

#: The page shows what jobs hold as text only; if a script ever got into it, the browser would not run it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@frozen
class _File:
    content: bytes
    content_type: str
    tag: str


class DashboardRoutes:
    """The routes of the page and its files."""

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        add_routes(
            app,
            [
                ("GET", EMULATOR, self.to_page),
                ("GET", DASHBOARD, self.page),
                ("GET", f"{DASHBOARD}dashboard/<id:name>", self.file),
            ],
        )

    def to_page(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET`` without the final slash: redirect, because the links of the page start from the slash."""
        request.setHeader("Location", DASHBOARD)
        return request.answer(b"", "text/plain", 308)

    def page(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /`` with the page."""
        return _send(request, _files()["index.html"])

    def file(self, request: EmulatorRequest, name: str) -> bytes:
        """Answer ``GET /dashboard/{name}`` with a script, a style sheet or an image of the page."""
        found = _files().get(name)
        if found is None:
            raise errors.not_found(f"The dashboard has no file '{name}'.", name=name)
        return _send(request, found)


@lru_cache
def _files() -> dict[str, _File]:
    # Read once, so that all files come from one version even if the package is upgraded meanwhile.
    found = {}
    for each in files("twisted_cm.server").joinpath("dashboard").iterdir():
        content = each.read_bytes()
        tag = sha256(content).hexdigest()[:32]
        found[each.name] = _File(content, _CONTENT_TYPES[PurePath(each.name).suffix], tag)
    return found


def _send(request: EmulatorRequest, found: _File) -> bytes:
    # The browser keeps the file but checks its tag each time, so it never mixes files of two versions.
    request.setHeader("Cache-Control", "no-cache")
    request.setHeader("Content-Security-Policy", _POLICY)
    request.setHeader("X-Content-Type-Options", "nosniff")
    request.setHeader("Referrer-Policy", "no-referrer")
    request.setHeader("ETag", quote_etag(found.tag))
    if parse_etags(request.header("If-None-Match")).contains_weak(found.tag):
        request.setResponseCode(304)
        return b""
    return request.answer(found.content, found.content_type)
