"""Commands that start a module, or print what it has to be started with."""

from __future__ import annotations

import os
import signal
from typing import Any

import click

from ..client.api import EmulatorControl
from .module_env import CannotWriteFiles, EmulatorAccess, bypass_proxies, runtime_directory, write_environment
from .reactor import run
from .runtime_options import RuntimeOptions, runtime_options

#: The variables that hold tokens of the emulator. The module has a token of its own and must not see these.
_CREDENTIALS = ("TWISTED_CM_ADMIN_TOKEN", "TWISTED_CM_TOKEN")


def _module_variables(runtime: RuntimeOptions) -> dict[str, str]:
    """Join the runtime, write the files that a module reads, and return its variables.

    Raises:
        click.ClickException: The server cannot be used, or a file cannot be written.
    """
    token = runtime.known_token()

    async def find_access(reactor: Any) -> EmulatorAccess:
        async with EmulatorControl(runtime.url, **runtime.client_arguments(reactor)) as control:
            url, info = control.url, await control.info()
        async with await runtime.join(reactor, token) as session:
            https = url if url.startswith("https:") else info.https
            return EmulatorAccess(session.runtime_id, session.module_auth_token, url, https, info.ca_certificate)

    access = run(find_access)
    directory = runtime_directory(runtime.directory.absolute(), runtime.runtime_id)
    try:
        return bypass_proxies(write_environment(access, directory), os.environ)
    except CannotWriteFiles as error:
        raise click.ClickException(str(error)) from None


@click.command("exec", context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@runtime_options
def exec_(runtime: RuntimeOptions, command: tuple[str, ...]) -> None:
    """Start a module and connect it to a server.

    COMMAND starts the module; put it after --. It runs with the environment variables that compute-module SDKs read.
    It replaces this process, so it receives signals directly, and its exit status is the exit status of this command.

    \b
    Examples:
      twisted-cm exec --runtime my-runtime --seed seed.yaml -- python app.py
      twisted-cm exec --runtime mine --deployed-app ri.mine -- python app.py
    """
    environment = {name: value for name, value in os.environ.items() if name not in _CREDENTIALS}
    environment |= _module_variables(runtime)
    # Python ignores SIGPIPE, and the module would inherit that; a shell starts programs with the default.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        click.echo(f"Error: Cannot run {command[0]}: {error.strerror}. Name a program after --.", err=True)
        # The exit statuses that a shell uses.
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None


@click.command()
@runtime_options
def env(runtime: RuntimeOptions) -> None:
    """Print the variables that a module needs.

    The output fits 'docker run --env-file'. Some variables name files in the state directory; mount it at the same
    path.

    \b
    Examples:
      twisted-cm env --runtime mine --deployed-app ri.mine > module.env
    """
    for name, value in _module_variables(runtime).items():
        click.echo(f"{name}={value}")
