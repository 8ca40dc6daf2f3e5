"""Tokens and the users and clients they belong to."""

from __future__ import annotations

import enum
import hashlib
import hmac

from attrs import field, frozen

#: The bearer token that is valid when the seed names none (contract section 5).
DEVELOPMENT_TOKEN = "test_token_admin"
#: Seconds that an issued token is valid, unless its client configures another lifetime.
TOKEN_LIFETIME = 3600
#: The maximum number of such tokens that are valid at once. Beyond it, the oldest ones end early.
MOST_TOKENS = 10_000


class Role(enum.Enum):
    """What a token lets its bearer do."""

    APPLICATION = "application"
    ADMIN = "admin"


@frozen
class Principal:
    """The user or client that a bearer token belongs to.

    Attributes:
        is_client: Whether it is an OAuth client or a runtime, even if a user has the same name.
    """

    login: str
    scopes: tuple[str, ...] = ()
    role: Role = Role.APPLICATION
    is_client: bool = False


@frozen
class BearerToken:
    """A token from the seed, and its owner."""

    token: str = field(repr=False)
    principal: Principal


class GrantType(enum.Enum):
    """The ways in which a client gets a token."""

    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"
    CLIENT_CREDENTIALS = "client_credentials"


@frozen
class OAuthClient:
    """A client from the seed that may request tokens.

    Attributes:
        client_secret: Its secret. A client without one is public: it runs where everybody can read it.
        scopes: The scopes it may ask for; ``None`` for any.
        token_lifetime: Seconds that its tokens are valid.
        name: The name to show; empty for its id.
        redirect_uris: Where a user who has signed in may be sent.
        grant_types: The ways in which it may get tokens.
    """

    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] | None = None
    token_lifetime: int = TOKEN_LIFETIME
    name: str = ""
    redirect_uris: tuple[str, ...] = ()
    grant_types: tuple[GrantType, ...] = tuple(GrantType)

    @property
    def is_public(self) -> bool:
        """Whether the client has no secret."""
        return self.client_secret is None

    def may_use(self, grant_type: GrantType) -> bool:
        """Return whether the client may get tokens in this way. Without a secret, a client is nobody by itself."""
        return grant_type in self.grant_types and not (self.is_public and grant_type is GrantType.CLIENT_CREDENTIALS)


@frozen
class IssuedToken:
    """A bearer token that was issued. The token itself is not kept, only its :func:`fingerprint`.

    Attributes:
        expires_at: Seconds since the epoch.
        username: The user who signed in; ``None`` if the token is the client's own.
        grant_id: The grant of the user. The token ends with it.
    """

    client_id: str
    scopes: tuple[str, ...]
    expires_at: float
    username: str | None = None
    grant_id: str | None = None


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


def sign(key: bytes, content: bytes) -> str:
    """Return a MAC that shows that an emulator made ``content``. It is never that of a job's token."""
    return hashlib.blake2b(content, digest_size=32, key=key, person=b"authorization").hexdigest()


def same_token(presented: str, expected: str) -> bool:
    """Return whether two tokens are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(presented.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
