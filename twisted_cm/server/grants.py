"""How a user's sign-in becomes a code, and the code becomes tokens (RFC 6749, sections 4.1 and 6)."""

from __future__ import annotations

import json
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

from attrs import asdict, frozen

from ..model.grants import CODE_LIFETIME, OFFLINE_ACCESS, REFRESH_LIFETIME, REQUEST_LIFETIME, Grant, challenge_of
from ..model.tokens import GrantType, OAuthClient, fingerprint, same_token, sign
from ..model.users import User
from .credentials import Credentials

_CODE = "foundry_code_"
_REFRESH_TOKEN = "foundry_refresh_"


class InvalidGrant(Exception):
    """A code or a refresh token that gives no token; the message says why."""


class NotGranted(Exception):
    """A client asks for more than the user has granted; the message says what."""


@frozen
class AuthorizationRequest:
    """What a client asks of a user.

    Attributes:
        redirect_uri: One of the client's own.
        scopes: What the client asks for, all of which it may have.
        state: What the client wants back; ``None`` if it sent nothing.
        code_challenge: The hash of the client's secret verifier; ``None`` if the client sent none.
        admitted: Whether the admin token was given with it.
    """

    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str | None
    code_challenge: str | None
    admitted: bool = False


@frozen
class Tokens:
    """What a client gets.

    Attributes:
        refresh_token: ``None`` if the user has not granted ``offline_access``.
    """

    access_token: str
    scopes: tuple[str, ...]
    refresh_token: str | None = None


