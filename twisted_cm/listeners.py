"""The sockets that the emulator listens on.

Sockets are bound when the service is made, not when it starts, so that a port in use is known before a daemon detaches
or drops a privilege.
"""

from __future__ import annotations

import ipaddress
import resource
import select
import socket
from contextlib import suppress
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger

from .config.settings import DEFAULT_TLS_PORT
from .config.tls import ServerCertificate
from .model.addresses import Addresses
from .server.transport.tls import over_tls

#: How many connections may wait for a socket to take them.
BACKLOG = 4096

#: The number of files that a server should be able to open. Each parked caller and poll has a connection, a file each.
_WANTED_FILES = 8192

_log = Logger()


class CannotStart(Exception):
    """The service cannot be made; the message says what to do."""


@frozen
class Listener:
    """The bound sockets of one site, and the addresses at which clients reach them.

    Attributes:
        plain: The socket for HTTP, or ``None``.
        tls: The socket for HTTPS, or ``None``.
    """

    plain: socket.socket | None
    tls: socket.socket | None
    addresses: Addresses


class Listeners:
    """All sockets of one emulator."""

    def __init__(self, reactor: Any, certificate: ServerCertificate | None, base_url: str | None, listen: bool) -> None:
        """Make an object that has no sockets yet.

        Args:
            reactor: Serves the sockets.
            certificate: The certificate for HTTPS; ``None`` for no TLS sockets.
            base_url: The URL that clients use in place of the sockets' addresses.
            listen: Whether to bind sockets at all.
        """
        self._reactor = reactor
        self._certificate = certificate
        self._context_factory = certificate.options() if certificate is not None else None
        self._base_url = base_url
        self._listen = listen
        self._sockets: list[socket.socket] = []
        self._ports: list[tuple[socket.socket, IListeningPort]] = []

    def bind(self, interface: str, port: int, tls_port: int | None, option_prefix: str = "--") -> Listener:
        """Bind the sockets of one site.

        Args:
            interface: The address to listen on.
            port: The port for HTTP; 0 picks a free one.
            tls_port: The port for HTTPS; 0 picks a free one, ``None`` the default one or, if it is in use, a free one.
            option_prefix: How the command-line options that set the ports begin, for error messages.

        Raises:
            CannotStart: A port is in use, or the address is not one of this machine.
        """
        plain = self._bind(interface, port, f"{option_prefix}port") if self._listen else None
        tls = None
        if self._listen and self._context_factory is not None:
            tls = self._bind_tls(interface, tls_port, f"{option_prefix}tls-port")
        return Listener(
            plain,
            tls,
            Addresses(
                http=_url("http", interface, plain),
                https=_url("https", interface, tls),
                ca_certificate=None if self._certificate is None else self._certificate.ca_certificate,
                base_url=self._base_url,
            ),
        )

    def _bind_tls(self, interface: str, port: int | None, option: str) -> socket.socket:
        try:
            return self._bind(interface, DEFAULT_TLS_PORT if port is None else port, option)
        except CannotStart:
            if port is not None:
                raise
        # Another emulator is likely to have it. Nobody asked for that port, and clients are told the one in use.
        return self._bind(interface, 0, option)

    def _bind(self, interface: str, port: int, option: str) -> socket.socket:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                interface, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except (OSError, UnicodeError) as error:
            raise CannotStart(
                f"cannot listen on {interface}: {error}; choose another address with --interface"
            ) from None
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
            bound.setblocking(False)
        except OSError as error:
            bound.close()
            raise CannotStart(
                f"cannot listen on {interface} port {port}: {error.strerror}; choose another port with {option},"
                " or 0 for any free port"
            ) from None
        self._sockets.append(bound)
        return bound

    def serve(self, listener: Listener, site: IProtocolFactory) -> None:
        """Take connections on the sockets of a site."""
        if listener.plain is not None:
            self._adopt(listener.plain, site)
        if listener.tls is not None:
            assert self._context_factory is not None
            self._adopt(listener.tls, over_tls(self._context_factory, site, self._reactor))

    def _adopt(self, bound: socket.socket, factory: IProtocolFactory) -> None:
        port = self._reactor.adoptStreamPort(bound.fileno(), bound.family, factory)
        self._ports.append((bound, port))

    def stop(self) -> list[Deferred[None]]:
        """Refuse new connections and close the sockets.

        Returns:
            Deferreds that fire when the sockets are closed.
        """
        for bound, port in self._ports:
            _refuse_more(bound, port)
        self.close()
        stopping = [port.stopListening() for _, port in self._ports]
        self._ports.clear()
        return [each for each in stopping if each is not None]

    def close(self) -> None:
        """Close the sockets that this object has bound; those that are served stay open in the reactor."""
        for bound in self._sockets:
            bound.close()
        self._sockets.clear()


def is_loopback(interface: str) -> bool:
    """Return whether an address to listen on can be reached from this machine only."""
    if interface == "localhost":
        return True
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def raise_file_limit() -> None:
    """Let this process open as many files as the system allows, and warn if they are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # On some systems the real limit is lower than the reported one.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < _WANTED_FILES:
        _log.warn(
            "only {limit} files may be open, and each connection needs one; allow more with: ulimit -Hn {wanted}",
            limit=soft,
            wanted=_WANTED_FILES,
        )


def _refuse_more(bound: socket.socket, port: Any) -> None:
    """Accept the clients that have connected already, and refuse all others at once.

    A port that is told to stop keeps its socket for one more turn of the reactor. Clients that connected in that turn
    would never be answered.
    """
    waiting = select.poll()
    waiting.register(bound, select.POLLIN)
    for _ in range(BACKLOG):
        if not waiting.poll(0):
            break
        port.doRead()
    # Some systems cannot shut down a listening socket; there, it is closed one turn later.
    with suppress(OSError):
        bound.shutdown(socket.SHUT_RDWR)


def _url(scheme: str, interface: str, bound: socket.socket | None) -> str | None:
    if bound is None:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(interface, interface)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
