"""Which bearer tokens were issued."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface, implementer

from ..model.tokens import MOST_TOKENS, IssuedToken


class ITokenStore(Interface):
    """The bearer tokens that were issued, by their L{fingerprint}."""

    def put(digest: bytes, issued: IssuedToken) -> Deferred[None]:
        """
        Keep a token until it expires, or until too many others have come after it.
        """

    def get(digest: bytes) -> Deferred[IssuedToken | None]:
        """
        What is known of a token, expired or not.
        """

    def delete(digest: bytes) -> Deferred[None]:
        """
        End a token.
        """


@implementer(ITokenStore)
class MemoryTokens:
    """The tokens of an emulator that is one process."""

    def __init__(self, now: Callable[[], float]) -> None:
        """
        @param now: the time in seconds since the epoch.
        """
        self._now = now
        self._issued: OrderedDict[bytes, IssuedToken] = OrderedDict()

    def put(self, digest: bytes, issued: IssuedToken) -> Deferred[None]:
        """See L{ITokenStore.put}."""
        if len(self._issued) >= MOST_TOKENS:
            now = self._now()
            for expired in [each for each, token in self._issued.items() if token.expires_at <= now]:
                del self._issued[expired]
        while len(self._issued) >= MOST_TOKENS:
            self._issued.popitem(last=False)
        self._issued[digest] = issued
        return succeed(None)

    def get(self, digest: bytes) -> Deferred[IssuedToken | None]:
        """See L{ITokenStore.get}."""
        return succeed(self._issued.get(digest))

    def delete(self, digest: bytes) -> Deferred[None]:
        """See L{ITokenStore.delete}."""
        self._issued.pop(digest, None)
        return succeed(None)
