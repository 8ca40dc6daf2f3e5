"""The commands that start a module."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..config.state_dir import default_state_dir
from .connection_options import connection, known_token, runtime_options
from .module_env import Launch
from .reactor import run


def _launch_variables(
    runtime_id: str,
    url: str,
    ca: Path | None,
    state_dir: Path | None,
    module_auth_token: str | None,
    seed: Path | None,
    deployed_app: str | None,
    branch: str | None,
    admin_token: str | None,
) -> Mapping[str, str]:
    from .module_env import CannotLaunch, bypass_proxies, launch_directory, prepare_launch, write_environment

    module_auth_token = known_token(runtime_id, module_auth_token, seed, deployed_app, branch)

    async def prepare(reactor: Any) -> Launch:
        made = connection(reactor, url, ca, state_dir)
        return await prepare_launch(url, runtime_id, module_auth_token, deployed_app, branch, admin_token, **made)

    launch = run(prepare)
    directory = launch_directory((state_dir or default_state_dir()).absolute(), runtime_id)
    try:
        return bypass_proxies(write_environment(launch, directory), os.environ)
    except CannotLaunch as error:
        raise click.ClickException(str(error)) from None


@click.command("exec", context_settings={"ignore_unknown_options": False})
@runtime_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(command: tuple[str, ...], **options: Any) -> None:
    """
    Start a runtime process: twisted-cm exec --runtime ID -- COMMAND …

    COMMAND takes this process's place under the variables that compute-module
    SDKs read, so signals reach it and its exit status is this command's.
    """
    environment = {**os.environ, **_launch_variables(**options)}
    # Python ignores this signal; a program that was started by a shell would not.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        click.echo(f"Error: {command[0]}: {error.strerror}; name a program after --", err=True)
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None


@click.command()
@runtime_options
def env(**options: Any) -> None:
    """Print a runtime process's variables, for docker run --env-file."""
    for name, value in _launch_variables(**options).items():
        click.echo(f"{name}={value}")
