"""The bearer tokens that an emulator has issued, and what users have granted."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeVar

from attrs import define, evolve
from twisted.internet.defer import Deferred, succeed
from zope.interface import Attribute, Interface, implementer

from ..model.grants import MOST_GRANTS, Grant
from ..model.tokens import MOST_TOKENS, IssuedToken


class ITokenStore(Interface):
    """The bearer tokens that were issued, by :func:`~twisted_cm.model.tokens.fingerprint`, and the grants of users.

    A grant has an authorization code until it is redeemed, and then perhaps a refresh token. Of both, only the
    fingerprints are kept.
    """

    job_key: bytes = Attribute(
        """The key of :func:`~twisted_cm.model.tokens.job_token`, random, and the same in all processes that share a
        broker. The tokens of jobs are not kept: they follow from it."""
    )

    def put(digest: bytes, issued: IssuedToken) -> Deferred[None]:
        """Keep a token until it expires, or until :data:`MOST_TOKENS` others were issued after it."""

    def get(digest: bytes) -> Deferred[IssuedToken | None]:
        """Return a token, or ``None`` if it is not kept or its grant has ended. The token may have expired."""

    def delete(digest: bytes) -> Deferred[None]:
        """Remove a token, if it is kept."""

    def put_grant(grant_id: str, grant: Grant, code: bytes) -> Deferred[None]:
        """Keep a grant with the fingerprint of its code until it expires.

        If there are :data:`MOST_GRANTS` whose codes were not redeemed, the one that expires first ends. Redeemed grants
        are counted apart, so that codes that nobody redeems end no grant that is in use.
        """

    def get_grant(grant_id: str) -> Deferred[Grant | None]:
        """Return a grant, or ``None`` if it is not kept. The grant may have expired."""

    def redeem(grant_id: str, code: bytes, refresh: bytes | None, expires_at: float) -> Deferred[bool]:
        """Redeem the code of a grant, which then lasts until ``expires_at``, and return whether this was possible.

        A code that is redeemed a second time ends the grant.

        Args:
            grant_id: The grant.
            code: The fingerprint of the code.
            refresh: The fingerprint of the refresh token, if there is one.
            expires_at: Seconds since the epoch.
        """

    def rotate(grant_id: str, old: bytes, new: bytes, expires_at: float) -> Deferred[bool]:
        """Replace the refresh token of a grant, and return whether ``old`` was the fingerprint of the last one."""

    def end_grant(grant_id: str) -> Deferred[None]:
        """End a grant, and with it its tokens."""


class _Expiring(Protocol):
    @property
    def expires_at(self) -> float: ...


_Kept = TypeVar("_Kept", bound=_Expiring)
_Key = TypeVar("_Key")


@define
class _KeptGrant:
    grant: Grant
    code: bytes
    refresh: bytes | None = None

    @property
    def expires_at(self) -> float:
        return self.grant.expires_at


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
        self._codes: dict[str, _KeptGrant] = {}
        self._redeemed: dict[str, _KeptGrant] = {}

    def put(self, digest: bytes, issued: IssuedToken) -> Deferred[None]:
        _make_room(self._issued, MOST_TOKENS, self._now())
        self._issued[digest] = issued
        return succeed(None)

    def get(self, digest: bytes) -> Deferred[IssuedToken | None]:
        issued = self._issued.get(digest)
        if issued is not None and issued.grant_id is not None and self._kept(issued.grant_id) is None:
            return succeed(None)
        return succeed(issued)

    def delete(self, digest: bytes) -> Deferred[None]:
        self._issued.pop(digest, None)
        return succeed(None)

    def put_grant(self, grant_id: str, grant: Grant, code: bytes) -> Deferred[None]:
        self._keep(self._codes, grant_id, _KeptGrant(grant, code))
        return succeed(None)

    def get_grant(self, grant_id: str) -> Deferred[Grant | None]:
        kept = self._kept(grant_id)
        return succeed(None if kept is None else kept.grant)

    def redeem(self, grant_id: str, code: bytes, refresh: bytes | None, expires_at: float) -> Deferred[bool]:
        kept = self._kept(grant_id)
        if kept is None or kept.code != code:
            return succeed(False)
        if grant_id in self._redeemed:
            del self._redeemed[grant_id]
            return succeed(False)
        del self._codes[grant_id]
        redeemed = _KeptGrant(evolve(kept.grant, expires_at=expires_at), code, refresh)
        self._keep(self._redeemed, grant_id, redeemed)
        return succeed(True)

    def rotate(self, grant_id: str, old: bytes, new: bytes, expires_at: float) -> Deferred[bool]:
        kept = self._redeemed.get(grant_id)
        if kept is None or kept.refresh != old:
            return succeed(False)
        kept.refresh = new
        kept.grant = evolve(kept.grant, expires_at=expires_at)
        return succeed(True)

    def end_grant(self, grant_id: str) -> Deferred[None]:
        self._codes.pop(grant_id, None)
        self._redeemed.pop(grant_id, None)
        return succeed(None)

    def _kept(self, grant_id: str) -> _KeptGrant | None:
        return self._codes.get(grant_id) or self._redeemed.get(grant_id)

    def _keep(self, kept: dict[str, _KeptGrant], grant_id: str, grant: _KeptGrant) -> None:
        _remove_expired(kept, MOST_GRANTS, self._now())
        while len(kept) >= MOST_GRANTS:
            del kept[min(kept, key=lambda each: kept[each].expires_at)]
        kept[grant_id] = grant


def _make_room(kept: OrderedDict[_Key, _Kept], most: int, now: float) -> None:
    """Remove what has expired, if there is no room for one more, and then the oldest."""
    _remove_expired(kept, most, now)
    while len(kept) >= most:
        kept.popitem(last=False)


def _remove_expired(kept: dict[_Key, _Kept], most: int, now: float) -> None:
    if len(kept) >= most:
        for expired in [key for key, each in kept.items() if each.expires_at <= now]:
            del kept[expired]
