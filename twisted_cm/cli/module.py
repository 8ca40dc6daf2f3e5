"""Commands that start a module, or print what it has to be started with."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.threads import deferToThread

from ..client.api import ComputeModulesError, InvalidModuleAuthToken, NotFound, ReplicaSession
from ..config.module_settings import UnusableSettings
from ..model.printable import printable
from ..model.replicas import MOST_CONCURRENT_TASKS
from ..supervisor.module_env import (
    EmulatorAccess,
    bypass_proxies,
    claimed_directory,
    inherited_environment,
    replica_directory,
    token_file,
    write_environment,
)
from .end_of_input import interrupt_at_end_of_input
from .joined_replica import Companion, ReplicaPlan
from .module_process import ModuleProcess
from .reactor import run
from .runtime_options import RuntimeOptions, runtime_options

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that the server may take to delete a replica whose module has ended.
_PATIENCE = 5

#: The exit status of a program that Ctrl-C ended.
_INTERRUPTED = 128 + signal.SIGINT


def _replica_options(command: F) -> F:
    for option in (
        click.option(
            "--sidecar-port",
            type=click.IntRange(1, 65535),
            metavar="PORT",
            help="Port of the server's plain sidecar for the runtime, for Java SDKs.  [default: the seed's]",
        ),
        click.option(
            "--max-concurrent-tasks",
            type=click.IntRange(1, MOST_CONCURRENT_TASKS),
            metavar="N",
            help="Jobs that the module takes at once.  [default: the seed's, or 1]",
        ),
    ):
        command = option(command)
    return command


async def _prepare(
    reactor: Any, plan: ReplicaPlan, directory: Path, sidecar_port: int | None
) -> Callable[[], dict[str, str]]:
    """Look at the server; return what writes the files of a module and returns its variables.

    Raises:
        click.ClickException: The seed's settings cannot be used.
        twisted_cm.client.ComputeModulesError: No emulator answers.
    """
    runtime = plan.runtime
    try:
        settings = runtime.settings.expanded(os.environ)
    except UnusableSettings as error:
        raise click.ClickException(f"{runtime.options.seed}: {error}") from None
    url, info = await plan.look_at_server(reactor)
    access = EmulatorAccess(
        runtime.options.runtime_id,
        plan.replica_id,
        plan.token,
        plan.max_concurrent_tasks,
        url,
        url if url.startswith("https:") else info.https,
        info.ca_certificate,
        runtime.options.deployed_app or runtime.deployed_app_rid,
        sidecar_port or runtime.sidecar_port,
    )

    return lambda: bypass_proxies(write_environment(access, settings, runtime.application, directory), os.environ)


@click.command("exec", context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@runtime_options
@_replica_options
@click.option("--reset", is_flag=True, help="Reset the runtime first: its jobs and schemas are lost.")
@click.option(
    "--stop-with-stdin",
    is_flag=True,
    help="Also stop when standard input ends, so when the program that started this has gone.",
)
def exec_(
    runtime: RuntimeOptions,
    command: tuple[str, ...],
    sidecar_port: int | None,
    max_concurrent_tasks: int | None,
    reset: bool,
    stop_with_stdin: bool,
) -> None:
    """Start a module and connect it to a server.

    COMMAND starts the module; put it after --. It runs with the environment variables that compute-module SDKs read, as
    a replica of the runtime beside those that run already. When it ends, its replica is deleted, and this command ends
    with its exit status. Signals are passed on to it. Ctrl-C ends it with SIGTERM, as Foundry ends a container.

    \b
    Examples:
      twisted-cm exec --runtime my-runtime --seed seed.yaml -- python app.py
      twisted-cm exec --runtime mine --deployed-app ri.mine -- python app.py
    """
    plan = ReplicaPlan.make(runtime.known(), max_concurrent_tasks)
    directory = replica_directory(runtime.directory.absolute(), runtime.runtime_id, plan.replica_id)
    if stop_with_stdin:
        interrupt_at_end_of_input()

    def say(text: str) -> None:
        click.echo(printable(f"twisted-cm: {runtime.runtime_id}: {text}", "\n"), err=True)

    async def main(reactor: Any) -> int:
        write = await _prepare(reactor, plan, directory, sidecar_port)
        async with await _open(reactor, plan, reset) as replica:
            try:
                with claimed_directory(directory):
                    variables = write()
                    environment = inherited_environment(os.environ) | variables
                    return await _accompany(reactor, plan, replica, command, environment, say)
            finally:
                await _delete(reactor, replica)

    raise SystemExit(run(main))


async def _open(reactor: Any, plan: ReplicaPlan, reset: bool) -> ReplicaSession:
    replica = await plan.open(reactor)
    if not reset:
        return replica
    # The server is the right one.
    await replica.delete()
    await replica.close()
    session = await plan.runtime.reset(reactor)
    await session.close()
    runtime = evolve(plan.runtime, options=evolve(plan.runtime.options, module_auth_token=session.module_auth_token))
    return await evolve(plan, runtime=runtime).open(reactor)


async def _accompany(
    reactor: Any,
    plan: ReplicaPlan,
    replica: ReplicaSession,
    command: tuple[str, ...],
    environment: dict[str, str],
    say: Callable[[str], None],
) -> int:
    """Run a module and look after its replica; return the exit status."""
    try:
        process = ModuleProcess(command, environment)
    except OSError as error:
        click.echo(f"Error: Cannot run {command[0]}: {error.strerror}. Name a program after --.", err=True)
        # The exit statuses that a shell uses.
        return 127 if isinstance(error, FileNotFoundError) else 126
    companion = Companion(reactor, plan, replica, say, lambda: process.send(signal.SIGTERM))
    watching = Deferred.fromCoroutine(companion.run())
    watching.addErrback(lambda failure: failure.trap(CancelledError))
    try:
        status = await _end_of(process)
    finally:
        watching.cancel()
        process.close()
    if process.interrupted:
        say("stopped")
        return _INTERRUPTED
    return status


async def _end_of(process: ModuleProcess) -> int:
    """Wait until a module has ended; return its exit status.

    Raises:
        CancelledError: A signal came just before the process handled signals itself. The module has ended.
    """
    canceled = False
    while True:
        try:
            status: int = await deferToThread(process.wait)
        except CancelledError:
            canceled = True
            process.interrupt()
        else:
            if canceled:
                raise CancelledError
            return status


async def _delete(reactor: Any, replica: ReplicaSession) -> None:
    try:
        await Deferred.fromCoroutine(replica.delete()).addTimeout(_PATIENCE, reactor)
    except (ComputeModulesError, TimeoutError):
        # The server is gone, or has forgotten the replica.
        return


@click.command()
@runtime_options
@_replica_options
@click.option("--replica", "replica_id", default="container", show_default=True, help="Id of the replica to open.")
def env(runtime: RuntimeOptions, sidecar_port: int | None, max_concurrent_tasks: int | None, replica_id: str) -> None:
    """Print the variables that a module needs.

    The output fits 'docker run --env-file'. Some variables name files in the state directory; mount it at the same
    path. The replica stays open until it is deleted. The same command run again prints the same token.

    \b
    Examples:
      twisted-cm env --runtime mine --deployed-app ri.mine > module.env
    """
    plan = ReplicaPlan.make(runtime.known(), max_concurrent_tasks, replica_id)
    directory = replica_directory(runtime.directory.absolute(), runtime.runtime_id, replica_id)
    token = token_file(directory)
    if token is not None:
        plan = evolve(plan, token=token)

    async def main(reactor: Any) -> dict[str, str]:
        write = await _prepare(reactor, plan, directory, sidecar_port)
        if token is None or not await _is_open(reactor, plan):
            await (await plan.open(reactor)).close()
        return write()

    variables = run(main)
    for name, value in variables.items():
        if "\n" in value or "\r" in value:
            raise click.ClickException(f"The value of {name} has several lines, which no env file can hold.")
    for name, value in variables.items():
        click.echo(f"{name}={value}")


async def _is_open(reactor: Any, plan: ReplicaPlan) -> bool:
    """Return whether the replica is open with that token and that limit. If only its limit differs, delete it."""
    async with plan.join(reactor) as replica:
        try:
            status = await replica.status()
            if status.max_concurrent_tasks == plan.max_concurrent_tasks:
                return True
            await replica.delete()
        except (InvalidModuleAuthToken, NotFound):
            pass
        return False
