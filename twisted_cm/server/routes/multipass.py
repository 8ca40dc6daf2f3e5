"""OAuth 2.0 tokens (RFC 6749), at the paths of Foundry's Multipass.

The clients of these routes are ``foundry_sdk.ConfidentialClientAuth``, ``foundry_sdk.PublicClientAuth`` and
``@osdk/oauth``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from ...model.paths import MULTIPASS
from ...model.tokens import GrantType, OAuthClient
from ..auth import require_bearer
from ..context import Context
from ..grants import Grants, InvalidGrant, NotGranted, Tokens
from ..oauth import authenticate, oauth_error, read_form, read_scopes
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest

_GRANT_TYPES = ", ".join(f"'{each.value}'" for each in GrantType)


@frozen
class MultipassRoutes:
    """The token routes."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        add_routes(
            app,
            [
                ("POST", f"{MULTIPASS}/oauth2/token", self.token),
                ("POST", f"{MULTIPASS}/oauth2/revoke_token", self.revoke),
                ("GET", f"{MULTIPASS}/me", self.me),
            ],
        )

    async def token(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST /oauth2/token``: issue tokens to a client, for itself or for a user who has signed in."""
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("Pragma", "no-cache")
        form = await read_form(request)
        named = form.get("grant_type")
        if not named:
            raise oauth_error("invalid_request", f"'grant_type' is missing. Send one of {_GRANT_TYPES}.")
        client = authenticate(self.context.credentials, request, form)
        try:
            grant_type = GrantType(named)
        except ValueError:
            raise oauth_error(
                "unsupported_grant_type", f"The grant type '{named}' is not supported. Send one of {_GRANT_TYPES}."
            ) from None
        if not client.may_use(grant_type):
            why = "it has no secret" if client.is_public and grant_type in client.grant_types else "see its grant_types"
            raise oauth_error("unauthorized_client", f"The client may not use the grant type '{named}': {why}.")
        try:
            tokens = await self._tokens(client, grant_type, form)
        except InvalidGrant as error:
            raise oauth_error("invalid_grant", str(error)) from None
        except NotGranted as error:
            raise oauth_error("invalid_scope", str(error)) from None
        answer: dict[str, Any] = {
            "access_token": tokens.access_token,
            "token_type": "bearer",
            "expires_in": client.token_lifetime,
            "scope": " ".join(tokens.scopes),
        }
        if tokens.refresh_token is not None:
            answer["refresh_token"] = tokens.refresh_token
        return request.json(answer)

    async def _tokens(self, client: OAuthClient, grant_type: GrantType, form: Mapping[str, str]) -> Tokens:
        credentials = self.context.credentials
        grants = Grants(credentials)
        if grant_type is GrantType.AUTHORIZATION_CODE:
            code, redirect_uri = _required(form, "code"), _required(form, "redirect_uri")
            return await grants.redeem(client, code, redirect_uri, form.get("code_verifier"))
        scopes = read_scopes(form.get("scope"), client.scopes)
        if grant_type is GrantType.REFRESH_TOKEN:
            return await grants.refresh(client, _required(form, "refresh_token"), scopes)
        scopes = scopes or client.scopes or ()
        return Tokens(await credentials.issue(client, scopes), scopes)

    async def revoke(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST /oauth2/revoke_token``: end a token; an unknown one counts as ended (RFC 7009)."""
        form = await read_form(request)
        client = authenticate(self.context.credentials, request, form)
        await Grants(self.context.credentials).revoke(client, _required(form, "token"))
        return request.json({})

    async def me(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /me`` with the owner of the bearer token."""
        principal = await require_bearer(self.context, request)
        user = self.context.credentials.known_user(principal)
        return request.json(
            {
                "id": principal.login,
                "username": principal.login,
                **(user.describe() if user is not None else {}),
                "scopes": list(principal.scopes),
                "role": principal.role.value,
            }
        )


def _required(form: Mapping[str, str], name: str) -> str:
    """Return a field of a form.

    Raises:
        ApiError: ``invalid_request`` if the form has none, or if it is empty.
    """
    value = form.get(name)
    if not value:
        raise oauth_error("invalid_request", f"'{name}' is missing.")
    return value
