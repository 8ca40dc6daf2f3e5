"""
What one sees of a server at a terminal: C{twisted-cm status}, C{runtimes}, C{jobs}, C{job} and C{faults}.

On a terminal a list is a table; elsewhere it is a line for each item, its
fields parted by tabs; with C{--json} it is what the server says.  What comes
from jobs is escaped where it could control the terminal.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click
from click.core import ParameterSource

from .faults import FaultKind
from .jobs import JobState, JSONValue
from .shell import caller_options, connection, printable, run

if TYPE_CHECKING:
    from .client import EmulatorControl

P = ParamSpec("P")

#: What one row shows.
Row = Sequence[str]

#: The most jobs whose last shown state is remembered while they are followed.
_REMEMBERED = 10_000

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_STYLES = {"succeeded": "green", "failed": "red", "canceled": "yellow", "running": "cyan"}


# Showing


def _time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


def _seconds(start: int | None, end: int | None) -> str:
    return "-" if start is None or end is None else f"{(end - start) / 1000:.3f} s"


def _age(since: int, now: float) -> str:
    minutes, seconds = divmod(max(int(now - since / 1000), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _text(value: JSONValue) -> str:
    return "-" if value is None else str(value)


def _print_table(columns: Row, rows: Iterable[Row], nothing: str = "") -> None:
    """
    Print rows, as a table on a terminal.

    @param nothing: what to say on a terminal when there are none.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        click.echo(nothing)
        return
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # Text has no markup.
        table.add_row(*(Text(cell, style=_STYLES.get(cell, ""), overflow="fold") for cell in row))
    Console().print(table)


def _print_json(value: JSONValue) -> None:
    # ASCII, so that nothing in it can control a terminal.
    click.echo(json.dumps(value, indent=2))


def _print_list(
    found: list[dict[str, JSONValue]],
    as_json: bool,
    columns: Row,
    row: Callable[[dict[str, JSONValue]], Row],
    nothing: str,
) -> None:
    """Print what an emulator has of one kind, as JSON or in a row for each; C{nothing} is said where it has none."""
    if as_json:
        _print_json(found)
    else:
        _print_table(columns, [row(each) for each in found], nothing)


# Asking


def _ask(
    work: Callable[[EmulatorControl], Awaitable[None]], token: str, url: str, ca: Path | None, state_dir: Path | None
) -> None:
    async def main(reactor: Any) -> None:
        from .client import EmulatorControl

        async with EmulatorControl(url, token, **connection(reactor, url, ca, state_dir)) as control:
            await work(control)

    run(main)


