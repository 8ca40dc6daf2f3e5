"""
The dashboard: a page that shows what the emulator does, and the files that it is made of.

They say nothing of anybody's jobs, so they need no token; the page asks for
one and sends it to the routes of inspection.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath

from attrs import frozen
from klein import Klein
from twisted.web.http import CACHED

from ...model.paths import DASHBOARD, EMULATOR
from .. import errors
from ..transport.request import EmulatorRequest

#: Where the page is; what follows the slash are its own routes and everybody's.


_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


#: What a job holds is put on the page as text; should it ever be more than that, the browser does not run it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@frozen
class _File:
    content: bytes
    content_type: str
    tag: bytes


class DashboardRoutes:
    """The routes of the page and its files."""

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        app.route(EMULATOR, methods=["GET"])(self.to_page)
        app.route(DASHBOARD, methods=["GET"])(self.page)
        app.route(f"{DASHBOARD}dashboard/<id:name>", methods=["GET"])(self.file)

    def to_page(self, request: EmulatorRequest) -> bytes:
        """C{GET} of the prefix without its slash, on which the page's own addresses are built."""
        request.setHeader("Location", DASHBOARD)
        return request.answer(b"", "text/plain", 308)

    def page(self, request: EmulatorRequest) -> bytes:
        """C{GET /}: the page."""
        return _send(request, _files()["index.html"])

    def file(self, request: EmulatorRequest, name: str) -> bytes:
        """C{GET /dashboard/{name}}: a script, a style or an image of the page."""
        found = _files().get(name)
        if found is None:
            raise errors.not_found(f"The dashboard has no file '{name}'.", name=name)
        return _send(request, found)


@lru_cache
def _files() -> dict[str, _File]:
    # Read when somebody asks for the first time, and then no more: what is served is of one version.
    found = {}
    for each in files("twisted_cm.server").joinpath("dashboard").iterdir():
        content = each.read_bytes()
        tag = f'"{sha256(content).hexdigest()[:32]}"'.encode("ascii")
        found[each.name] = _File(content, _CONTENT_TYPES[PurePath(each.name).suffix], tag)
    return found


def _send(request: EmulatorRequest, found: _File) -> bytes:
    # The browser keeps it and asks each time whether it still holds, so an upgrade is never half there.
    request.setHeader("Cache-Control", "no-cache")
    request.setHeader("Content-Security-Policy", _POLICY)
    request.setHeader("X-Content-Type-Options", "nosniff")
    request.setHeader("Referrer-Policy", "no-referrer")
    if request.setETag(found.tag) is CACHED:
        return b""
    return request.answer(found.content, found.content_type)
