"""Sockets that the parent binds and the workers serve.

Each worker has sockets of its own, all on the same ports (``SO_REUSEPORT``), and Linux spreads the connections over
them. With one socket for all workers, a worker that is awake takes a whole burst of connections, and keeps them: of 72
connections, one of two idle workers got 64 on average and at times all. With a socket each, it got 39 on average.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from ..listeners import BACKLOG, CannotStart, Listener, Listeners


class KeptListeners(Listeners):
    """The sockets of the parent: bound, handed to the workers, and served by them."""

    def __init__(self, *args: Any) -> None:
        """Make an object that has no sockets yet.

        Args:
            args: Those of :class:`.Listeners`.
        """
        super().__init__(*args)
        self._of_workers: dict[int, tuple[socket.socket, ...]] = {}
        self._places: list[tuple[int, Any]] = []

    def _bind(self, interface: str, port: int, option: str) -> socket.socket:
        # Only then is an error raised if another emulator has the port, with workers or without.
        first = super()._bind(interface, port, option)
        self._places.append((first.family, first.getsockname()))
        return first

    def share(self, workers: int) -> None:
        """Make the sockets of all workers. Connections wait until a worker takes them.

        Raises:
            CannotStart: The system does not let several sockets have one port.
        """
        for first in self._sockets:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._of_workers[1], self._sockets = tuple(self._sockets), []
        for number in range(2, workers + 1):
            try:
                for each in self.sockets_of(number):
                    each.listen(BACKLOG)
            except OSError as error:
                raise CannotStart(
                    f"several workers cannot listen on one port here: {error.strerror}; leave --workers out"
                ) from None

    def sockets_of(self, number: int) -> tuple[socket.socket, ...]:
        """Return the sockets of a worker, in the order in which the emulator binds them.

        Sockets that are new get connections once the worker listens.

        Raises:
            OSError: They cannot be bound.
        """
        if number not in self._of_workers:
            self._of_workers[number] = tuple(_bind_beside(family, name) for family, name in self._places)
        return self._of_workers[number]

    def drop(self, number: int) -> None:
        """Close the sockets of a worker that has ended, so that the other workers get all connections."""
        for each in self._of_workers.pop(number, ()):
            each.close()

    def serve(self, listener: Listener, site: IProtocolFactory) -> None:
        """Leave that to the workers."""

    def close(self) -> None:
        """Close all sockets."""
        for number in list(self._of_workers):
            self.drop(number)
        super().close()


class InheritedListeners(Listeners):
    """The sockets of a worker, which the parent has bound."""

    def __init__(self, sockets: Iterable[socket.socket], *args: Any) -> None:
        """Take the sockets over.

        Args:
            sockets: In the order in which the parent has bound them.
            args: Those of :class:`.Listeners`.
        """
        super().__init__(*args)
        self._inherited = iter(sockets)

    def _bind(self, interface: str, port: int, option: str) -> socket.socket:
        inherited = next(self._inherited)
        self._sockets.append(inherited)
        return inherited

    def _adopt(self, bound: socket.socket, factory: IProtocolFactory) -> None:
        bound.listen(BACKLOG)
        super()._adopt(bound, factory)


def _bind_beside(family: int, name: Any) -> socket.socket:
    """Return a socket at an address where others listen already."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(name)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound
