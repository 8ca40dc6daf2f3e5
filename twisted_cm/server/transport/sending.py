"""How bytes leave a connection: straight to the operating system, as long as it takes them."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from twisted.internet.tcp import Connection


def is_quiet(connection: socket.socket) -> bool:
    """Return whether nothing has arrived that is to be read."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class Sender:
    """Sends bytes over a transport.

    Twisted sends what is written in the next turn of the reactor, and tells epoll twice for each answer what it waits
    for. Here the socket takes the bytes at once. When it does not take all of them, the rest and everything later goes
    through the transport, which keeps the order and paces its producer.
    """

    __slots__ = ("_socket", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        # Over TLS, only the transport can write.
        self._socket: socket.socket | None = transport.socket if isinstance(transport, Connection) else None

    @property
    def all_sent(self) -> bool:
        """Whether it is certain that the operating system has everything that was written."""
        return self._socket is not None

    def write(self, data: bytes, unless_arrived: bool = False) -> None:
        """Send bytes.

        Args:
            data: The bytes.
            unless_arrived: If something has arrived, send nothing before it is read. It may be the end of the
                connection.
        """
        if self._socket is not None:
            sent = 0
            if not unless_arrived or is_quiet(self._socket):
                # If the socket takes nothing, the transport waits until it does, or finds out why.
                with suppress(OSError):
                    sent = self._socket.send(data)
            if sent == len(data):
                return
            self._socket = None
            data = data[sent:]
        self._transport.write(data)

    def stop(self) -> None:
        """Leave everything to the transport from now on, because it is being closed."""
        self._socket = None
