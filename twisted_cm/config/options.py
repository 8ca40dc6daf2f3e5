"""The options of a server, for both ``twisted-cm serve`` and ``twistd compute-modules``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import frozen

from ..model.limits import Limits
from .numbers import FiniteRange
from .seed import Seed, Sidecar, read_seed
from .settings import DEFAULT_PORT, DEFAULT_TLS_PORT, Settings, limits_of
from .state_dir import STATE_DIR_OPTION, default_state_dir
from .tls import CertificateError, ServerCertificate, local_certificate, user_certificate

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = Limits()
_PORT = click.IntRange(0, 65535)
_SECONDS = FiniteRange(0, 86400, min_open=True)
_PATH = click.Path(path_type=Path)


_OPTIONS = (
    click.option("--seed", type=_PATH, metavar="FILE", help="Seed file, YAML or JSON."),
    click.option("--interface", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option("--port", type=_PORT, help=f"Port for HTTP, 0 for any.  [default: the seed's, or {DEFAULT_PORT}]"),
    click.option(
        "--tls-port",
        type=_PORT,
        help=f"Port for HTTPS, 0 for any.  [default: {DEFAULT_TLS_PORT}, or any if that is in use]",
    ),
    click.option("--certificate", type=_PATH, metavar="PEM", help="Your own certificate.  [default: a local one]"),
    click.option("--private-key", type=_PATH, metavar="PEM", help="Key of --certificate, if it is in a separate file."),
    click.option("--ca", type=_PATH, metavar="PEM", help="CA that clients verify --certificate with."),
    STATE_DIR_OPTION,
    click.option(
        "--broker",
        metavar="URL",
        help="Redis to share with other emulators: redis://[:password@]host[:port][/db].  [default: the seed's]",
    ),
    click.option("--admin-token", envvar="TWISTED_CM_ADMIN_TOKEN", help="Required to listen beyond loopback."),
    click.option("--base-url", metavar="URL", help="URL that session URIs start with.  [default: the request's]"),
    click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        metavar="NAME",
        help="Name that clients on this machine may use for it, besides localhost. Repeatable.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Origin of web pages that may call the emulator, such as http://host:port. Repeatable.",
    ),
    click.option("--poll-timeout", type=_SECONDS, metavar="SECONDS", help="How long a job poll parks.  [default: 2]"),
    click.option(
        "--sync-timeout", type=_SECONDS, metavar="SECONDS", help="How long a synchronous caller parks.  [default: 30]"
    ),
    click.option(
        "--max-body",
        type=click.IntRange(1),
        default=_DEFAULTS.max_body,
        show_default=True,
        metavar="BYTES",
        help="Largest request body, results included.",
    ),
    click.option(
        "--record",
        type=_PATH,
        metavar="FILE",
        help="Append each finished job to FILE, for 'twisted-cm replay'. Values of fields with secret-looking names"
        " (password, token, api_key) are left out.",
    ),
    click.option("--sidecar", metavar="RUNTIME", help="Serve RUNTIME at the sidecar ports, too."),
    click.option("--sidecar-port", type=_PORT, default=8946, show_default=True, help="Sidecar port for HTTP."),
    click.option("--sidecar-tls-port", type=_PORT, default=8945, show_default=True, help="Sidecar port for HTTPS."),
)


@frozen
class ServerOptions:
    """The options as they were given."""

    seed: Path | None
    interface: str
    port: int | None
    tls_port: int | None
    certificate: Path | None
    private_key: Path | None
    ca: Path | None
    state_dir: Path | None
    broker: str | None
    admin_token: str | None
    base_url: str | None
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    poll_timeout: float | None
    sync_timeout: float | None
    max_body: int
    record: Path | None
    sidecar: str | None
    sidecar_port: int
    sidecar_tls_port: int

    def settings(self) -> Settings:
        """Return the settings that the options and the seed file describe.

        Raises:
            InvalidSeed: The seed file cannot be read, or is not valid.
            CertificateError: The certificate cannot be read or made.
        """
        seed = read_seed(self.seed) if self.seed is not None else Seed()
        return Settings(
            seed=seed,
            interface=self.interface,
            port=next(port for port in (self.port, seed.port, DEFAULT_PORT) if port is not None),
            tls_port=self.tls_port,
            certificate=self._certificate(),
            broker=self.broker or seed.broker,
            admin_token=self.admin_token or None,
            base_url=self.base_url,
            allowed_hosts=self.allowed_hosts,
            cors_origins=self.cors_origins,
            record=self.record,
            limits=limits_of(seed, self.poll_timeout, self.sync_timeout, self.max_body),
            sidecars=self._sidecars(seed),
        )

    def _certificate(self) -> ServerCertificate:
        if self.certificate is not None:
            return user_certificate(self.certificate, self.private_key, self.ca)
        if self.private_key is not None or self.ca is not None:
            raise CertificateError("--private-key and --ca belong to --certificate; name the certificate, too")
        return local_certificate(self.state_dir or default_state_dir(), self.interface)

    def _sidecars(self, seed: Seed) -> tuple[Sidecar, ...]:
        if self.sidecar is None:
            return seed.sidecars
        asked = Sidecar(self.sidecar, self.sidecar_port, self.sidecar_tls_port)
        return (asked, *(each for each in seed.sidecars if each.runtime_id != self.sidecar))


def server_options(command: F) -> F:
    """Give a click command the options of a server."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
