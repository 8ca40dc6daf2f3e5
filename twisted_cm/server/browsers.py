"""What a browser may do here.

Some routes need no token on loopback, so a web page that is open in a browser on this
machine must not reach them: neither by a host name that was made to point here (DNS
rebinding), nor by a request across sites. Clients other than browsers send neither
``Origin`` nor ``Sec-Fetch-Site``.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from attrs import frozen

from ..model.paths import AUTHORIZE
from . import errors
from .transport.request import EmulatorRequest

#: The names that this machine has for itself; containers call it by the second.
_OWN_NAMES = ("localhost", "host.docker.internal")

#: The last five are sent by OSDK clients.
_ALLOWED_HEADERS = (
    "Authorization, Content-Type, Module-Auth-Token, Prefer, Idempotency-Key,"
    " Fetch-User-Agent, X-OSDK-Request-Context, Attribution, TraceParent, TraceState"
)
_EXPOSED_HEADERS = "X-Job-Id, X-Query-Validation, Preference-Applied, Retry-After"


@frozen
class BrowserGuard:
    """Looks at each request before it is routed.

    Attributes:
        hosts: The names that a ``Host`` header may have in addition to IP addresses and this machine's own names.
            ``None`` allows any name, for an emulator that listens beyond loopback.
        origins: The origins whose pages may call, such as ``https://host:port``.
        only_loopback: Whether the IP addresses have to be loopback addresses as browsers know them. To others, such as
            0.0.0.0, browsers send requests without the headers that tell of pages.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()
    only_loopback: bool = False

    def admit(self, request: EmulatorRequest) -> bool:
        """Return whether the request may be routed; if not, it has been answered."""
        try:
            host = self._host(request)
            if "origin" not in request.headers and "sec-fetch-site" not in request.headers:
                return True
            origin = request.header("Origin")
            shared = _may_be_shared(request)
            if shared and origin is not None and origin in self.origins:
                _share(request, origin)
                if request.method == b"OPTIONS" and request.header("Access-Control-Request-Method") is not None:
                    _answer_preflight(request)
                    return False
            elif _changes_state(request) and _crosses_sites(request, origin, host):
                page = "A page of another site" if origin is None else f"A page of the origin '{origin}'"
                advice = "Allow its origin with --cors-origin." if shared else "Send the browser to this URL."
                raise errors.forbidden(f"{page} may not do this. {advice}")
        except errors.ApiError as error:
            request.write(request.error(error))
            request.finish()
            return False
        return True

    def _host(self, request: EmulatorRequest) -> str:
        """Return the ``Host`` header, which a request must have once (RFC 9112, section 3.2)."""
        sent = request.headers.get("host", ())
        if len(sent) > 1 or (not sent and request.is_1_1):
            raise errors.invalid_request(f"The request has {len(sent)} Host headers. Send exactly one.")
        if not sent:
            return ""
        host, name = _read_host(sent[0])
        if not host.isascii():
            raise errors.invalid_request(f"The Host header '{host}' is not the name of a host.")
        if self.hosts is not None and not self._known(name):
            raise errors.forbidden(
                f"The Host header '{host}' does not name this machine. Call localhost or an IP address, or start the"
                " emulator with --allowed-host."
            )
        return host

    def _known(self, name: str | None) -> bool:
        if name is None:
            return False
        if name in _OWN_NAMES or name.endswith(".localhost") or (self.hosts is not None and name in self.hosts):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.only_loopback


@lru_cache(64)
def _read_host(sent: bytes) -> tuple[str, str | None]:
    """Return a ``Host`` header, and the name in it without the port, or ``None`` if it has no such form.

    Clients send the same header with each request, so it is remembered.
    """
    host = sent.decode("utf-8", "replace").strip().lower()
    try:
        return host, (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return host, None


def _may_be_shared(request: EmulatorRequest) -> bool:
    # A script that reads the page for signing in could answer it in place of a person (RFC 9700, section 2.6).
    # More than one slash at the front leads to the same route.
    return not request.path.endswith(AUTHORIZE.encode("ascii"))


def _changes_state(request: EmulatorRequest) -> bool:
    # A poll is a GET, but it takes a job from its queue.
    return request.method not in (b"GET", b"HEAD") or request.path.endswith(b"/job")


def _crosses_sites(request: EmulatorRequest, origin: str | None, host: str) -> bool:
    if origin is not None and (not host or origin.lower().partition("://")[2] != host):
        return True
    return request.header("Sec-Fetch-Site") in ("cross-site", "same-site")


def _share(request: EmulatorRequest, origin: str) -> None:
    """Let a page of an allowed origin read the answer."""
    request.setHeader("Access-Control-Allow-Origin", origin)
    request.setHeader("Access-Control-Expose-Headers", _EXPOSED_HEADERS)
    request.setHeader("Vary", "Origin")


def _answer_preflight(request: EmulatorRequest) -> None:
    request.setHeader("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE")
    request.setHeader("Access-Control-Allow-Headers", _ALLOWED_HEADERS)
    request.setHeader("Access-Control-Max-Age", "600")
    request.no_content()
    request.finish()
