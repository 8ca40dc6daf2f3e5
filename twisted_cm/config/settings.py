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
    """
    Everything that a service is made from.

    @ivar listen: whether to listen at all; L{False} for an emulator that is used through its C{site} alone.
    @ivar interface: the address to listen on.
    @ivar port: for plain HTTP; 0 picks a free one.
    @ivar tls_port: for HTTPS; 0 picks a free one.
    @ivar certificate: for HTTPS; L{None} for no TLS listener at all.
    @ivar allowed_hosts: names that clients may call it by on loopback, beside localhost and addresses.
    @ivar cors_origins: the origins of web pages that may call it.
    @ivar record: the file that each job is appended to when it ends, or L{None}.
    @ivar broker: the URL of the Redis to share with other emulators; L{None} to keep everything in this process.
    @ivar base_url: what session URIs are built on, in place of what a request came in with.
    """

    seed: Seed = Factory(Seed)
    listen: bool = True
    interface: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_port: int = DEFAULT_TLS_PORT
    certificate: ServerCertificate | None = None
    admin_token: str | None = field(default=None, repr=False)
    base_url: str | None = None
    limits: Limits = Factory(Limits)
    sidecars: tuple[Sidecar, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    record: Path | None = None
    broker: str | None = field(default=None, repr=False)


def limits_of(
    seed: Seed, poll_timeout: float | None = None, sync_timeout: float | None = None, max_body: int | None = None
) -> Limits:
    """
    @return: the limits that are given, or else the seed's, or else the default ones.
    """
    default = Limits()
    return Limits(
        next(each for each in (poll_timeout, seed.poll_timeout, default.poll_timeout) if each is not None),
        next(each for each in (sync_timeout, seed.sync_timeout, default.sync_timeout) if each is not None),
        default.max_body if max_body is None else max_body,
    )
