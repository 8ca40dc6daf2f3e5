"""Which server does a command talk to, and with which token?"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import field, fields, frozen

from ..config.state_dir import STATE_DIR_OPTION, default_state_dir
from ..model.tokens import DEVELOPMENT_TOKEN

R = TypeVar("R")

#: What adds one option to a command.
Option = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Where a server listens that was started without a port.
DEFAULT_URL = "http://127.0.0.1:4000"

CONNECTION_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--url",
        default=DEFAULT_URL,
        show_default=True,
        envvar="TWISTED_CM_URL",
        help="Base URL of the server.",
    ),
    click.option(
        "--ca",
        type=click.Path(path_type=Path),
        metavar="PEM",
        help="CA certificate to verify an https URL with.  [default: ca.pem in the state directory]",
    ),
    STATE_DIR_OPTION,
)


@frozen(kw_only=True)
class ConnectionOptions:
    """Where a command finds its server.

    Attributes:
        url: The server's base URL.
        ca: A PEM file to verify an https URL with; ``None`` for ``ca.pem`` in the state directory.
        state_dir: The directory for certificates and runtime files; ``None`` for the user's own.
    """

    url: str
    ca: Path | None
    state_dir: Path | None

    @property
    def directory(self) -> Path:
        """The state directory."""
        return self.state_dir or default_state_dir()

    def client_arguments(self, reactor: Any) -> dict[str, Any]:
        """Return the keyword arguments that every client class takes after its URL and token.

        Retries are off: the user sees the error and can repeat the command.

        Raises:
            click.ClickException: The URL is not one, or the CA cannot be read.
        """
        if not self.url.startswith(("http://", "https://")):
            raise click.ClickException(f"'{self.url}' is not a URL. It must start with http:// or https://.")
        path = self.ca or self.directory / "ca.pem"
        pem = None
        if self.url.startswith("https://") and (self.ca is not None or path.exists()):
            try:
                pem = path.read_text("ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise click.ClickException(f"Cannot read {path}: {error}. Name a PEM file with --ca.") from None
        return {"reactor": reactor, "ca_certificate": pem, "retries": None}


@frozen(kw_only=True)
class CallerOptions(ConnectionOptions):
    """Where a command finds its server, and the bearer token that it shows there."""

    token: str = field(repr=False)


def pass_options(
    record: type[ConnectionOptions], options: tuple[Option, ...]
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make a decorator that adds options to a command and passes their values as one record.

    Args:
        record: A class with a field for each of the options. The command takes an instance as its first argument.
        options: In the order in which the help lists them.
    """
    names = [each.name for each in fields(record)]

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @wraps(command)
        def wrapper(**values: Any) -> R:
            return command(record(**{name: values.pop(name) for name in names}), **values)

        decorated: Callable[..., R] = wrapper
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


#: Give a command the options of a caller; it takes :class:`CallerOptions` as its first argument.
caller_options = pass_options(
    CallerOptions,
    (
        click.option(
            "--token",
            envvar="TWISTED_CM_TOKEN",
            default=DEVELOPMENT_TOKEN,
            show_default=True,
            help="Bearer token to show the server.",
        ),
        *CONNECTION_OPTIONS,
    ),
)
