"""The command that runs the emulator."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import click
from attrs import evolve

from .. import __version__
from ..config.options import server_options
from ..config.seed import Seed
from ..model.paths import CONTOUR, DASHBOARD
from ..model.tokens import DEVELOPMENT_TOKEN
from ..service import EmulatorService
from ..supervisor.service import Supervisor, log_line
from .running import RunOptions, run_emulator, run_options, server_with_found_seed

#: The most processes that serve the ports of one emulator.
MOST_WORKERS = 64


@click.command()
@server_options
@click.option("--no-modules", is_flag=True, help="Do not start the modules that the seed has commands for.")
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=1,
    show_default=True,
    help="How many processes serve the ports. More than one need a Redis: see --broker.",
)
@run_options
def serve(run: RunOptions, no_modules: bool, workers: int, **options: Any) -> None:
    """Run the emulator until Ctrl-C.

    The modules that the seed has commands for are started, too. Without --seed, the file twisted-cm.yaml or seed.yaml
    of the current directory is used. Without any, the emulator accepts the token test_token_admin and has no runtimes;
    'twisted-cm exec' adds one. The signal SIGHUP makes it read the seed file again.

    \b
    Examples:
      twisted-cm serve
      twisted-cm serve --seed seed.yaml --port 4000
      twisted-cm serve --record jobs.jsonl
      twisted-cm serve --broker redis://127.0.0.1:6379/0 --workers 2
    """
    server = server_with_found_seed(options)

    def started(service: EmulatorService, supervisor: Supervisor) -> None:
        supervisor.output.read(log_line)
        _print_banner(service, workers)

    run_emulator(server, run, without_commands if no_modules else lambda seed: seed, started, workers)


def without_commands(seed: Seed) -> Seed:
    """Return a seed that starts no modules."""
    return evolve(seed, runtimes=tuple(evolve(each, process=None) for each in seed.runtimes))


def _print_banner(service: EmulatorService, workers: int) -> None:
    seed = service.settings.seed
    token = DEVELOPMENT_TOKEN if service.development_token else "$TOKEN"
    rid = next((binding.deployed_app_rid for binding in seed.bindings), "ri.foundry.main.deployed-app.my-app")
    body = json.dumps({"deployedAppRid": rid, "queryType": "FUNCTION", "query": {}})
    lines = [
        *describe_addresses(service),
        *_describe_tokens(service),
        *([f"  workers: {workers}"] if workers > 1 else []),
        "Submit a job:",
        f"  curl -H \"Authorization: Bearer {token}\" -H 'Content-Type: application/json' \\",
        f"    -d {shlex.quote(body)} {service.addresses.http}{CONTOUR}/compute-modules/jobs/execute",
        "Ctrl-C stops.",
    ]
    print("\n".join(lines), flush=True)


def describe_addresses(service: EmulatorService) -> Iterator[str]:
    """Return the version of the emulator, and where it listens, a line each."""
    yield f"twisted-cm {__version__}"
    yield from (f"  {url}" for url in service.urls())
    yield f"  dashboard: {service.addresses.http}{DASHBOARD}"


def _describe_tokens(service: EmulatorService) -> Iterator[str]:
    """Show the development token, which is no secret; of the tokens in a seed, show only the logins."""
    tokens = service.settings.seed.tokens
    if service.development_token:
        yield f"  bearer token: {DEVELOPMENT_TOKEN}"
    elif tokens:
        yield f"  bearer tokens of the seed: {', '.join(bearer.principal.login for bearer in tokens)}"
