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
from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface, implementer

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
class IssuedToken:
    """
    A bearer token from C{client_credentials}; what it is itself is not kept.

    @ivar expires_at: seconds since the epoch.
    """

    client_id: str
    scopes: tuple[str, ...]
    expires_at: float


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


def fingerprint(token: str) -> bytes:
    """
    @return: the SHA-256 digest that a token is stored and looked up under.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def same_token(presented: str, expected: str) -> bool:
    """
    @return: whether both are the same, in a time that does not depend on where they differ.
    """
    return hmac.compare_digest(presented.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


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
        issued: ITokenStore | None = None,
    ) -> None:
        """
        @param now: the time in seconds since the epoch, as tokens expire by it.
        @param issued: where issued tokens are kept; in this process by default.
        """
        self.admin_token = admin_token
        self.guarded = guarded
        self._now = now
        self._issued: ITokenStore = issued or MemoryTokens(now)
        self._role = Role.ADMIN if admin_token is None else Role.APPLICATION
        self.replace(tokens, clients)

    def replace(self, tokens: Iterable[BearerToken], clients: Iterable[OAuthClient]) -> None:
        """Take other seeded tokens and clients; tokens issued to a client that is no longer there end."""
        self._clients = {client.client_id: client for client in clients}
        self._principals = {
            fingerprint(bearer.token): Principal(bearer.principal.login, bearer.principal.scopes, self._role)
            for bearer in tokens
        }
        if self.admin_token is not None:
            self._principals[fingerprint(self.admin_token)] = Principal("admin", role=Role.ADMIN)

    async def principal(self, token: str) -> Principal | None:
        """
        @param token: a bearer token as presented.
        @return: whose it is, or L{None} if it is unknown or has expired.
        """
        digest = fingerprint(token)
        seeded = self._principals.get(digest)
        if seeded is not None:
            return seeded
        issued = await self._issued.get(digest)
        if issued is None or issued.client_id not in self._clients or self._now() >= issued.expires_at:
            return None
        return Principal(issued.client_id, issued.scopes, self._role)

    def client(self, client_id: str, client_secret: str) -> OAuthClient | None:
        """
        @return: the OAuth client with that id, if that is its secret.
        """
        client = self._clients.get(client_id)
        # An unknown client costs the same as a wrong secret.
        right = same_token(client_secret, client.client_secret if client is not None else "")
        return client if right else None

    async def issue(self, client: OAuthClient, scopes: tuple[str, ...]) -> str:
        """
        @return: a new bearer token for C{client}, valid for its C{token_lifetime}.
        """
        token = "foundry_token_" + secrets.token_hex(24)
        expires_at = self._now() + client.token_lifetime
        await self._issued.put(fingerprint(token), IssuedToken(client.client_id, scopes, expires_at))
        return token

    async def revoke(self, client: OAuthClient, token: str) -> None:
        """End a token, if it was issued to C{client}."""
        digest = fingerprint(token)
        issued = await self._issued.get(digest)
        if issued is not None and issued.client_id == client.client_id:
            await self._issued.delete(digest)
