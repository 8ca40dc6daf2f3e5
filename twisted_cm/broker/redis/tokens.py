"""The issued tokens and the grants that all nodes share."""

from __future__ import annotations

import json

from attrs import asdict
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ...model.grants import MOST_GRANTS, Grant
from ...model.tokens import MOST_TOKENS, IssuedToken
from ..tokens import ITokenStore
from .node import RedisNode
from .values import to_json


@implementer(ITokenStore)
class RedisTokens:
    """The issued tokens and the grants of all nodes."""

    def __init__(self, node: RedisNode) -> None:
        self._node = node

    @property
    def job_key(self) -> bytes:
        return self._node.job_key

    def put(self, digest: bytes, issued: IssuedToken) -> Deferred[None]:
        put = self._node.call("put_token", digest, to_json(asdict(issued)), str(MOST_TOKENS))
        return put.addCallback(lambda _: None)

    def get(self, digest: bytes) -> Deferred[IssuedToken | None]:

        def found(stored: bytes | None) -> IssuedToken | None:
            if stored is None:
                return None
            content = json.loads(stored)
            # A node of an earlier version may have issued it.
            user = (content.get("username"), content.get("grant_id"))
            return IssuedToken(content["client_id"], tuple(content["scopes"]), content["expires_at"], *user)

        return self._node.call("get_token", digest).addCallback(found)

    def delete(self, digest: bytes) -> Deferred[None]:
        return self._node.call("delete_token", digest).addCallback(lambda _: None)

    def put_grant(self, grant_id: str, grant: Grant, code: bytes) -> Deferred[None]:
        lifetime = self._milliseconds_until(grant.expires_at)
        content, expires_at = to_json(asdict(grant)), str(grant.expires_at)
        put = self._node.call("put_grant", grant_id, content, expires_at, code, lifetime, str(MOST_GRANTS))
        return put.addCallback(lambda _: None)

    def get_grant(self, grant_id: str) -> Deferred[Grant | None]:

        def found(stored: list[bytes | None]) -> Grant | None:
            grant, expires_at = stored
            if grant is None or expires_at is None:
                return None
            content = json.loads(grant)
            return Grant(**{**content, "scopes": tuple(content["scopes"]), "expires_at": float(expires_at)})

        return self._node.call("get_grant", grant_id).addCallback(found)

    def redeem(self, grant_id: str, code: bytes, refresh: bytes | None, expires_at: float) -> Deferred[bool]:
        lifetime = self._milliseconds_until(expires_at)
        most = str(MOST_GRANTS)
        redeemed = self._node.call("redeem_grant", grant_id, code, refresh or b"", str(expires_at), lifetime, most)
        return redeemed.addCallback(bool)

    def rotate(self, grant_id: str, old: bytes, new: bytes, expires_at: float) -> Deferred[bool]:
        lifetime = self._milliseconds_until(expires_at)
        return self._node.call("rotate_grant", grant_id, old, new, str(expires_at), lifetime).addCallback(bool)

    def end_grant(self, grant_id: str) -> Deferred[None]:
        return self._node.call("end_grant", grant_id).addCallback(lambda _: None)

    def _milliseconds_until(self, expires_at: float) -> str:
        """Return how long Redis keeps a grant, a little longer than it is valid: its clock may be ahead."""
        return str(max(1, int((expires_at - self._node.clock.seconds()) * 1000)) + 10_000)
