"""The bearer tokens that an emulator has issued."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from zope.interface import Attribute, Interface, implementer

from ..model.tokens import MOST_TOKENS, IssuedToken


class ITokenStore(Interface):
    """The bearer tokens that were issued, by :func:`~twisted_cm.model.tokens.fingerprint`."""

    job_key: bytes = Attribute(
        """The key of :func:`~twisted_cm.model.tokens.job_token`, random, and the same in all processes that share a
        broker. The tokens of jobs are not kept: they follow from it."""
    )

    def put(digest: bytes, issued: IssuedToken) -> Deferred[None]:
        """Keep a token until it expires, or until :data:`MOST_TOKENS` others were issued after it."""

    def get(digest: bytes) -> Deferred[IssuedToken | None]:
        """Return a token, or ``None`` if it is not kept. The token may have expired."""

    def delete(digest: bytes) -> Deferred[None]:
        """Remove a token, if it is kept."""


@implementer(ITokenStore)
class MemoryTokens:
    """The tokens of an emulator that is one process."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin without tokens.

        Args:
            now: Returns the time in seconds since the epoch.
        """
        self.job_key = secrets.token_bytes(32)
        self._now = now
        self._issued: OrderedDict[bytes, IssuedToken] = OrderedDict()

    def put(self, digest: bytes, issued: IssuedToken) -> Deferred[None]:
        if len(self._issued) >= MOST_TOKENS:
            now = self._now()
            for expired in [each for each, token in self._issued.items() if token.expires_at <= now]:
                del self._issued[expired]
        while len(self._issued) >= MOST_TOKENS:
            self._issued.popitem(last=False)
        self._issued[digest] = issued
        return succeed(None)

    def get(self, digest: bytes) -> Deferred[IssuedToken | None]:
        return succeed(self._issued.get(digest))

    def delete(self, digest: bytes) -> Deferred[None]:
        self._issued.pop(digest, None)
        return succeed(None)
