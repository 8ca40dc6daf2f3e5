"""Sockets that one process binds and others serve."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory

from ..listeners import Listener, Listeners, shut_down


class KeptListeners(Listeners):
    """The sockets of the parent: bound, and served by the workers."""

    def serve(self, listener: Listener, site: IProtocolFactory) -> None:
        """Leave that to the workers."""

    def stop(self, shut: bool = True) -> list[Deferred[None]]:
        """Close the sockets. The workers have ended."""
        for bound in self.sockets:
            shut_down(bound)
        return super().stop()


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

    def stop(self, shut: bool = False) -> list[Deferred[None]]:
        """Close the sockets of this process. By default, the other workers go on serving theirs."""
        return super().stop(shut)
