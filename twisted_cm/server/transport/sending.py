"""How bytes leave a connection: straight to the operating system, as long as it takes them."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.tcp import Connection

# Joining the flags each time would take longer than the look.
_LOOK = socket.MSG_PEEK | socket.MSG_DONTWAIT


def is_quiet(connection: socket.socket) -> bool:
    """Return whether nothing has arrived that is to be read."""
    try:
        connection.recv(1, _LOOK)
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
            try:
                sent = 0 if unless_arrived and not is_quiet(self._socket) else self._socket.send(data)
            except OSError:
                # The transport waits until the socket takes bytes, or finds out why it takes none.
                sent = 0
            if sent == len(data):
                return
            self._socket = None
            data = data[sent:]
        self._transport.write(data)

    def stop(self) -> None:
        """Leave everything to the transport from now on, because it is being closed."""
        self._socket = None
