"""Tokens and their owners."""

from __future__ import annotations

import enum
import hashlib
import hmac

from attrs import field, frozen

#: The bearer token that is valid when the seed names none (contract section 5).
DEVELOPMENT_TOKEN = "test_token_admin"


#: Seconds that a token from C{client_credentials} is valid, unless its client says otherwise.
TOKEN_LIFETIME = 3600


#: The most such tokens that are valid at once; past it, those issued first end early.
MOST_TOKENS = 10_000


class Role(enum.Enum):
    """What a token lets its bearer do."""

    APPLICATION = "application"
    ADMIN = "admin"


@frozen
class Principal:
    """Whoever a bearer token belongs to."""

    login: str
    scopes: tuple[str, ...] = ()
    role: Role = Role.APPLICATION


@frozen
class BearerToken:
    """One token and its owner, as seeded."""

    token: str = field(repr=False)
    principal: Principal


@frozen
class OAuthClient:
    """
    A client that may get tokens with C{client_credentials}, as seeded.

    @ivar scopes: what it may ask for; L{None} for anything.
    @ivar token_lifetime: seconds.
    """

    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] | None = None
    token_lifetime: int = TOKEN_LIFETIME


@frozen
class IssuedToken:
    """
    A bearer token from C{client_credentials}; what it is itself is not kept.

    @ivar expires_at: seconds since the epoch.
    """

    client_id: str
    scopes: tuple[str, ...]
    expires_at: float


def fingerprint(token: str) -> bytes:
    """
    @return: the SHA-256 digest that a token is stored and looked up under.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def same_token(presented: str, expected: str) -> bool:
    """
    @return: whether both are the same, in a time that does not depend on where they differ.
    """
    return hmac.compare_digest(presented.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
