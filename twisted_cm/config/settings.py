"""Everything that an emulator is made from."""

from __future__ import annotations

from pathlib import Path

from attrs import Factory, field, frozen

from ..model.limits import Limits
from .seed import Seed, Sidecar
from .tls import ServerCertificate

DEFAULT_PORT = 4000
DEFAULT_TLS_PORT = 4443


@frozen
class Settings:
    """Everything that an emulator is made from.

    Attributes:
        listen: Whether to listen on sockets; ``False`` for an emulator that is used through its ``site`` alone.
        interface: The address to listen on.
        port: The port for plain HTTP; 0 picks a free one.
        tls_port: The port for HTTPS; 0 picks a free one. ``None`` picks :data:`DEFAULT_TLS_PORT` unless it is in use.
        certificate: The certificate for HTTPS; ``None`` for no TLS listener.
        admin_token: The token that may do everything; required unless ``interface`` is a loopback address.
        base_url: The URL that session URIs are built on, in place of the scheme and ``Host`` of the request.
        allowed_hosts: Names that clients may use for this machine on loopback, besides ``localhost`` and addresses.
        cors_origins: The origins of web pages that may call the emulator.
        record: The file to which each finished job is appended; ``None`` to record nothing.
        broker: The URL of the Redis to share with other emulators; ``None`` to keep everything in this process.
        joins: Whether another emulator on the same Redis has stored the seed, so that this one stores nothing.
    """

    seed: Seed = Factory(Seed)
    listen: bool = True
    interface: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_port: int | None = None
    certificate: ServerCertificate | None = None
    admin_token: str | None = field(default=None, repr=False)
    base_url: str | None = None
    limits: Limits = Factory(Limits)
    sidecars: tuple[Sidecar, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    record: Path | None = None
    broker: str | None = field(default=None, repr=False)
    joins: bool = False


def limits_of(
    seed: Seed, poll_timeout: float | None = None, sync_timeout: float | None = None, max_body: int | None = None
) -> Limits:
    """Return the given limits, with those of the seed and then the defaults in place of ``None``."""
    default = Limits()
    return Limits(
        next(each for each in (poll_timeout, seed.poll_timeout, default.poll_timeout) if each is not None),
        next(each for each in (sync_timeout, seed.sync_timeout, default.sync_timeout) if each is not None),
        default.max_body if max_body is None else max_body,
    )
