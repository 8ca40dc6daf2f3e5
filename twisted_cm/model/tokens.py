"""Tokens and the users and clients they belong to."""

from __future__ import annotations

import enum
import hashlib
import hmac

from attrs import field, frozen

#: The bearer token that is valid when the seed names none (contract section 5).
DEVELOPMENT_TOKEN = "test_token_admin"
#: Seconds that a token from ``client_credentials`` is valid, unless its client configures another lifetime.
TOKEN_LIFETIME = 3600
#: The maximum number of such tokens that are valid at once. Beyond it, the oldest ones end early.
MOST_TOKENS = 10_000


class Role(enum.Enum):
    """What a token lets its bearer do."""

    APPLICATION = "application"
    ADMIN = "admin"


@frozen
class Principal:
    """The user or client that a bearer token belongs to."""

    login: str
    scopes: tuple[str, ...] = ()
    role: Role = Role.APPLICATION


@frozen
class BearerToken:
    """A token from the seed, and its owner."""

    token: str = field(repr=False)
    principal: Principal


@frozen
class OAuthClient:
    """A client from the seed that may request tokens with ``client_credentials``.

    Attributes:
        scopes: The scopes it may ask for; ``None`` for any.
        token_lifetime: Seconds that its tokens are valid.
    """

    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] | None = None
    token_lifetime: int = TOKEN_LIFETIME


@frozen
class IssuedToken:
    """A bearer token from ``client_credentials``. The token itself is not kept, only its :func:`fingerprint`.

    Attributes:
        expires_at: Seconds since the epoch.
    """

    client_id: str
    scopes: tuple[str, ...]
    expires_at: float


def fingerprint(token: str) -> bytes:
    """Return the SHA-256 digest under which a token is stored and looked up."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def job_token(key: bytes, job_id: str) -> str:
    """Return the bearer token of a job: its id, with a MAC that only an emulator can make.

    Args:
        key: The key of the MAC, of up to 64 bytes.
        job_id: The job.
    """
    mac = hashlib.blake2b(job_id.encode("utf-8", "surrogatepass"), digest_size=20, key=key)
    return f"{job_id}.{mac.hexdigest()}"


def job_of_token(key: bytes, token: str) -> str | None:
    """Return the id of the job that a bearer token was made for, or ``None`` if :func:`job_token` did not make it."""
    job_id = token.rpartition(".")[0]
    return job_id if job_id and same_token(token, job_token(key, job_id)) else None


def same_token(presented: str, expected: str) -> bool:
    """Return whether two tokens are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(presented.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
