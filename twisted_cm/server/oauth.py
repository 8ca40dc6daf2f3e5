"""What the OAuth routes read: forms, scopes, and which client sends a request (RFC 6749)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, unquote_plus

from werkzeug.http import parse_options_header

from ..model.grants import OFFLINE_ACCESS
from ..model.tokens import OAuthClient
from .auth import authorization
from .credentials import Credentials
from .errors import ApiError
from .transport.request import EmulatorRequest

_FORM = "application/x-www-form-urlencoded"
_MOST_FORM_BYTES = 64 * 1024
_MOST_FIELDS = 32

#: The characters of a scope (RFC 6749, section 3.3).
_SCOPE = re.compile(r"[!#-\[\]-~]+")


def oauth_error(error: str, description: str) -> ApiError:
    """Make an error of RFC 6749, section 5.2."""
    return ApiError(400, error, description)


async def read_form(request: EmulatorRequest) -> dict[str, str]:
    """Return the fields of the form that is the body of a request, each of which may be there once (RFC 6749, 3.2).

    Raises:
        ApiError: ``invalid_request`` if the body is not such a form, 413 if it is too large.
    """
    content_type, _options = parse_options_header(request.header("Content-Type"))
    if content_type.lower() != _FORM:
        raise oauth_error("invalid_request", f"The Content-Type must be {_FORM}, not '{content_type}'.")
    with await request.body.receive(_MOST_FORM_BYTES) as received:
        body = received.read()
    try:
        encoded = body.decode("utf-8")
    except UnicodeDecodeError:
        raise oauth_error("invalid_request", "The form is not UTF-8.") from None
    # Werkzeug's parser of forms replaces what is not UTF-8, where a secret must not be guessed at.
    try:
        fields = parse_qsl(encoded, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise oauth_error(
            "invalid_request", f"The form is not UTF-8, or has more than {_MOST_FIELDS} fields."
        ) from None
    form = dict(fields)
    if len(form) != len(fields):
        raise oauth_error("invalid_request", "The form has a field twice.")
    return form


def read_scopes(text: str | None, allowed: Iterable[str] | None) -> tuple[str, ...]:
    """Return the scopes of a request.

    Args:
        text: The scopes, with a space between each two; ``None`` for none.
        allowed: The scopes that the client may have; ``None`` for any.

    Raises:
        ApiError: ``invalid_scope`` if one is malformed, or if the client may not have it.
    """
    scopes = tuple(dict.fromkeys(text.split(" "))) if text else ()
    for scope in scopes:
        if _SCOPE.fullmatch(scope) is None:
            raise oauth_error(
                "invalid_scope", f"The scope '{scope}' is empty or has a character that scopes must not have."
            )
    # Official clients add this scope to every other without being asked.
    refused = set(scopes) - {*allowed, OFFLINE_ACCESS} if allowed is not None else ()
    if refused:
        raise oauth_error("invalid_scope", f"The client may not have these scopes: {', '.join(sorted(refused))}.")
    return scopes


def authenticate(credentials: Credentials, request: EmulatorRequest, form: Mapping[str, str]) -> OAuthClient:
    """Return the client that a request authenticates as: by HTTP Basic or in the form (RFC 6749, section 2.3.1).

    A public client only names itself.

    Raises:
        ApiError: ``invalid_client`` if the client is unknown or its secret is wrong, ``invalid_request`` if the request
            names two clients.
    """
    by_header = request.header("Authorization") is not None
    candidates: list[tuple[str, str | None]]
    if by_header:
        if "client_secret" in form:
            raise oauth_error("invalid_request", "Send the client's secret in the form or in a header, not both.")
        user, password = _basic(request)
        if form.get("client_id", user) not in (user, unquote_plus(user)):
            raise oauth_error("invalid_request", "The client ids in the form and in the header are different.")
        # The standard asks for form-encoding in the header, but some clients do not encode.
        candidates = [(unquote_plus(user), unquote_plus(password)), (user, password)]
    else:
        candidates = [(form.get("client_id", ""), form.get("client_secret"))]
    for client_id, client_secret in candidates:
        client = credentials.client(client_id, client_secret)
        if client is not None:
            return client
    challenge = {"WWW-Authenticate": 'Basic realm="multipass"'} if by_header else {}
    raise ApiError(401, "invalid_client", "The client id is unknown, or its secret is wrong.", headers=challenge)


def _basic(request: EmulatorRequest) -> tuple[str, str]:
    """Return the user and password of HTTP Basic, empty if the request has none."""
    header = authorization(request)
    if header is None or header.type != "basic":
        return "", ""
    return header.username or "", header.password or ""
