"""How does a command look at a server and change it?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from ..client.control import EmulatorControl
from .connection_options import CallerOptions, caller_options
from .reactor import run

P = ParamSpec("P")


def run_with_control(caller: CallerOptions, work: Callable[[EmulatorControl], Awaitable[None]]) -> None:
    """Run a coroutine function with a client of the server."""

    async def main(reactor: Any) -> None:
        async with EmulatorControl(caller.url, caller.token, **caller.client_arguments(reactor)) as control:
            await work(control)

    run(main)


def control_command(command: Callable[Concatenate[EmulatorControl, P], Awaitable[None]]) -> Callable[..., None]:
    """Give a coroutine function the options of a caller, and a client of the server as its first argument."""

    @wraps(command)
    def wrapper(caller: CallerOptions, *args: P.args, **kwargs: P.kwargs) -> None:
        run_with_control(caller, lambda control: command(control, *args, **kwargs))

    return caller_options(wrapper)