def _asking(command: Callable[P, Callable[[EmulatorControl], Awaitable[None]]]) -> Callable[..., None]:
    """Give a command the options of a caller, and what it returns a server to ask."""

    @wraps(command)
    def wrapper(
        token: str, url: str, ca: Path | None, state_dir: Path | None, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        _ask(command(*args, **kwargs), token, url, ca, state_dir)

    return caller_options(wrapper)


@click.command()
@_JSON
@_asking
def status(as_json: bool) -> Callable[[EmulatorControl], Awaitable[None]]:
    """Say how a server is and what it has to do."""

    async def show(control: EmulatorControl) -> None:
        info = await control.info()
        runtimes = await control.runtimes()
        faults = await control.faults()
        counts = {
            "runtimes": len(runtimes),
            "connected_runtimes": sum(bool(each["connected"]) for each in runtimes),
            "deployed_apps": sum(binding["active"] for each in runtimes for binding in each["bindings"]),
            "queued_jobs": sum(each["queued_jobs"] for each in runtimes),
            "running_jobs": sum(each["running_jobs"] for each in runtimes),
            "parked_polls": sum(each["parked_polls"] for each in runtimes),
            "faults": sum(not each["spent"] for each in faults),
        }
        told = {
            "version": info.version,
            "http": info.http,
            "https": info.https,
            "started_at": info.started_at,
            "poll_timeout": info.poll_timeout,
            "sync_timeout": info.sync_timeout,
            "max_body": info.max_body,
        }
        if as_json:
            _print_json({**told, **counts})
            return
        values = {
            **told,
            "started_at": f"{_time(info.started_at)}, {_age(info.started_at, datetime.now().timestamp())} ago",
            "poll_timeout": f"{info.poll_timeout:g} s",
            "sync_timeout": f"{info.sync_timeout:g} s",
            "max_body": f"{info.max_body} bytes",
            **counts,
        }
        _print_table(("", ""), [(name.replace("_", " "), _text(value)) for name, value in values.items()])

    return show


@click.command()
@_JSON
@_asking
def runtimes(as_json: bool) -> Callable[[EmulatorControl], Awaitable[None]]:
    """List the runtimes."""

    async def show(control: EmulatorControl) -> None:
        columns = ("RUNTIME", "CONNECTED", "LAST POLL", "QUEUED", "RUNNING", "POLLS", "DEPLOYED APPS")
        _print_list(await control.runtimes(), as_json, columns, _runtime_row, "No runtimes.")

    return show


def _runtime_row(runtime: dict[str, JSONValue]) -> Row:
    bindings = (
        f"{each['deployed_app_rid']}@{each['branch']}{'' if each['active'] else ' (inactive)'}"
        for each in runtime["bindings"]
    )
    return (
        runtime["runtime_id"],
        "yes" if runtime["connected"] else "no",
        _time(runtime["last_poll_at"]),
        *(str(runtime[name]) for name in ("queued_jobs", "running_jobs", "parked_polls")),
        ", ".join(bindings) or "-",
    )


@click.command()
@click.option("--runtime", "runtime_id", metavar="ID", help="Only those of this runtime.")
@click.option("--function", metavar="NAME", help="Only those of this function.")
@click.option("--status", type=click.Choice([each.value for each in JobState]), help="Only those that are so now.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The most to list.")
@click.option("--follow", is_flag=True, help="List the last ones last, and go on with what changes, until Ctrl-C.")
@_JSON
@_asking
def jobs(
    runtime_id: str | None, function: str | None, status: str | None, limit: int, follow: bool, as_json: bool
) -> Callable[[EmulatorControl], Awaitable[None]]:
    """
    List the jobs that the server keeps, the last submitted first.

    With --follow, a server that goes away ends the list with an error.
    """

    async def find(control: EmulatorControl) -> list[dict[str, JSONValue]]:
        state = None if status is None else JobState(status)
        return await control.jobs(limit, runtime_id=runtime_id, query_type=function, state=state)

    async def show(control: EmulatorControl) -> None:
        if follow:
            await _follow(control, find, wanted, _show_json_line if as_json else _show_line)
            return
        columns = ("JOB", "STATUS", "FUNCTION", "RUNTIME", "QUEUED", "TOOK", "ATTEMPTS", "RESULT", "ERROR")
        _print_list(await find(control), as_json, columns, _job_row, "No jobs.")

    def wanted(job: dict[str, JSONValue]) -> bool:
        return (
            runtime_id in (None, job["runtime_id"])
            and function in (None, job["query_type"])
            and status in (None, job["status"])
        )

    return show


def _job_row(job: dict[str, JSONValue]) -> Row:
    return (
        job["job_id"],
        job["status"],
        job["query_type"],
        job["runtime_id"],
        _time(job["queued_at"]),
        _seconds(job["started_at"], job["completed_at"]),
        str(job["attempts"]),
        "-" if job["result_bytes"] is None else f"{job['result_bytes']} bytes",
        _text(job["error_message"]),
    )


def _show_json_line(job: dict[str, JSONValue]) -> None:
    click.echo(json.dumps(job))


def _show_line(job: dict[str, JSONValue]) -> None:
    cells = [printable(cell) for cell in _job_row(job)]
    if not sys.stdout.isatty():
        click.echo("\t".join(cells))
        return
    job_id, state, function, runtime, queued, took, _, result, message = cells
    tail = "" if message == "-" else f"  {message}"
    click.echo(f"{queued}  {job_id}  {_styled(state)}  {function}  {runtime}  {took}  {result}{tail}")


def _styled(state: str) -> str:
    return click.style(state.ljust(9), fg=_STYLES.get(state))


async def _follow(
    control: EmulatorControl,
    find: Callable[[EmulatorControl], Awaitable[list[dict[str, JSONValue]]]],
    wanted: Callable[[dict[str, JSONValue]], bool],
    show: Callable[[dict[str, JSONValue]], None],
) -> None:
    from twisted.internet.defer import CancelledError

    shown: OrderedDict[str, JSONValue] = OrderedDict()

    def show_once(job: dict[str, JSONValue]) -> None:
        state = (job["status"], job["attempts"])
        if shown.get(job["job_id"]) != state and wanted(job):
            show(job)
        shown[job["job_id"]] = state
        shown.move_to_end(job["job_id"])
        if len(shown) > _REMEMBERED:
            shown.popitem(last=False)

    try:
        async for kind, data in control.events():
            if kind == "job":
                show_once(data)
            elif kind == "reload":
                for job in reversed(await find(control)):
                    show_once(job)
    except CancelledError:
        return
    raise click.ClickException("the server has stopped, and with it what it told; ask again when it is back")


@click.command()
@click.argument("job_id", metavar="ID")
@_JSON
@_asking
def job(job_id: str, as_json: bool) -> Callable[[EmulatorControl], Awaitable[None]]:
    """Tell the story of the job ID, with its query and its result."""

    async def show(control: EmulatorControl) -> None:
        found = await control.job(job_id)
        if as_json:
            _print_json(found)
            return
        rows = [
            ("job", found["job_id"]),
            ("status", found["status"]),
            ("function", found["query_type"]),
            ("runtime", found["runtime_id"]),
            ("deployed app", _text(found["deployed_app_rid"])),
            ("branch", _text(found["deployed_app_branch"])),
            ("submitted as", found["source"]),
            ("queued", _time(found["queued_at"])),
            *((f"attempt {number}", _attempt(each)) for number, each in enumerate(found["attempts"], 1)),
            ("completed", _time(found["completed_at"])),
            ("error", _text(found["error_message"])),
            ("query", json.dumps(found["query"], ensure_ascii=False)),
            ("result", _result(found)),
        ]
        _print_table(("", ""), rows)

    return show


def _attempt(attempt: dict[str, JSONValue]) -> str:
    took = _seconds(attempt["started_at"], attempt["ended_at"])
    return f"{_time(attempt['started_at'])}, {took}, {attempt['outcome'] or 'running'}"


def _result(job: dict[str, JSONValue]) -> str:
    if "result_body_base64" in job:
        return f"base64: {job['result_body_base64']}"
    return _text(job["result_body_utf8"])


# Faults


@click.group(invoke_without_command=True)
@_JSON
@caller_options
@click.pass_context
def faults(context: click.Context, /, as_json: bool, **caller: Any) -> None:
    """List what goes wrong on purpose, or add to it and end it."""
    if context.invoked_subcommand is None:
        _ask(_list_faults(as_json), **caller)
    elif any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
        raise click.UsageError(f"options go after '{context.invoked_subcommand}'")


def _list_faults(as_json: bool) -> Callable[[EmulatorControl], Awaitable[None]]:
    async def show(control: EmulatorControl) -> None:
        columns = ("FAULT", "KIND", "RUNTIME", "FUNCTION", "STRUCK", "OF", "DETAILS")
        _print_list(await control.faults(), as_json, columns, _fault_row, "No faults.")

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
@_asking
def add_fault(status: str | None, **fields: JSONValue) -> Callable[[EmulatorControl], Awaitable[None]]:
    """Make something of this KIND go wrong, and print the fault's id."""
    given = {**fields, "status": None if status is None else int(status)}

    async def add(control: EmulatorControl) -> None:
        added = await control.add_fault(**{name: value for name, value in given.items() if value is not None})
        click.echo(added["fault_id"])

    return add


@faults.command("remove")
@click.argument("fault_id", metavar="ID")
@_asking
def remove_fault(fault_id: str) -> Callable[[EmulatorControl], Awaitable[None]]:
    """End the fault ID."""
    return lambda control: control.remove_fault(fault_id)


@faults.command("clear")
@_asking
def clear_faults() -> Callable[[EmulatorControl], Awaitable[None]]:
    """End every fault."""
    return lambda control: control.clear_faults()


#: All of them.
COMMANDS = (status, runtimes, jobs, job, faults)
