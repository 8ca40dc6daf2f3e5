"""The options that say which server a command talks to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..config.seed import read_seed
from ..config.seed_file import InvalidSeed
from ..config.state_dir import STATE_DIR_OPTION, default_state_dir
from ..model.tokens import DEVELOPMENT_TOKEN

F = TypeVar("F", bound=Callable[..., Any])


_DEFAULT_URL = "http://127.0.0.1:4000"


def connection_options(command: F) -> F:
    """Give a command the options that say which server."""
    for option in (
        click.option("--ca", type=click.Path(path_type=Path), metavar="PEM", help="CA to verify an https URL with."),
        click.option("--url", default=_DEFAULT_URL, show_default=True, envvar="TWISTED_CM_URL", help="The server."),
        STATE_DIR_OPTION,
    ):
        command = option(command)
    return command


def caller_options(command: F) -> F:
    """Give a command the options of whoever asks a server with a bearer token."""
    option = click.option(
        "--token", envvar="TWISTED_CM_TOKEN", default=DEVELOPMENT_TOKEN, show_default=True, help="A bearer token."
    )
    return option(connection_options(command))


def runtime_options(command: F) -> F:
    """Give a command the options that say which runtime to be, and how to join the server as that."""
    for option in (
        click.option("--admin-token", envvar="TWISTED_CM_ADMIN_TOKEN", help="For a server beyond loopback."),
        click.option("--branch", help="Its branch.  [default: master]"),
        click.option("--deployed-app", metavar="RID", help="Bind this deployed app to the runtime."),
        click.option("--seed", type=click.Path(path_type=Path), help="Take the runtime's token from this seed."),
        click.option("--module-auth-token", metavar="TOKEN", help="Join the runtime as it is, without a session."),
        click.option("--runtime", "runtime_id", required=True, metavar="ID", help="The runtime to be."),
    ):
        command = option(command)
    return connection_options(command)


def known_token(
    runtime_id: str, module_auth_token: str | None, seed: Path | None, deployed_app: str | None, branch: str | None
) -> str | None:
    """
    @return: the token that L{runtime_options} tell of, or L{None} where a session is to be opened.
    @raise click.ClickException: the options do not go together, or the seed is none.
    """
    if seed is not None and module_auth_token is None:
        try:
            runtimes = read_seed(seed).runtimes
        except InvalidSeed as error:
            raise click.ClickException(str(error)) from None
        module_auth_token = next((each.module_auth_token for each in runtimes if each.runtime_id == runtime_id), None)
    if module_auth_token is not None and deployed_app is not None:
        raise click.UsageError("--deployed-app binds with a session of its own; leave out the token to open one")
    if branch is not None and deployed_app is None:
        raise click.UsageError("--branch goes with --deployed-app")
    return module_auth_token


def connection(reactor: Any, url: str, ca: Path | None, state_dir: Path | None) -> dict[str, Any]:
    """
    @return: how a client is made, beside its URL and token.  Whoever is at a shell can try again, and would rather
        know.
    @raise click.ClickException: a value is of no use.
    """
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"{url} is no URL; it must start with http:// or https://")
    path = ca or (state_dir or default_state_dir()) / "ca.pem"
    pem = None
    if url.startswith("https://") and (ca is not None or path.exists()):
        try:
            pem = path.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{path}: {error}; name a readable PEM file with --ca") from None
    return {"reactor": reactor, "ca_certificate": pem, "retries": None}
