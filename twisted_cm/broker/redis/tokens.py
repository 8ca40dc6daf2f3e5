"""The issued tokens that all nodes share."""

from __future__ import annotations

import json

from attrs import asdict
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ...model.tokens import MOST_TOKENS, IssuedToken
from ..tokens import ITokenStore
from .node import RedisNode
from .values import to_json


@implementer(ITokenStore)
class RedisTokens:
    """The issued tokens of all nodes."""

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
            return IssuedToken(content["client_id"], tuple(content["scopes"]), content["expires_at"])

        return self._node.call("get_token", digest).addCallback(found)

    def delete(self, digest: bytes) -> Deferred[None]:
        return self._node.call("delete_token", digest).addCallback(lambda _: None)
