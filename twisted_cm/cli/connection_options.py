"""Which server does a command talk to, and with which token?"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from attrs import evolve, field, fields, frozen
from typing_extensions import Self

from ..config.found_seed import find_seed
from ..config.state_dir import STATE_DIR_OPTION, default_state_dir
from ..model.tokens import DEVELOPMENT_TOKEN

if TYPE_CHECKING:
    from ..config.seed import Seed

R = TypeVar("R")

#: What adds one option to a command.
Option = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Where a server listens that was started without a port.
DEFAULT_URL = "http://127.0.0.1:4000"

CONNECTION_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--url",
        default="",
        envvar="TWISTED_CM_URL",
        help=f"Base URL of the server.  [default: the port of the seed in this directory, or {DEFAULT_URL}]",
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

    def completed(self) -> Self:
        """Return the options with what the seed of the current directory says, in place of what the user left out."""
        return self

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

    def completed(self) -> Self:
        found = None if self.url and self.token else find_seed()
        url, token = DEFAULT_URL, DEVELOPMENT_TOKEN
        if found is not None:
            # These imports take longer than most commands do.
            from ..config.seed import read_seed
            from ..config.seed_file import InvalidSeed

            try:
                seed = read_seed(found)
            except InvalidSeed as error:
                raise click.ClickException(f"{error}\nMend the file, or give --url and --token.") from None
            url = url_of(seed, found) if not self.url else url
            token = next((each.token for each in seed.bearer_tokens), token)
        return evolve(self, url=self.url or url, token=self.token or token)


def url_of(seed: Seed, path: Path) -> str:
    """Return the URL of a server that has read a seed.

    Raises:
        click.ClickException: The seed lets the server take any port.
    """
    if seed.port == 0:
        raise click.ClickException(f"{path} has the port 0, which is any free one. Name the server with --url.")
    return DEFAULT_URL if seed.port is None else f"http://127.0.0.1:{seed.port}"


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
            return command(record(**{name: values.pop(name) for name in names}).completed(), **values)

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
            default="",
            help="Bearer token to show the server.  [default: the first one of the seed in this directory, or"
            f" {DEVELOPMENT_TOKEN}]",
        ),
        *CONNECTION_OPTIONS,
    ),
)
