"""What a user grants to an OAuth client by signing in, and how the two prove that they are the same (RFC 7636)."""

from __future__ import annotations

import base64
import hashlib
import re

from attrs import frozen

#: Seconds for which an authorization code can be redeemed.
CODE_LIFETIME = 60
#: Seconds for which a refresh token can be used.
REFRESH_LIFETIME = 30 * 24 * 3600
#: Seconds for which the page for signing in can be answered.
REQUEST_LIFETIME = 600
#: The maximum number of grants whose codes were not redeemed that are kept at once, and that of all others. Beyond it,
#: those that expire first end early.
MOST_GRANTS = 10_000
#: The scope with which a client asks for a refresh token. Every client may ask for it.
OFFLINE_ACCESS = "offline_access"

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


@frozen
class Grant:
    """What a user granted to a client.

    Attributes:
        redirect_uri: Where the code was sent.
        code_challenge: The hash of the client's secret verifier; ``None`` if the client sent none.
        expires_at: Seconds since the epoch. Until then, the code can be redeemed, or a token of it used.
    """

    client_id: str
    username: str
    scopes: tuple[str, ...]
    redirect_uri: str
    code_challenge: str | None
    expires_at: float


def is_challenge(text: str) -> bool:
    """Return whether a text can be a code challenge of the method ``S256``."""
    return _CHALLENGE.fullmatch(text) is not None


def challenge_of(verifier: str) -> str | None:
    """Return the ``S256`` challenge of a code verifier, or ``None`` if the verifier is not as the standard says."""
    if _VERIFIER.fullmatch(verifier) is None:
        return None
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
