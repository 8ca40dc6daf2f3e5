"""The page on which a user signs in, with an authorization code as the result (RFC 6749, section 4.1).

A request whose client or redirect is not known is answered with a page, and never with a redirect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from attrs import evolve, frozen

from ...model.grants import is_challenge
from ...model.paths import AUTHORIZE
from ...model.tokens import GrantType, OAuthClient, same_token
from ..context import Context
from ..errors import ApiError
from ..grants import AuthorizationRequest, Grants
from ..oauth import read_form, read_scopes
from ..routing import App, add_routes
from ..sign_in_page import error_page, policy, sign_in_page
from ..transport.request import EmulatorRequest

#: The characters that an error description must not have.
_NOT_IN_DESCRIPTIONS = re.compile(r"[^ !#-\[\]-~]")

_MOST_FIELDS = 64


class _NoPage(Exception):
    """A request from which nobody can sign in, and that leads nowhere; the message says why."""


class _Refused(Exception):
    """A request of a known client that is refused.

    Attributes:
        error: One of RFC 6749, section 4.1.2.1.
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


@frozen
class AuthorizeRoutes:
    """The page for signing in, and its form."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        add_routes(app, [("GET", AUTHORIZE, self.page), ("POST", AUTHORIZE, self.answer)])

    def page(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /oauth2/authorize`` with the users that may sign in, or with a field for the admin token."""
        try:
            fields = _read_query(request)
            client, redirect_uri = self._target(fields)
        except _NoPage as error:
            return _answer_error(request, str(error))
        states = fields.get("state", [])
        state = states[0] if len(states) == 1 else None
        try:
            asked = _read_request(client, redirect_uri, state, fields)
        except _Refused as error:
            return _redirect(request, redirect_uri, state, error=error.error, error_description=str(error))
        return self._show(request, client, asked)

    async def answer(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST /oauth2/authorize``: send the browser back to the application, with a code or an error.

        A form with the admin token and no user is answered with the users.
        """
        credentials = self.context.credentials
        grants = Grants(credentials)
        try:
            form = await read_form(request)
        except ApiError as error:
            if error.status != 400:
                raise
            return _answer_error(request, error.description)
        asked = grants.unseal(form.get("request", ""))
        if asked is None:
            return _answer_error(request, "This page is too old. Go back to the application, and sign in again.")
        client = credentials.known_client(asked.client_id)
        if client is None or asked.redirect_uri not in client.redirect_uris:
            return _answer_error(request, "The application is no longer known. Sign in again.")
        if "cancel" in form:
            refused = {"error": "access_denied", "error_description": "The user has canceled the sign-in."}
            return _redirect(request, asked.redirect_uri, asked.state, **refused)
        if not self._admits(asked):
            if not self._is_admin_token(form.get("admin_token", "")):
                return self._show(request, client, asked, 403, "This is not the admin token.")
            asked = evolve(asked, admitted=True)
            if "user" not in form:
                return self._show(request, client, asked)
        user = next((each for each in credentials.people() if each.user_id == form.get("user")), None)
        if user is None:
            return self._show(request, client, asked, 400, "This user may not sign in. Choose another one.")
        return _redirect(request, asked.redirect_uri, asked.state, code=await grants.allow(asked, user))

    def _target(self, fields: Mapping[str, list[str]]) -> tuple[OAuthClient, str]:
        """Return the client that a request is from, and where the answer goes.

        Raises:
            _NoPage: Either is not known.
        """
        client_id, redirect_uri = (_once(fields, name) for name in ("client_id", "redirect_uri"))
        client = self.context.credentials.known_client(client_id)
        if client is None:
            raise _NoPage(f"There is no OAuth client '{client_id}'. Add it to 'oauth_clients' in the seed.")
        if redirect_uri not in client.redirect_uris:
            raise _NoPage(
                f"The redirect_uri '{redirect_uri}' is not one of the client '{client_id}'. Add exactly this text to"
                " its 'redirect_uris' in the seed."
            )
        return client, redirect_uri

    def _admits(self, asked: AuthorizationRequest) -> bool:
        """Return whether a user may be chosen for a request. Beyond loopback, it takes the admin token."""
        return asked.admitted or not self.context.credentials.guarded

    def _is_admin_token(self, presented: str) -> bool:
        expected = self.context.credentials.admin_token
        return expected is not None and same_token(presented, expected)

    def _show(
        self,
        request: EmulatorRequest,
        client: OAuthClient,
        asked: AuthorizationRequest,
        status: int = 200,
        mistake: str = "",
    ) -> bytes:
        credentials = self.context.credentials
        _set_headers(request, policy(asked.redirect_uri))
        # The names of the users are for people who may sign in.
        people = credentials.people() if self._admits(asked) else None
        page = sign_in_page(client, asked, Grants(credentials).seal(asked), people, mistake)
        return request.answer(page, "text/html; charset=utf-8", status)


def _read_query(request: EmulatorRequest) -> dict[str, list[str]]:
    """Return the fields of the query, each with all its values.

    Raises:
        _NoPage: The query is not UTF-8, or has too many fields.
    """
    query = request.uri.partition(b"?")[2].decode("latin-1")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise _NoPage(f"The query is not UTF-8, or has more than {_MOST_FIELDS} fields.") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def _once(fields: Mapping[str, list[str]], name: str) -> str:
    values = fields.get(name, [])
    if len(values) != 1 or not values[0]:
        raise _NoPage(f"The query must have '{name}' once. An application that signs users in sends it.")
    return values[0]


def _read_request(
    client: OAuthClient, redirect_uri: str, state: str | None, fields: Mapping[str, list[str]]
) -> AuthorizationRequest:
    """Return what a known client asks for.

    Raises:
        _Refused: The client may not ask for it, or does not ask as the standards say.
    """
    for name, values in fields.items():
        if len(values) > 1:
            raise _Refused("invalid_request", f"The query has '{name}' {len(values)} times.")
    given = {name: values[0] for name, values in fields.items()}
    response_type = given.get("response_type")
    if not response_type:
        raise _Refused("invalid_request", "'response_type' is missing. Send 'code'.")
    if response_type != "code":
        raise _Refused(
            "unsupported_response_type", f"The response type '{response_type}' is not supported. Send 'code'."
        )
    if not client.may_use(GrantType.AUTHORIZATION_CODE):
        raise _Refused("unauthorized_client", "The client may not use the grant type 'authorization_code'.")
    try:
        scopes = read_scopes(given.get("scope"), client.scopes) or client.scopes or ()
    except ApiError as error:
        raise _Refused(error.error, error.description) from None
    return AuthorizationRequest(client.client_id, redirect_uri, scopes, state, _read_challenge(client, given))


def _read_challenge(client: OAuthClient, given: Mapping[str, str]) -> str | None:
    """Return the code challenge of a request, or ``None`` if a client with a secret sends none (RFC 7636)."""
    challenge, method = given.get("code_challenge"), given.get("code_challenge_method")
    if challenge is None and method is None and not client.is_public:
        return None
    if not challenge:
        raise _Refused("invalid_request", "'code_challenge' is missing. Send one of the method 'S256'.")
    if method != "S256":
        raise _Refused("invalid_request", "The 'code_challenge_method' must be 'S256'.")
    if not is_challenge(challenge):
        raise _Refused("invalid_request", "The 'code_challenge' must have 43 characters of base64url.")
    return challenge


def _redirect(request: EmulatorRequest, redirect_uri: str, state: str | None, **parameters: str) -> bytes:
    """Send the browser to a client, with what the client is told."""
    if "error_description" in parameters:
        parameters["error_description"] = _NOT_IN_DESCRIPTIONS.sub("?", parameters["error_description"])
    if state is not None:
        parameters["state"] = state
    joint = "&" if "?" in redirect_uri else "?"
    request.setHeader("Location", f"{redirect_uri}{joint}{urlencode(parameters)}")
    _set_headers(request, policy())
    request.setHeader("Referrer-Policy", "no-referrer")
    # The browser must not send the form to the application.
    return request.answer(b"", "text/html; charset=utf-8", 303)


def _answer_error(request: EmulatorRequest, message: str) -> bytes:
    _set_headers(request, policy())
    request.site.count_error("invalid_request")
    return request.answer(error_page(message), "text/html; charset=utf-8", 400)


def _set_headers(request: EmulatorRequest, content_security_policy: str) -> None:
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("Content-Security-Policy", content_security_policy)
    request.setHeader("X-Content-Type-Options", "nosniff")
    # With "no-referrer", browsers hide the origin of a form also from its own site, which refuses the form then.
    request.setHeader("Referrer-Policy", "same-origin")