class Grants:
    """Turns what users grant into tokens.

    A page for signing in carries the client's request with a MAC, so no emulator has to remember the request, and any
    emulator on the same Redis can read it.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    # The page

    def seal(self, request: AuthorizationRequest) -> str:
        """Return a request as text that only an emulator can make."""
        content = json.dumps([asdict(request), self._credentials.now() + REQUEST_LIFETIME]).encode("ascii")
        return f"{urlsafe_b64encode(content).decode('ascii')}.{self._mac(content)}"

    def unseal(self, sealed: str) -> AuthorizationRequest | None:
        """Return the request in a sealed text, or ``None`` if no emulator made the text or it is too old."""
        encoded, _, mac = sealed.partition(".")
        try:
            content = urlsafe_b64decode(encoded.encode("ascii"))
        except ValueError:
            return None
        if not same_token(mac, self._mac(content)):
            return None
        fields, expires_at = json.loads(content)
        if self._credentials.now() >= expires_at:
            return None
        return AuthorizationRequest(**{**fields, "scopes": tuple(fields["scopes"])})

    def _mac(self, content: bytes) -> str:
        return sign(self._credentials.issued.job_key, content)

    # Codes

    async def allow(self, request: AuthorizationRequest, user: User) -> str:
        """Return the code with which a client gets the tokens of a user, who allows it."""
        grant_id = secrets.token_hex(16)
        code = _secret(_CODE, grant_id)
        grant = Grant(
            request.client_id,
            user.username,
            request.scopes,
            request.redirect_uri,
            request.code_challenge,
            self._credentials.now() + CODE_LIFETIME,
        )
        await self._credentials.issued.put_grant(grant_id, grant, fingerprint(code))
        return code

    async def redeem(self, client: OAuthClient, code: str, redirect_uri: str, verifier: str | None) -> Tokens:
        """Return the tokens for a code, which is used up; a second use ends the tokens of the first.

        A client that cannot have got the code does not use it up.

        Raises:
            InvalidGrant: The code is unknown, expired or used, or it belongs to another client, redirect or verifier.
        """
        unknown = InvalidGrant("The code is unknown, expired or already used. Send the user to sign in again.")
        grant_id = _grant_id(code, _CODE)
        grant = await self._grant(client, grant_id)
        if grant is None:
            raise unknown
        if redirect_uri != grant.redirect_uri:
            raise InvalidGrant("The 'redirect_uri' is not the one to which the code was sent.")
        if grant.code_challenge is None and verifier is not None:
            raise InvalidGrant("The code was requested without a 'code_challenge'. Leave 'code_verifier' out.")
        if grant.code_challenge is not None and challenge_of(verifier or "") != grant.code_challenge:
            raise InvalidGrant("The 'code_verifier' does not fit the 'code_challenge' of the code.")
        refreshes = OFFLINE_ACCESS in grant.scopes and client.may_use(GrantType.REFRESH_TOKEN)
        refresh_token = self._new_refresh_token(grant_id) if refreshes else None
        refresh = None if refresh_token is None else fingerprint(refresh_token)
        store = self._credentials.issued
        if not await store.redeem(grant_id, fingerprint(code), refresh, self._expiry(client, refreshes)):
            raise unknown
        return await self._issue(client, grant, grant_id, grant.scopes, refresh_token)

    # Refresh tokens

    async def refresh(self, client: OAuthClient, refresh_token: str, scopes: tuple[str, ...]) -> Tokens:
        """Return new tokens for a refresh token, which is used up. A second use ends all tokens of its grant.

        A token that is used twice may have been stolen, and nobody knows by whom it was used first (RFC 9700, section
        4.14.2).

        Args:
            client: The client that sent it.
            refresh_token: The refresh token.
            scopes: What the access token may do; everything that was granted if this is empty.

        Raises:
            InvalidGrant: The refresh token is unknown, expired or used, or it belongs to another client.
            NotGranted: The user has not granted one of the scopes.
        """
        unknown = InvalidGrant("The refresh token is unknown, expired or already used. Send the user to sign in again.")
        grant_id = self._grant_of_refresh_token(refresh_token)
        grant = await self._grant(client, grant_id)
        if grant is None:
            raise unknown
        if not set(scopes) <= set(grant.scopes):
            refused = ", ".join(sorted(set(scopes) - set(grant.scopes)))
            raise NotGranted(f"The user has not granted these scopes: {refused}.")
        new = self._new_refresh_token(grant_id)
        store = self._credentials.issued
        if not await store.rotate(grant_id, fingerprint(refresh_token), fingerprint(new), self._expiry(client, True)):
            await store.end_grant(grant_id)
            raise unknown
        return await self._issue(client, grant, grant_id, scopes or grant.scopes, new)

    async def revoke(self, client: OAuthClient, token: str) -> None:
        """End a token of any kind, and all tokens that came from the same sign-in, if they are those of ``client``."""
        grant_id = self._grant_of_refresh_token(token)
        if await self._grant(client, grant_id) is None:
            await self._credentials.revoke(client, token)
        else:
            await self._credentials.issued.end_grant(grant_id)

    def _new_refresh_token(self, grant_id: str) -> str:
        """Return a refresh token with a MAC, by which it is still known when it was used long ago."""
        token = _secret(_REFRESH_TOKEN, grant_id)
        return f"{token}_{self._mac(token.encode('ascii'))}"

    def _grant_of_refresh_token(self, token: str) -> str:
        """Return the id of the grant that a refresh token was made for, empty if no emulator made the token.

        The id stands in the code, too. Who has only the code cannot make a token that ends the grant.
        """
        unsigned, _, mac = token.rpartition("_")
        grant_id = _grant_id(unsigned, _REFRESH_TOKEN)
        return grant_id if grant_id and same_token(mac, self._mac(unsigned.encode("ascii"))) else ""

    async def _grant(self, client: OAuthClient, grant_id: str) -> Grant | None:
        """Return a grant to a client that has not expired, of a user who is still there."""
        grant = await self._credentials.issued.get_grant(grant_id) if grant_id else None
        if grant is None or grant.client_id != client.client_id or self._credentials.now() >= grant.expires_at:
            return None
        return grant if self._credentials.active_user(grant.username) is not None else None

    def _expiry(self, client: OAuthClient, refreshes: bool) -> float:
        # Also without a refresh token, a grant lasts as long as its access token: a second use of the code ends both.
        return self._credentials.now() + max(REFRESH_LIFETIME if refreshes else 0, client.token_lifetime)

    async def _issue(
        self, client: OAuthClient, grant: Grant, grant_id: str, scopes: tuple[str, ...], refresh_token: str | None
    ) -> Tokens:
        access_token = await self._credentials.issue(client, scopes, grant.username, grant_id)
        return Tokens(access_token, scopes, refresh_token)


def _secret(prefix: str, grant_id: str) -> str:
    """Return a new code, or what a refresh token begins with. It names its grant, so that the grant is found by it."""
    return f"{prefix}{grant_id}_{secrets.token_hex(24)}"


def _grant_id(token: str, prefix: str) -> str:
    """Return the id of the grant that a result of :func:`_secret` names, empty if the text is not one."""
    found = re.fullmatch(f"{prefix}([0-9a-f]{{32}})_[0-9a-f]{{48}}", token)
    return found[1] if found is not None else ""
