"""TLS over the connections of a site."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory, IReactorTime
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol


def over_tls(options: IOpenSSLServerConnectionCreator, site: IProtocolFactory, clock: IReactorTime) -> IProtocolFactory:
    """Return a factory of the same connections over TLS.

    Each write is encrypted and passed on at once, so that a connection can tell when the operating system has it.
    Twisted's default collects small writes until the next turn of the reactor and does not tell when they are gone.
    """
    factory = TLSMemoryBIOFactory(options, False, site, clock)
    factory.protocol = TLSMemoryBIOProtocol
    return factory


def tcp_connection(transport: Any) -> FileDescriptor | None:
    """Return the TCP connection of a transport, which is below it over TLS; ``None`` for a connection in memory."""
    descriptor = getattr(transport, "transport", transport)
    return descriptor if isinstance(descriptor, FileDescriptor) else None
