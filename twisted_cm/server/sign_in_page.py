"""The page on which a user signs in to an application. It runs no script, and shows names as text."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from urllib.parse import urlsplit

from ..model.tokens import OAuthClient
from ..model.users import User
from .grants import AuthorizationRequest

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 26rem; margin: 3rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; }
button { display: block; width: 100%; margin: .5rem 0; padding: .6rem 1rem; font: inherit; text-align: start; }
button small { display: block; }
label, input { display: block; width: 100%; box-sizing: border-box; font: inherit; }
input { margin-bottom: 1rem; padding: .5rem; }
.wrong { font-weight: bold; }
"""

_STYLE_HASH = b64encode(sha256(_STYLE.encode("utf-8")).digest()).decode("ascii")

#: Hosts that a source of a content security policy can name. It cannot name IPv6 addresses.
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")


_ADMIN_TOKEN = (
    '<label for="admin-token">Admin token of the emulator</label>',
    '<input id="admin-token" name="admin_token" type="password" autocomplete="off" required autofocus>',
    "<button>Continue</button>",
)


def policy(redirect_uri: str | None = None) -> str:
    """Return the content security policy of a page.

    Args:
        redirect_uri: Where the form leads in the end. Chromium checks redirects of a form, too.
    """
    targets = "'none'" if redirect_uri is None else f"'self' {_source(redirect_uri)}"
    return (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action {targets};"
        " frame-ancestors 'none'"
    )


def _source(redirect_uri: str) -> str:
    parts = urlsplit(redirect_uri)
    if parts.scheme in ("http", "https") and _HOST.fullmatch(parts.netloc):
        return f"{parts.scheme}://{parts.netloc}"
    return f"{parts.scheme}:"


def sign_in_page(
    client: OAuthClient,
    request: AuthorizationRequest,
    sealed: str,
    people: Iterable[User] | None,
    mistake: str = "",
) -> bytes:
    """Return the page that lists the users, or the one before it, which asks for the admin token.

    Args:
        client: The application.
        request: What it asks for.
        sealed: The same as text that only an emulator can make.
        people: Who may sign in; ``None`` to ask for the admin token.
        mistake: What is wrong with the form that was sent before.
    """
    name = _text(client.name or client.client_id)
    parts = [f"<h1>Sign in to {name}</h1>", f"<p>You return to {_text(_shown_target(request.redirect_uri))}.</p>"]
    if request.scopes:
        parts.append(f"<p>The application asks for: {_text(', '.join(request.scopes))}.</p>")
    if mistake:
        parts.append(f'<p class="wrong" role="alert">{_text(mistake)}</p>')
    parts.append('<form method="post" action="authorize">')
    parts.append(f'<input type="hidden" name="request" value="{escape(sealed)}">')
    parts += _ADMIN_TOKEN if people is None else _users(people)
    parts.append('<button name="cancel" value="yes" formnovalidate>Cancel</button>')
    parts.append("</form>")
    return _page("Sign in", parts)


def _users(people: Iterable[User]) -> list[str]:
    users = [
        f'<button name="user" value="{escape(user.user_id)}">{_text(user.shown_name)}'
        f"<small>{_text(user.username)}</small></button>"
        for user in people
    ]
    return users or ["<p>No user of the seed may sign in.</p>"]


def error_page(message: str) -> bytes:
    """Return the page that says why nobody can sign in. It does not lead back to the application."""
    return _page("Cannot sign in", ["<h1>Cannot sign in</h1>", f"<p>{_text(message)}</p>"])


def _shown_target(redirect_uri: str) -> str:
    parts = urlsplit(redirect_uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"


def _text(text: str) -> str:
    """Return text as HTML, in which it cannot change the direction of what stands beside it."""
    return f"<bdi>{escape(text)}</bdi>"


def _page(title: str, parts: Iterable[str]) -> bytes:
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        f'<head><meta charset="utf-8"><title>{title} - twisted-cm</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>',
        "<body><main>",
        *parts,
        "</main></body>",
        "</html>",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")
