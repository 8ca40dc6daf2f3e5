"""OAuth 2.0 client credentials (RFC 6749), at the paths of Foundry's Multipass.

The clients of these routes are ``foundry_sdk.ConfidentialClientAuth`` and ``@osdk/oauth``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote_plus

from attrs import frozen
from klein import Klein
from werkzeug.http import parse_options_header

from ...model.paths import MULTIPASS
from ...model.tokens import OAuthClient
from ..auth import authorization, require_bearer
from ..context import Context
from ..errors import ApiError
from ..routing import add_routes
from ..transport.request import EmulatorRequest

_FORM = "application/x-www-form-urlencoded"
_MOST_FORM_BYTES = 64 * 1024
_MOST_FIELDS = 32

#: The characters of a scope (RFC 6749, section 3.3).
_SCOPE = re.compile(r"[!#-\[\]-~]+")


@frozen
class MultipassRoutes:
    """The token routes."""

    context: Context

    def register(self, app: Klein) -> None:
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
        """Answer ``POST /oauth2/token``: issue a bearer token to a client (RFC 6749, section 4.4)."""
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("Pragma", "no-cache")
        form = await _read_form(request)
        grant_type = form.get("grant_type")
        if not grant_type:
            raise _oauth_error("invalid_request", "'grant_type' is missing. Send 'client_credentials'.")
        client = self._client(request, form)
        if grant_type != "client_credentials":
            raise _oauth_error(
                "unsupported_grant_type", f"The grant type '{grant_type}' is not supported. Send 'client_credentials'."
            )
        scopes = tuple(form.get("scope", "").split(" ")) if form.get("scope") else ()
        for scope in scopes:
            if _SCOPE.fullmatch(scope) is None:
                raise _oauth_error(
                    "invalid_scope", f"The scope '{scope}' is empty or has a character that scopes must not have."
                )
        allowed = client.scopes
        if allowed is not None and not set(scopes) <= set(allowed):
            refused = ", ".join(sorted(set(scopes) - set(allowed)))
            raise _oauth_error("invalid_scope", f"The client may not have these scopes: {refused}.")
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
        """Answer ``POST /oauth2/revoke_token``: end a token; an unknown one counts as ended (RFC 7009)."""
        form = await _read_form(request)
        client = self._client(request, form)
        token = form.get("token")
        if not token:
            raise _oauth_error("invalid_request", "'token' is missing.")
        await self.context.credentials.revoke(client, token)
        return request.json({})

    async def me(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /me`` with the owner of the bearer token."""
        principal = await require_bearer(self.context, request)
        return request.json(
            {
                "id": principal.login,
                "username": principal.login,
                "scopes": list(principal.scopes),
                "role": principal.role.value,
            }
        )

    def _client(self, request: EmulatorRequest, form: Mapping[str, str]) -> OAuthClient:
        """Return the client that the request authenticates as: by HTTP Basic or in the form (section 2.3.1)."""
        by_header = request.header("Authorization") is not None
        candidates: list[tuple[str, str]]
        if by_header:
            if "client_secret" in form:
                raise _oauth_error("invalid_request", "Send the client's secret in the form or in a header, not both.")
            user, password = _basic(request)
            if form.get("client_id", user) not in (user, unquote_plus(user)):
                raise _oauth_error("invalid_request", "The client ids in the form and in the header are different.")
            # The standard asks for form-encoding in the header, but some clients do not encode.
            candidates = [(unquote_plus(user), unquote_plus(password)), (user, password)]
        else:
            candidates = [(form.get("client_id", ""), form.get("client_secret", ""))]
        for client_id, client_secret in candidates:
            client = self.context.credentials.client(client_id, client_secret)
            if client is not None:
                return client
        challenge = {"WWW-Authenticate": 'Basic realm="multipass"'} if by_header else {}
        raise ApiError(401, "invalid_client", "The client id is unknown, or its secret is wrong.", headers=challenge)


def _oauth_error(error: str, description: str) -> ApiError:
    """Make an error of RFC 6749, section 5.2."""
    return ApiError(400, error, description)


def _basic(request: EmulatorRequest) -> tuple[str, str]:
    """Return the user and password of HTTP Basic, empty if the request has none."""
    header = authorization(request)
    if header is None or header.type != "basic":
        return "", ""
    return header.username or "", header.password or ""


async def _read_form(request: EmulatorRequest) -> dict[str, str]:
    """Return the fields of a form, each of which may be there once (RFC 6749, section 3.2).

    Raises:
        ApiError: ``invalid_request`` if the body is not such a form.
    """
    content_type, _options = parse_options_header(request.header("Content-Type"))
    if content_type.lower() != _FORM:
        raise _oauth_error("invalid_request", f"The Content-Type must be {_FORM}, not '{content_type}'.")
    with await request.body.receive(_MOST_FORM_BYTES) as received:
        body = received.read()
    # Werkzeug's parser of forms replaces what is not UTF-8, where a secret must not be guessed at.
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise _oauth_error(
            "invalid_request", f"The form is not UTF-8, or has more than {_MOST_FIELDS} fields."
        ) from None
    form = dict(fields)
    if len(form) != len(fields):
        raise _oauth_error("invalid_request", "The form has a field twice.")
    return form
