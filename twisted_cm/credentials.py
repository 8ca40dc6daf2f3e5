"""
Who may do it.

Bearer tokens for the Contour routes, the admin token, and module auth
tokens.  A presented token is hashed before it is looked up, so that how long
the look-up takes says nothing about the tokens that exist; where two tokens
are compared, L{hmac.compare_digest} does it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable

from attrs import field, frozen

#: The bearer token that is valid when the seed names none (contract section 5).
DEVELOPMENT_TOKEN = "test_token_admin"


#: Seconds that a token from C{client_credentials} is valid, unless its client says otherwise.
TOKEN_LIFETIME = 3600

#: The most such tokens that are valid at once; past it, those issued first end early.
MOST_TOKENS = 10_000


class Role(enum.Enum):
    """What a token lets its bearer do."""

    APPLICATION = "application"
    ADMIN = "admin"


@frozen
class Principal:
    """Whoever a bearer token belongs to."""

    login: str
    scopes: tuple[str, ...] = ()
    role: Role = Role.APPLICATION


@frozen
class BearerToken:
    """One token and its owner, as seeded."""

    token: str = field(repr=False)
    principal: Principal


@frozen
class OAuthClient:
    """
    A client that may get tokens with C{client_credentials}, as seeded.

    @ivar scopes: what it may ask for; L{None} for anything.
    @ivar token_lifetime: seconds.
    """

    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] | None = None
    token_lifetime: int = TOKEN_LIFETIME


@frozen
class _IssuedToken:
    client_id: str
    principal: Principal
    expires_at: float


def fingerprint(token: str) -> bytes:
    """
    @return: the SHA-256 digest that a token is stored and looked up under.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def same_token(presented: str, expected: str) -> bool:
    """
    @return: whether both are the same, in a time that does not depend on where they differ.
    """
    return hmac.compare_digest(fingerprint(presented), fingerprint(expected))


class Credentials:
    """
    The bearer tokens of one emulator.

    @ivar admin_token: the admin token, or L{None} where only loopback is
        listened on and none was given; any bearer is an administrator then.
    @ivar guarded: whether sessions and inspection need a token, that is, whether anything but loopback is listened on.
    """

    def __init__(
        self,
        now: Callable[[], float],
        tokens: Iterable[BearerToken],
        admin_token: str | None = None,
        guarded: bool = False,
        clients: Iterable[OAuthClient] = (),
    ) -> None:
        """
        @param now: the time in seconds since the epoch, as tokens expire by it.
        """
        self.admin_token = admin_token
        self.guarded = guarded
        self._now = now
        self._issued: OrderedDict[bytes, _IssuedToken] = OrderedDict()
        self._role = Role.ADMIN if admin_token is None else Role.APPLICATION
        self.replace(tokens, clients)

    def replace(self, tokens: Iterable[BearerToken], clients: Iterable[OAuthClient]) -> None:
        """Take other seeded tokens and clients; tokens issued to a client that is no longer there end."""
        self._clients = {client.client_id: client for client in clients}
        for digest in [each for each, issued in self._issued.items() if issued.client_id not in self._clients]:
            del self._issued[digest]
        self._principals = {
            fingerprint(bearer.token): Principal(bearer.principal.login, bearer.principal.scopes, self._role)
            for bearer in tokens
        }
        if self.admin_token is not None:
            self._principals[fingerprint(self.admin_token)] = Principal("admin", role=Role.ADMIN)

    def principal(self, token: str) -> Principal | None:
        """
        @param token: a bearer token as presented.
        @return: whose it is, or L{None} if it is unknown or has expired.
        """
        digest = fingerprint(token)
        issued = self._issued.get(digest)
        if issued is None:
            return self._principals.get(digest)
        return issued.principal if self._now() < issued.expires_at else None

    def client(self, client_id: str, client_secret: str) -> OAuthClient | None:
        """
        @return: the OAuth client with that id, if that is its secret.
        """
        client = self._clients.get(client_id)
        # An unknown client costs the same as a wrong secret.
        right = same_token(client_secret, client.client_secret if client is not None else "")
        return client if right else None

    def issue(self, client: OAuthClient, scopes: tuple[str, ...]) -> str:
        """
        @return: a new bearer token for C{client}, valid for its C{token_lifetime}.
        """
        now = self._now()
        if len(self._issued) >= MOST_TOKENS:
            for digest in [digest for digest, issued in self._issued.items() if issued.expires_at <= now]:
                del self._issued[digest]
        while len(self._issued) >= MOST_TOKENS:
            self._issued.popitem(last=False)
        token = "foundry_token_" + secrets.token_hex(24)
        principal = Principal(client.client_id, scopes, self._role)
        self._issued[fingerprint(token)] = _IssuedToken(client.client_id, principal, now + client.token_lifetime)
        return token

    def revoke(self, client: OAuthClient, token: str) -> None:
        """End a token, if it was issued to C{client}."""
        digest = fingerprint(token)
        issued = self._issued.get(digest)
        if issued is not None and issued.client_id == client.client_id:
            del self._issued[digest]
