"""
Who may do it.

Bearer tokens for the Contour routes, the admin token, and module auth
tokens.  A presented token is hashed before it is looked up, so that how long
the look-up takes says nothing about the tokens that exist; where two tokens
are compared, L{hmac.compare_digest} does it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Iterable

from attrs import field, frozen

#: The bearer token that is valid when the seed names none (contract section 5).
DEVELOPMENT_TOKEN = "test_token_admin"


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


def fingerprint(token: str) -> bytes:
    """
    @return: the SHA-256 digest that a token is stored and looked up under.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def same_token(presented: str, expected: str) -> bool:
    """
    @return: whether both are the same, in a time that does not depend on where they differ.
    """
    return hmac.compare_digest(fingerprint(presented), fingerprint(expected))


class Credentials:
    """
    The bearer tokens of one emulator.

    @ivar admin_token: the admin token, or L{None} where only loopback is
        listened on and none was given; any bearer is an administrator then.
    @ivar guarded: whether sessions and inspection need a token, that is, whether anything but loopback is listened on.
    """

    def __init__(self, tokens: Iterable[BearerToken], admin_token: str | None = None, guarded: bool = False) -> None:
        self.admin_token = admin_token
        self.guarded = guarded
        role = Role.ADMIN if admin_token is None else Role.APPLICATION
        self._principals = {
            fingerprint(bearer.token): Principal(bearer.principal.login, bearer.principal.scopes, role)
            for bearer in tokens
        }
        if admin_token is not None:
            self._principals[fingerprint(admin_token)] = Principal("admin", role=Role.ADMIN)

    def principal(self, token: str) -> Principal | None:
        """
        @param token: a bearer token as presented.
        @return: whose it is, or L{None} if it is unknown.
        """
        return self._principals.get(fingerprint(token))
