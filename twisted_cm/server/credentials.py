"""Whom a bearer token belongs to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from ..broker.tokens import ITokenStore, MemoryTokens
from ..model.jobs import Job
from ..model.tokens import (
    BearerToken,
    IssuedToken,
    OAuthClient,
    Principal,
    Role,
    fingerprint,
    job_of_token,
    job_token,
    same_token,
)
from ..model.users import User, user_id_of, users_of


class Credentials:
    """The bearer tokens, users and OAuth clients of one emulator.

    Attributes:
        now: Returns the time in seconds since the epoch; tokens expire by it.
        issued: Where issued tokens and grants are kept.
        admin_token: The admin token. If it is ``None``, the emulator listens only on loopback, and any bearer is an
            administrator.
        guarded: Whether sessions and inspection need a token, because the emulator listens beyond loopback.
    """

    def __init__(
        self,
        now: Callable[[], float],
        tokens: Iterable[BearerToken],
        admin_token: str | None = None,
        guarded: bool = False,
        clients: Iterable[OAuthClient] = (),
        issued: ITokenStore | None = None,
        users: Iterable[User] = (),
    ) -> None:
        self.now = now
        self.issued: ITokenStore = issued or MemoryTokens(now)
        self.admin_token = admin_token
        self.guarded = guarded
        self._role = Role.ADMIN if admin_token is None else Role.APPLICATION
        self.replace(tokens, clients, users)

    def replace(
        self, tokens: Iterable[BearerToken], clients: Iterable[OAuthClient], users: Iterable[User] = ()
    ) -> None:
        """Replace the seeded tokens, clients and users; tokens that were issued to a removed client or user end."""
        self._users = users_of(users)
        self._clients = {client.client_id: client for client in clients}
        self._principals = {
            fingerprint(bearer.token): Principal(bearer.principal.login, bearer.principal.scopes, self._role)
            for bearer in tokens
            if not self._is_inactive(bearer.principal.login)
        }
        if self.admin_token is not None:
            self._principals[fingerprint(self.admin_token)] = Principal("admin", role=Role.ADMIN)

    async def principal(self, token: str) -> Principal | None:
        """Return the owner of a bearer token, or ``None`` if the token is unknown or has expired."""
        digest = fingerprint(token)
        seeded = self._principals.get(digest)
        if seeded is not None:
            return seeded
        issued = await self.issued.get(digest)
        if issued is None or issued.client_id not in self._clients or self.now() >= issued.expires_at:
            return None
        if issued.username is None:
            return Principal(issued.client_id, issued.scopes, self._role, is_client=True)
        if self.active_user(issued.username) is None:
            return None
        return Principal(issued.username, issued.scopes, self._role)

    def active_user(self, username: str) -> User | None:
        """Return a user who may use tokens, or ``None``."""
        user = self._users.get(username)
        return user if user is not None and user.is_active else None

    def _is_inactive(self, username: str) -> bool:
        """Return whether the seed has a user of that name who may not use tokens. Other names may stand for nobody."""
        return username in self._users and self.active_user(username) is None

    def people(self) -> list[User]:
        """Return the users who may sign in, in the order of the seed."""
        return [each for each in self._users.values() if each.may_sign_in]

    def user(self, principal: Principal) -> User:
        """Return the user that a principal is; one that is not in the seed has a name and an id only."""
        known = self.known_user(principal)
        return known or User(principal.login, user_id_of(("client " if principal.is_client else "") + principal.login))

    def known_user(self, principal: Principal) -> User | None:
        """Return the user of the seed that a principal is, or ``None``."""
        return None if principal.is_client else self._users.get(principal.login)

    def job_token(self, job: Job) -> str:
        """Return the bearer token with which the function that runs a job may call back."""
        return job_token(self.issued.job_key, job.job_id)

    def job_of_token(self, token: str) -> str | None:
        """Return the id of the job that a bearer token was made for, or ``None`` if it is no token of a job."""
        return job_of_token(self.issued.job_key, token)

    def submitter(self, job: Job) -> Principal | None:
        """Return whom the token of a job acts as: the user who submitted it, or the runtime whose module did.

        There is nobody if this user may no longer use tokens.
        """
        submission = job.submission
        if submission.submitter and not submission.admin and self._is_inactive(submission.submitter):
            return None
        role = Role.ADMIN if submission.admin else self._role
        # A runtime with the name of a user is not this user.
        is_client = not submission.submitter
        return Principal(submission.submitter or job.runtime_id, submission.scopes, role, is_client)

    def holds_admin_token(self, principal: Principal) -> bool:
        """Return whether a principal has its role from the admin token."""
        return self.admin_token is not None and principal.role is Role.ADMIN

    def known_client(self, client_id: str) -> OAuthClient | None:
        """Return the OAuth client with that id, which has proved nothing, or ``None`` if it is unknown."""
        return self._clients.get(client_id)

    def client(self, client_id: str, client_secret: str | None) -> OAuthClient | None:
        """Return the OAuth client with that id, or ``None`` if it is unknown or the secret is wrong.

        Args:
            client_id: The id.
            client_secret: The secret; ``None`` if the client sent none, as public clients do.
        """
        client = self._clients.get(client_id)
        if client is not None and client.client_secret is None:
            # Some clients send an empty secret rather than none.
            return None if client_secret else client
        # An unknown client takes as long as a wrong secret, so its id cannot be guessed by time.
        expected = "" if client is None or client.client_secret is None else client.client_secret
        right = same_token(client_secret or "", expected)
        return client if right else None

    async def issue(
        self, client: OAuthClient, scopes: tuple[str, ...], username: str | None = None, grant_id: str | None = None
    ) -> str:
        """Return a new bearer token of a client, or of a user who granted it, valid for its ``token_lifetime``."""
        token = "foundry_token_" + secrets.token_hex(24)
        expires_at = self.now() + client.token_lifetime
        issued = IssuedToken(client.client_id, scopes, expires_at, username, grant_id)
        await self.issued.put(fingerprint(token), issued)
        return token

    async def revoke(self, client: OAuthClient, token: str) -> None:
        """End a token, and the grant that it comes from, if it was issued to ``client``."""
        digest = fingerprint(token)
        issued = await self.issued.get(digest)
        if issued is not None and issued.client_id == client.client_id:
            await self.issued.delete(digest)
            if issued.grant_id is not None:
                await self.issued.end_grant(issued.grant_id)
