"""Commands that list, add and remove faults."""

from __future__ import annotations

import click
from click.core import ParameterSource

from ..client.control import EmulatorControl
from ..config.numbers import FiniteRange
from ..model.faults import FaultKind
from ..model.types import JSONValue
from .columns import Column, Row
from .connection_options import CallerOptions, caller_options
from .control import control_command, run_with_control
from .output import JSON_OPTION, print_list

_FAULT_COLUMNS = (
    Column("FAULT", whole=True),
    Column("KIND", whole=True),
    *map(Column, ("RUNTIME", "FUNCTION", "STRUCK", "OF", "DETAILS")),
)


@click.group(invoke_without_command=True)
@JSON_OPTION
@caller_options
def faults(caller: CallerOptions, as_json: bool) -> None:
    """List, add and remove faults.

    A fault makes something go wrong on purpose. Without a command, this lists the faults and how often each has
    struck.

    \b
    Examples:
      twisted-cm faults
      twisted-cm faults add delay_result --seconds 0.5 --count 1
      twisted-cm faults clear
    """
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        run_with_control(caller, lambda control: _list_faults(control, as_json))
    elif any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
        raise click.UsageError(f"Put the options after '{context.invoked_subcommand}'.")


async def _list_faults(control: EmulatorControl, as_json: bool) -> None:
    print_list(await control.faults(), as_json, _fault_row, _FAULT_COLUMNS, _shown_fault_row, "No faults.")


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


def _shown_fault_row(fault: dict[str, JSONValue]) -> Row:
    *start, _, details = _fault_row(fault)
    return (*start, str(fault.get("count", "any")), details)


@faults.command("add")
@click.argument("kind", type=click.Choice([each.value for each in FaultKind]))
@click.option("--runtime", "runtime_id", metavar="ID", help="Only for this runtime.")
@click.option("--function", metavar="NAME", help="Only for this function.")
@click.option("--count", type=click.IntRange(1), help="Strike this many times, then never again.")
@click.option("--probability", type=FiniteRange(0, 1, min_open=True), help="Strike with this probability.")
@click.option("--random-seed", type=int, help="Seed of the random numbers, to repeat the same sequence.")
@click.option("--seconds", type=FiniteRange(0), help="Length of a delay.")
@click.option("--message", help="Error message of a failed job.")
@click.option("--status", type=click.Choice(["401", "500"]), help="HTTP status of a failed poll.")
@control_command
async def add_fault(control: EmulatorControl, /, status: str | None, **fields: JSONValue) -> None:
    """Add a fault and print its id.

    \b
    Examples:
      twisted-cm faults add fail_job --count 1 --message "out of luck"
      twisted-cm faults add poll_error --status 500 --probability 0.1
    """
    given = {**fields, "status": None if status is None else int(status)}
    added = await control.add_fault(**{name: value for name, value in given.items() if value is not None})
    click.echo(added["fault_id"])


@faults.command("remove")
@click.argument("fault_id", metavar="ID")
@control_command
async def remove_fault(control: EmulatorControl, fault_id: str) -> None:
    """Remove one fault.

    ID is the fault's id, as 'faults add' and 'faults' print it.

    \b
    Examples:
      twisted-cm faults remove "$(twisted-cm faults add drop_job)"
    """
    await control.remove_fault(fault_id)


@faults.command("clear")
@control_command
async def clear_faults(control: EmulatorControl) -> None:
    """Remove all faults.

    \b
    Examples:
      twisted-cm faults clear
    """
    await control.clear_faults()
