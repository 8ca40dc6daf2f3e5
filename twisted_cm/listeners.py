"""The sockets that the emulator listens on."""

from __future__ import annotations

import ipaddress
import resource
import select
import socket
from contextlib import suppress
from typing import Any

from twisted.logger import Logger

_log = Logger()

_BACKLOG = 4096


#: How many files a server should be able to open: each party that parks has a connection, and each is a file.
_WANTED_FILES = 8192


class CannotStart(Exception):
    """The service cannot be made; the message says what to do."""


def is_loopback(interface: str) -> bool:
    """
    @return: whether an address to listen on can be reached from this machine only.
    """
    if interface == "localhost":
        return True
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def raise_file_limit() -> None:
    """Let this process open as many files as it may, and say so if they are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            # Some systems have a limit below what they say is the limit.
            pass
    if soft != resource.RLIM_INFINITY and soft < _WANTED_FILES:
        _log.warn(
            "only {limit} files may be open, and each connection is one; raise that with ulimit -Hn {wanted}",
            limit=soft,
            wanted=_WANTED_FILES,
        )


def bind(interface: str, port: int, option: str) -> socket.socket:
    """Bind and listen; C{option} is what the user would change."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            interface, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise CannotStart(f"cannot listen on {interface}: {error}; choose another address with --interface") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise CannotStart(
            f"cannot listen on {interface} port {port}: {error.strerror}; choose another port with {option},"
            " 0 for any that is free"
        ) from None
    return listener


def refuse_more(listener: socket.socket, port: Any) -> None:
    """
    Take in whoever has connected already, and refuse everybody else at once.

    A port that is told to stop still has its socket for a turn of the reactor,
    in which clients could connect and never be answered.
    """
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    for _ in range(_BACKLOG):
        if not waiting.poll(0):
            break
        port.doRead()
    # Where this is not known, the socket is closed a turn later.
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def url_of(scheme: str, interface: str, listener: socket.socket | None) -> str | None:
    if listener is None:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(interface, interface)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{_port_of(listener)}"
