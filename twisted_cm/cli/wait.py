"""The command that waits until a runtime can work."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import click
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater

from ..client.control import EmulatorControl
from ..client.errors import CannotConnect, NotFound, ResultBrokenOff, Unavailable
from ..config.numbers import FiniteRange
from ..model.printable import printable
from ..model.raised import first_line
from .connection_options import CallerOptions, caller_options
from .reactor import run

#: Seconds before a server is asked again that does not answer.
_PAUSE = 0.2


@click.command()
@click.argument("runtime_id", metavar="RUNTIME")
@click.option(
    "--timeout",
    type=FiniteRange(0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after this long.",
)
@caller_options
def wait(caller: CallerOptions, runtime_id: str, timeout: float) -> None:
    """Wait until a replica of a runtime is connected.

    The server and the runtime need not be there yet, so that a script can start everything and then wait. The exit
    status is 1 if no replica is connected in time.

    \b
    Examples:
      twisted-cm wait my-runtime && twisted-cm submit ri.mine add '{"a": 2, "b": 40}'
      twisted-cm wait my-runtime --timeout 10
    """
    lacking = ["no server answers"]

    async def main(reactor: Any) -> bool:
        waiting = Deferred.fromCoroutine(_until_connected(reactor, caller, runtime_id, lacking))
        try:
            await waiting.addTimeout(timeout, reactor)
        except TimeoutError:
            return False
        return True

    if not run(main):
        raise click.ClickException(
            printable(f"No replica of runtime '{runtime_id}' was connected within {timeout:g} seconds: {lacking[-1]}.")
        )


async def _until_connected(reactor: Any, caller: CallerOptions, runtime_id: str, lacking: list[str]) -> None:
    """Return when a replica is connected. The last item of ``lacking`` says what that needs."""
    async with EmulatorControl(caller.url, caller.token, **caller.client_arguments(reactor)) as control:
        while True:
            try:
                # The first event comes at once, so nothing that happens before the look is missed.
                async with aclosing(control.events()) as events:
                    async for kind, data in events:
                        concerned = kind == "reload" or (kind == "runtime" and data["runtime_id"] == runtime_id)
                        if concerned and await _is_connected(control, runtime_id, lacking):
                            return
            except (CannotConnect, ResultBrokenOff, Unavailable) as error:
                lacking.append(str(error).rstrip("."))
            await deferLater(reactor, _PAUSE)


async def _is_connected(control: EmulatorControl, runtime_id: str, lacking: list[str]) -> bool:
    try:
        runtime = await control.runtime(runtime_id)
    except NotFound:
        lacking.append("the server has no such runtime")
        return False
    module = runtime["module"]
    if module is not None and module["error"] is not None:
        lacking.append(f"its module is {module['state']}: {first_line(module['error'])}")
    else:
        lacking.append("no module of it polls for jobs")
    return bool(runtime["connected"])
