"""The command that runs an emulator and a module in one terminal."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import click
from attrs import evolve
from twisted.internet.defer import Deferred

from ..broker.interface import BrokerError, Change
from ..config.options import server_options
from ..config.process_settings import ProcessSettings
from ..config.seed import Seed, SeedRuntime
from ..config.settings import DEFAULT_PORT
from ..model.runtimes import DEFAULT_BRANCH, Binding
from ..model.tokens import DEVELOPMENT_TOKEN
from ..server.module_output import OutputLine
from ..service import EmulatorService
from ..supervisor.service import Supervisor
from .running import RunOptions, run_emulator, run_options, server_with_found_seed
from .runtime_options import no_such_runtime
from .sample_query import sample_query
from .serve import describe_addresses

#: The runtime and the deployed app of a module that no seed describes.
RUNTIME_ID = "dev"
DEPLOYED_APP_RID = "ri.foundry.main.deployed-app.dev"

#: The colours of the runtimes' prefixes.
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue")


@click.command()
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@server_options
@click.option("--runtime", "runtime_id", metavar="ID", help="Runtime of the seed that COMMAND is for.")
@run_options
def dev(run: RunOptions, command: tuple[str, ...], runtime_id: str | None, **options: Any) -> None:
    """Run the emulator and a module in one terminal until Ctrl-C.

    COMMAND starts the module; put it after --. Without COMMAND, the modules that the seed has commands for are started.
    A module that ends is started again. With --reload, it is replaced when one of its files changes. Without --seed,
    the file twisted-cm.yaml or seed.yaml of the current directory is used; without any, the module serves the deployed
    app ri.foundry.main.deployed-app.dev.

    \b
    Examples:
      twisted-cm dev -- python app.py
      twisted-cm dev --reload -- python app.py
      twisted-cm dev --seed seed.yaml --runtime my-runtime -- node app.js
    """
    server = server_with_found_seed(options)
    terminal = _Terminal()

    def adapt(seed: Seed) -> Seed:
        return with_command(seed, command, runtime_id, Path.cwd(), server.seed)

    def started(service: EmulatorService, supervisor: Supervisor) -> None:
        supervisor.output.read(terminal.write)
        click.echo("\n".join([*describe_addresses(service), f"  bearer token: {_token_of(service)}", "Ctrl-C stops."]))
        for waiting in supervisor.runtime_ids:
            _Announcement(service, waiting)

    run_emulator(server, run, adapt, started)


def with_command(
    seed: Seed, command: tuple[str, ...], runtime_id: str | None, directory: Path, path: Path | None
) -> Seed:
    """Return a seed in which a command starts the module of one runtime.

    Args:
        seed: The seed.
        command: The command; empty if the seed has commands.
        runtime_id: The runtime; ``None`` for the only one of the seed.
        directory: Where the command runs.
        path: The file of the seed, for messages.

    Raises:
        click.ClickException: It is not clear what to start.
    """
    if not command:
        if runtime_id is not None:
            raise click.UsageError("--runtime says which runtime a command is for. Put the command after --.")
        if not any(each.process for each in seed.runtimes):
            raise click.UsageError(
                "There is no module to start. Put its command after --, for example: twisted-cm dev -- python app.py"
                if path is None
                else f"{path} has no runtime with a 'command'. Add one, or put a command after --."
            )
        return seed
    names = [each.runtime_id for each in seed.runtimes]
    if not names and runtime_id is None:
        seed = evolve(
            seed,
            runtimes=(SeedRuntime(RUNTIME_ID),),
            bindings=(*seed.bindings, Binding(DEPLOYED_APP_RID, DEFAULT_BRANCH, RUNTIME_ID)),
        )
        names = [RUNTIME_ID]
    if runtime_id is None:
        if len(names) > 1:
            raise click.UsageError(f"{path} has several runtimes. Name one with --runtime: {', '.join(names)}.")
        runtime_id = names[0]
    if runtime_id not in names:
        raise click.UsageError(no_such_runtime(runtime_id, seed, path))

    def change(runtime: SeedRuntime) -> SeedRuntime:
        if runtime.runtime_id != runtime_id:
            return runtime
        given = runtime.process or ProcessSettings(command)
        return evolve(runtime, process=evolve(given, command=command, directory=str(directory)))

    return evolve(seed, runtimes=tuple(change(each) for each in seed.runtimes))


def _token_of(service: EmulatorService) -> str:
    """Return a bearer token. Unlike 'serve', this command shows one of the seed: its terminal is a developer's own."""
    tokens = service.settings.seed.bearer_tokens
    return tokens[0].token if tokens else "none; get one as an OAuth client"


class _Terminal:
    """Prints what modules write, each line with the name of its runtime."""

    def __init__(self) -> None:
        self._colours = cycle(_COLOURS)
        self._prefixes: dict[str, str] = {}
        self._replicas: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}

    def write(self, line: OutputLine) -> None:
        # The log has what the supervisor itself says.
        if line.replica_id is None:
            return
        if line.replica_id not in self._numbers:
            self._replicas[line.runtime_id] += 1
            self._numbers[line.replica_id] = self._replicas[line.runtime_id]
        if line.runtime_id not in self._prefixes:
            self._prefixes[line.runtime_id] = next(self._colours)
        number = self._numbers[line.replica_id]
        name = line.runtime_id if number == 1 else f"{line.runtime_id} {number}"
        click.echo(f"{click.style(f'{name} |', fg=self._prefixes[line.runtime_id])} {line.text}")


class _Announcement:
    """Prints a ready command for a runtime as soon as its functions are known."""

    def __init__(self, service: EmulatorService, runtime_id: str) -> None:
        self._service = service
        self._runtime_id = runtime_id
        self._observing: Deferred[None] = service.broker.observe(self._changed)
        self._observing.addErrback(lambda failure: None)

    def _changed(self, change: Change) -> None:
        if change.runtime_id == self._runtime_id and change.job is None and not self._observing.called:
            looking: Deferred[None] = Deferred.fromCoroutine(self._look())
            looking.addErrback(lambda failure: failure.trap(BrokerError))

    async def _look(self) -> None:
        schemas = (await self._service.broker.runtime(self._runtime_id)).schemas
        if not schemas or self._observing.called:
            return
        self._observing.cancel()
        name = min(schemas)
        query = json.dumps(sample_query(schemas[name].payload))
        rid = self._service.settings.seed.deployed_app_of(self._runtime_id)
        if rid is None:
            return
        url, token = self._service.addresses.http or "", _token_of(self._service)
        options = [] if url.endswith(f":{DEFAULT_PORT}") else ["--url", url]
        options += [] if token == DEVELOPMENT_TOKEN else ["--token", token]
        click.echo(f"Submit a job: {shlex.join(['twisted-cm', 'submit', *options, rid, name, query])}")
