"""
The options of a server, once for C{twisted-cm serve} and once for C{twistd compute-modules}, and what they mean.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import frozen

from ..model.limits import Limits
from .seed import Seed, Sidecar
from .settings import DEFAULT_PORT, DEFAULT_TLS_PORT
from .state_dir import STATE_DIR_OPTION, default_state_dir
from .tls import CertificateError, ServerCertificate, local_certificate, user_certificate

F = TypeVar("F", bound=Callable[..., Any])


_DEFAULTS = Limits()


_PORT = click.IntRange(0, 65535)


_SECONDS = click.FloatRange(0, 86400, min_open=True)


_PATH = click.Path(path_type=Path)


_OPTIONS = (
    click.option("--seed", type=_PATH, metavar="FILE", help="Seed file, YAML or JSON."),
    click.option("--interface", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option("--port", type=_PORT, help=f"Port for HTTP, 0 for any.  [default: the seed's, or {DEFAULT_PORT}]"),
    click.option("--tls-port", type=_PORT, default=DEFAULT_TLS_PORT, show_default=True, help="Port for HTTPS."),
    click.option("--certificate", type=_PATH, metavar="PEM", help="Your own certificate, in place of a local one."),
    click.option("--private-key", type=_PATH, metavar="PEM", help="Its key, if it is in a file of its own."),
    click.option("--ca", type=_PATH, metavar="PEM", help="The CA that clients verify it with."),
    STATE_DIR_OPTION,
    click.option(
        "--broker",
        metavar="URL",
        help="Share a Redis with other emulators: redis://[:password@]host[:port][/db].  [default: the seed's]",
    ),
    click.option("--admin-token", envvar="TWISTED_CM_ADMIN_TOKEN", help="Needed to listen beyond loopback."),
    click.option("--base-url", metavar="URL", help="What session URIs are built on.  [default: the request's]"),
    click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        metavar="NAME",
        help="A name that clients on this machine call it by, beside localhost; may be repeated.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="An origin whose web pages may call it, as http://host:port; may be repeated.",
    ),
    click.option("--poll-timeout", type=_SECONDS, metavar="SECONDS", help="How long a job poll parks.  [default: 2]"),
    click.option("--sync-timeout", type=_SECONDS, metavar="SECONDS", help="How long a caller parks.  [default: 30]"),
    click.option(
        "--max-body",
        type=click.IntRange(1),
        default=_DEFAULTS.max_body,
        show_default=True,
        metavar="BYTES",
        help="The largest request body, results included.",
    ),
    click.option(
        "--record",
        type=_PATH,
        metavar="FILE",
        help="Append each job that ends to this file, for 'twisted-cm replay'; what fields hold whose names say that"
        " it is secret (password, token, api_key and the like) is left out.",
    ),
    click.option("--sidecar", metavar="RUNTIME", help="Serve this runtime at the sidecar addresses too."),
    click.option("--sidecar-port", type=_PORT, default=8946, show_default=True, help="Sidecar port for HTTP."),
    click.option("--sidecar-tls-port", type=_PORT, default=8945, show_default=True, help="Sidecar port for HTTPS."),
)


@frozen
class ServerOptions:
    """The options as given."""

    seed: Path | None
    interface: str
    port: int | None
    tls_port: int
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


def server_options(command: F) -> F:
    """Give a click command the options of a server."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def certificate_of(options: ServerOptions) -> ServerCertificate:
    if options.certificate is not None:
        return user_certificate(options.certificate, options.private_key, options.ca)
    if options.private_key is not None or options.ca is not None:
        raise CertificateError("--private-key and --ca go with --certificate; name that too")
    return local_certificate(options.state_dir or default_state_dir(), options.interface)


def sidecars_of(options: ServerOptions, seed: Seed) -> tuple[Sidecar, ...]:
    if options.sidecar is None:
        return seed.sidecars
    asked = Sidecar(options.sidecar, options.sidecar_port, options.sidecar_tls_port)
    return (asked, *(each for each in seed.sidecars if each.runtime_id != options.sidecar))
