"""What the failure of an HTTP request means for the client's user."""

from __future__ import annotations

from collections.abc import Iterator

from OpenSSL.SSL import Error as TLSError
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.web.client import RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed

from .errors import AnswerLost, CannotConnect, UntrustedServer
from .twisted_private import RequestNotSent


def meaning(error: Exception, url: str) -> Exception:
    """Return the exception to raise for a request that failed.

    Args:
        error: What the HTTP client raised.
        url: The emulator's base URL, for the message.

    Returns:
        A :class:`~twisted_cm.client.ComputeModulesError` for a failure of the connection, ``CancelledError`` for a
        request that was canceled, the exception of the iterator for a body that broke off, and otherwise ``error``.
    """
    causes = list(_causes(error))
    reason = str(causes[-1]).rstrip(".") or type(causes[-1]).__name__
    if any(isinstance(each, CancelledError | ConnectingCancelledError) for each in causes):
        return CancelledError()
    if isinstance(error, RequestGenerationFailed) and isinstance(causes[-1], Exception):
        return causes[-1]
    if any(isinstance(each, TLSError) for each in causes):
        return UntrustedServer(f"{url} cannot be trusted: {reason}")
    if isinstance(error, ConnectError | DNSLookupError | RequestNotSent):
        return CannotConnect(f"{url} cannot be reached: {reason}")
    if isinstance(error, RequestTransmissionFailed | ResponseFailed | ConnectionClosed):
        return AnswerLost(f"The connection to {url} was lost before its answer: {reason}")
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and, recursively, the reasons that Twisted's HTTP client recorded in it."""
    yield error
    for reason in getattr(error, "reasons", None) or ():
        yield from _causes(reason.value)
