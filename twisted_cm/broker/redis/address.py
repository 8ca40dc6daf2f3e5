"""The address of a Redis."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from attrs import field, frozen
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint


class InvalidAddress(Exception):
    """The URL of a Redis is invalid; the message says why."""


@frozen
class Address:
    """Where a Redis is, and how to log in.

    Attributes:
        host: The host name, for TCP.
        port: The port, for TCP.
        path: The path of the Unix socket; ``None`` for TCP.
        user: The user name; ``None`` for the default user.
        password: The password; ``None`` if Redis needs none.
        db: The number of the database.
    """

    host: str
    port: int
    path: str | None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0

    @property
    def prefix(self) -> str:
        """The prefix of every key and channel.

        All databases of a Redis share its channels, so the prefix contains the number of the database.
        """
        return f"twisted-cm:{self.db}:"

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Return the endpoint that connects to it."""
        if self.path is not None:
            return UNIXClientEndpoint(reactor, self.path)
        return HostnameEndpoint(reactor, self.host.encode("ascii"), self.port)


def parse_address(url: str) -> Address:
    """Parse ``redis://[[user]:password@]host[:port][/db]`` or ``unix:///path[?db=N]``.

    Raises:
        InvalidAddress: The URL has neither form.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError as error:
        raise InvalidAddress(f"broker '{_shown(url)}': {error}") from None
    unix = parts.scheme == "unix"
    db = query.pop("db", ["0"])[-1] if unix else parts.path.strip("/") or "0"
    where = parts.path if unix else parts.hostname
    if parts.scheme not in ("redis", "unix") or query or not db.isdigit() or not where:
        raise InvalidAddress(
            f"broker '{_shown(url)}': give redis://[[user]:password@]host[:port][/db] or unix:///path[?db=N]"
        )
    return Address(
        parts.hostname or "",
        port,
        unquote(parts.path) if unix else None,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        int(db),
    )


def _shown(url: str) -> str:
    """Return a URL without its user name and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
