"""
Tokens as applications get them: OAuth 2.0 client credentials (RFC 6749) at the paths of Foundry's Multipass.

The clients that call these routes are C{foundry_sdk.ConfidentialClientAuth}
and C{@osdk/oauth}.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote_plus

from attrs import frozen
from klein import Klein

from ...model.paths import MULTIPASS
from ...model.tokens import OAuthClient
from ..context import Context
from ..errors import ApiError
from ..transport.request import EmulatorRequest

_FORM = "application/x-www-form-urlencoded"


_MOST_FORM_BYTES = 64 * 1024


_MOST_FIELDS = 32


#: RFC 6749, section 3.3.
_SCOPE = re.compile(r"[!#-\[\]-~]+")


@frozen
class MultipassRoutes:
    """The token routes, over one L{Context}."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        app.route(f"{MULTIPASS}/oauth2/token", methods=["POST"])(self.token)
        app.route(f"{MULTIPASS}/oauth2/revoke_token", methods=["POST"])(self.revoke)
        app.route(f"{MULTIPASS}/me", methods=["GET"])(self.me)

    async def token(self, request: EmulatorRequest) -> bytes:
        """C{POST /oauth2/token}: a bearer token for a client id and its secret (RFC 6749, section 4.4)."""
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("Pragma", "no-cache")
        form = await _read_form(request)
        grant_type = form.get("grant_type")
        if not grant_type:
            raise _oauth_error("invalid_request", "'grant_type' is missing.")
        client = self._client(request, form)
        if grant_type != "client_credentials":
            raise _oauth_error("unsupported_grant_type", "The one grant type is 'client_credentials'.")
        scopes = tuple(form.get("scope", "").split(" ")) if form.get("scope") else ()
        if not all(map(_SCOPE.fullmatch, scopes)):
            raise _oauth_error("invalid_scope", "A scope has a character that none may have, or is empty.")
        allowed = client.scopes
        if allowed is not None and not set(scopes) <= set(allowed):
            raise _oauth_error("invalid_scope", "The client may not have every scope that it asks for.")
        granted = scopes or allowed or ()
        return request.json(
            {
                "access_token": await self.context.credentials.issue(client, granted),
                "token_type": "bearer",
                "expires_in": client.token_lifetime,
                "scope": " ".join(granted),
            }
        )

    async def revoke(self, request: EmulatorRequest) -> bytes:
        """C{POST /oauth2/revoke_token}: end a token; one that is unknown has ended already (RFC 7009)."""
        form = await _read_form(request)
        client = self._client(request, form)
        token = form.get("token")
        if not token:
            raise _oauth_error("invalid_request", "'token' is missing.")
        await self.context.credentials.revoke(client, token)
        return request.json({})

    async def me(self, request: EmulatorRequest) -> bytes:
        """C{GET /me}: whose token it is."""
        principal = await self.context.bearer(request)
        return request.json(
            {
                "id": principal.login,
                "username": principal.login,
                "scopes": list(principal.scopes),
                "role": principal.role.value,
            }
        )

    def _client(self, request: EmulatorRequest, form: Mapping[str, str]) -> OAuthClient:
        """The client that the request authenticates as, by HTTP Basic or in the form, not both (section 2.3.1)."""
        header = request.header("Authorization")
        candidates: list[tuple[str, str]]
        if header is not None:
            if "client_secret" in form:
                raise _oauth_error("invalid_request", "Client credentials are in the form and in the header.")
            user, password = _basic(header)
            if form.get("client_id", user) not in (user, unquote_plus(user)):
                raise _oauth_error("invalid_request", "The client ids in the form and in the header are different.")
            # They should be form-encoded in the header, and some clients do not.
            candidates = [(unquote_plus(user), unquote_plus(password)), (user, password)]
        else:
            candidates = [(form.get("client_id", ""), form.get("client_secret", ""))]
        for client_id, client_secret in candidates:
            client = self.context.credentials.client(client_id, client_secret)
            if client is not None:
                return client
        challenge = {"WWW-Authenticate": 'Basic realm="multipass"'} if header is not None else {}
        raise ApiError(401, "invalid_client", "The client id is unknown, or this is not its secret.", headers=challenge)


def _oauth_error(error: str, description: str) -> ApiError:
    """An error of RFC 6749, section 5.2."""
    return ApiError(400, error, description)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (Base64Error, ValueError):
        return "", ""
    return user, password


async def _read_form(request: EmulatorRequest) -> dict[str, str]:
    """
    @return: the fields of a form, each of which may be there once (RFC 6749, section 3.2).
    @raise ApiError: C{invalid_request} if it is no such form.
    """
    content_type = (request.header("Content-Type") or "").partition(";")[0].strip().lower()
    if content_type != _FORM:
        raise _oauth_error("invalid_request", f"The request body must be {_FORM}.")
    body = await request.body.read(_MOST_FORM_BYTES)
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise _oauth_error("invalid_request", "The form cannot be read.") from None
    form = dict(fields)
    if len(form) != len(fields):
        raise _oauth_error("invalid_request", "A field is in the form twice.")
    return form
