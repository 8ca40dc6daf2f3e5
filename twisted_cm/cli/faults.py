"""The commands that set and clear faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import click
from click.core import ParameterSource

from ..client.api import EmulatorControl
from ..model.faults import FaultKind
from ..model.types import JSONValue
from .connection_options import caller_options
from .tables import JSON_OPTION, Row, ask, asking, print_list


@click.group(invoke_without_command=True)
@JSON_OPTION
@caller_options
@click.pass_context
def faults(context: click.Context, /, as_json: bool, **caller: Any) -> None:
    """List what goes wrong on purpose, or add to it and end it."""
    if context.invoked_subcommand is None:
        ask(_list_faults(as_json), **caller)
    elif any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
        raise click.UsageError(f"options go after '{context.invoked_subcommand}'")


def _list_faults(as_json: bool) -> Callable[[EmulatorControl], Awaitable[None]]:
    async def show(control: EmulatorControl) -> None:
        columns = ("FAULT", "KIND", "RUNTIME", "FUNCTION", "STRUCK", "OF", "DETAILS")
        print_list(await control.faults(), as_json, columns, _fault_row, "No faults.")

    return show


def _fault_row(fault: dict[str, JSONValue]) -> Row:
    details = (
        f"{name}={fault[name]}"
        for name in ("probability", "random_seed", "seconds", "status", "message")
        if name in fault
    )
    return (
        fault["fault_id"],
        fault["kind"],
        fault.get("runtime_id", "any"),
        fault.get("function", "any"),
        str(fault["struck"]),
        str(fault.get("count", "any number")),
        ", ".join(details),
    )


@faults.command("add")
@click.argument("kind", type=click.Choice([each.value for each in FaultKind]))
@click.option("--runtime", "runtime_id", metavar="ID", help="At this runtime only.")
@click.option("--function", metavar="NAME", help="With this function only.")
@click.option("--count", type=click.IntRange(1), help="So many times, then never again.")
@click.option("--probability", type=click.FloatRange(0, 1, min_open=True), help="How likely, each time that it could.")
@click.option("--random-seed", type=int, help="What the probability is drawn with, to have the same again.")
@click.option("--seconds", type=click.FloatRange(0), help="How long a delay takes.")
@click.option("--message", help="What a job fails with.")
@click.option("--status", type=click.Choice(["401", "500"]), help="What a poll is answered with.")
@asking
def add_fault(status: str | None, **fields: JSONValue) -> Callable[[EmulatorControl], Awaitable[None]]:
    """Make something of this KIND go wrong, and print the fault's id."""
    given = {**fields, "status": None if status is None else int(status)}

    async def add(control: EmulatorControl) -> None:
        added = await control.add_fault(**{name: value for name, value in given.items() if value is not None})
        click.echo(added["fault_id"])

    return add


@faults.command("remove")
@click.argument("fault_id", metavar="ID")
@asking
def remove_fault(fault_id: str) -> Callable[[EmulatorControl], Awaitable[None]]:
    """End the fault ID."""
    return lambda control: control.remove_fault(fault_id)


@faults.command("clear")
@asking
def clear_faults() -> Callable[[EmulatorControl], Awaitable[None]]:
    """End every fault."""
    return lambda control: control.clear_faults()
