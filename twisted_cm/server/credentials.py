"""Whose token it is."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from ..broker.tokens import ITokenStore, MemoryTokens
from ..model.tokens import BearerToken, IssuedToken, OAuthClient, Principal, Role, fingerprint, same_token


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
