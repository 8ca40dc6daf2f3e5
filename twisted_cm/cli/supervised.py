"""Commands for modules that the server starts: read what they write, and replace them."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime

import click

from ..client.control import EmulatorControl
from ..model.printable import printable
from ..model.types import JSONValue
from .control import control_command


@click.command()
@click.argument("runtime_id", metavar="RUNTIME")
@click.option("--follow", "-f", is_flag=True, help="Go on with each new line until Ctrl-C, or until the server stops.")
@click.option(
    "--lines", "-n", type=click.IntRange(1, 1000), default=100, show_default=True, help="Lines to begin with."
)
@control_command
async def logs(control: EmulatorControl, runtime_id: str, follow: bool, lines: int) -> None:
    """Show what the modules of a runtime wrote, if the server starts them.

    \b
    Examples:
      twisted-cm logs my-runtime
      twisted-cm logs my-runtime --follow
    """
    if not follow:
        for line in await control.module_output(runtime_id, lines):
            _print(line)
        return
    async with aclosing(control.follow_module_output(runtime_id, lines)) as following:
        async for line in following:
            _print(line)


def _print(line: dict[str, JSONValue]) -> None:
    moment = datetime.fromtimestamp(line["written_at"] / 1000).strftime("%H:%M:%S")
    replica = "-" if line["replica_id"] is None else f"…{line['replica_id'][-4:]}"
    click.echo(f"{moment} {replica} {printable(line['text'])}")


@click.command()
@click.argument("runtime_id", metavar="RUNTIME")
@control_command
async def restart(control: EmulatorControl, runtime_id: str) -> None:
    """Replace the modules of a runtime by new processes, if the server starts them.

    The old processes finish the jobs that they run. Modules that were crash looping are started again.

    \b
    Examples:
      twisted-cm restart my-runtime
    """
    await control.restart_module(runtime_id)
    click.echo(printable(f"Runtime '{runtime_id}': new processes start."))
