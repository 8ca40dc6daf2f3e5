"""Commands that show a server, its runtimes and its jobs."""

from __future__ import annotations

import difflib
import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

import click
from attrs import frozen
from twisted.internet.defer import CancelledError

from ..client.control import EmulatorControl
from ..model.durations import show_age
from ..model.printable import printable
from ..model.raised import RAISED, first_line
from ..model.short_ids import SHORT_ID, short_id
from ..model.states import JobState, ReplicaState
from ..model.types import JSONValue
from .columns import Column, Row
from .control import control_command
from .job_ids import find_job_id
from .output import (
    JSON_OPTION,
    print_fields,
    print_json,
    print_lines,
    print_list,
    printable_row,
    show_duration,
    show_short_time,
    show_text,
    show_time,
)

#: While jobs are followed, the last shown state of this many of them is remembered.
_MOST_REMEMBERED = 10_000

_RUNTIME_COLUMNS = (
    *map(Column, ("RUNTIME", "REPLICAS", "LAST POLL", "QUEUED", "RUNNING", "POLLS")),
    Column("DEPLOYED APPS", keep_end=True),
)
_REPLICA_COLUMNS = tuple(map(Column, ("REPLICA", "STATE", "LIMIT", "LAST POLL", "SINCE", "RUNS, OR WHY GONE")))
_JOB_COLUMNS = tuple(map(Column, ("JOB", "STATUS", "FUNCTION", "RUNTIME", "QUEUED", "TOOK", "OUTCOME")))

#: The widths of the same columns while jobs are followed; those without a width share the rest of the terminal.
_JOB_WIDTHS = (SHORT_ID + 1, 9, None, None, 11, 9, None)


@click.command()
@JSON_OPTION
@control_command
async def status(control: EmulatorControl, as_json: bool) -> None:
    """Show server health and workload.

    \b
    Examples:
      twisted-cm status
      twisted-cm status --json
    """
    info = await control.info()
    runtimes = await control.runtimes()
    faults = await control.faults()
    server = {
        "version": info.version,
        "http": info.http,
        "https": info.https,
        "started_at": info.started_at,
        "poll_timeout": info.poll_timeout,
        "sync_timeout": info.sync_timeout,
        "max_body": info.max_body,
    }
    counts = {
        "runtimes": len(runtimes),
        "connected_runtimes": sum(bool(each["connected"]) for each in runtimes),
        "deployed_apps": sum(binding["active"] for each in runtimes for binding in each["bindings"]),
        "queued_jobs": sum(each["queued_jobs"] for each in runtimes),
        "running_jobs": sum(each["running_jobs"] for each in runtimes),
        "parked_polls": sum(each["parked_polls"] for each in runtimes),
        "faults": sum(not each["spent"] for each in faults),
    }
    if as_json:
        print_json({**server, **counts})
        return
    shown = {
        **server,
        "started_at": f"{show_time(info.started_at)}, {show_age(info.started_at, datetime.now().timestamp())} ago",
        "poll_timeout": f"{info.poll_timeout:g} s",
        "sync_timeout": f"{info.sync_timeout:g} s",
        "max_body": f"{info.max_body} bytes",
        **counts,
    }
    print_fields((name.replace("_", " "), show_text(value)) for name, value in shown.items())


@click.command()
@click.argument("runtime_id", metavar="[RUNTIME]", required=False)
@JSON_OPTION
@control_command
async def runtimes(control: EmulatorControl, runtime_id: str | None, as_json: bool) -> None:
    """List runtimes with their deployed apps, or the replicas of one runtime.

    The column REPLICAS counts the replicas of each runtime that take jobs, and all that are open. With RUNTIME, each
    replica is listed with its state, with the number of jobs that it may run at once, and with the jobs that it runs
    or the reason why it ended. The last replicas that are gone are listed too.

    \b
    Examples:
      twisted-cm runtimes
      twisted-cm runtimes my-runtime
      twisted-cm runtimes my-runtime --json
    """
    found = await control.runtimes()
    if runtime_id is None:
        print_list(found, as_json, _runtime_row, _RUNTIME_COLUMNS, _shown_runtime_row, "No runtimes.")
        return
    runtime = next((each for each in found if each["runtime_id"] == runtime_id), None)
    if runtime is None:
        raise _unknown_runtime(runtime_id, [each["runtime_id"] for each in found])
    print_list(runtime["replicas"], as_json, _replica_row, _REPLICA_COLUMNS, _shown_replica_row, "No replicas.")
    if runtime["module"] is not None and not as_json:
        click.echo(printable(_describe_module(runtime["module"])), err=True)


def _describe_module(module: dict[str, JSONValue]) -> str:
    """Return how the processes are that the server starts for a runtime."""
    parts = [f"module {module['state']}", f"started {module['starts']} times"]
    if module["cold_start_ms"] is not None:
        parts.append(f"last cold start {module['cold_start_ms'] / 1000:.2f} s")
    return "; ".join(parts if module["error"] is None else [*parts, first_line(module["error"])])


def _unknown_runtime(runtime_id: str, known: list[str]) -> click.ClickException:
    near = difflib.get_close_matches(runtime_id, known, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else "'twisted-cm runtimes' lists all of them."
    return click.ClickException(printable(f"Unknown runtime '{runtime_id}'. {hint}"))


def _runtime_row(runtime: dict[str, JSONValue]) -> Row:
    bindings = (
        f"{each['deployed_app_rid']}@{each['branch']}{'' if each['active'] else ' (inactive)'}"
        for each in runtime["bindings"]
    )
    return (
        runtime["runtime_id"],
        _count_replicas(runtime["replicas"]) + _trouble(runtime["module"]),
        show_time(runtime["last_poll_at"]),
        *(str(runtime[name]) for name in ("queued_jobs", "running_jobs", "parked_polls")),
        ", ".join(bindings) or "-",
    )


def _shown_runtime_row(runtime: dict[str, JSONValue]) -> Row:
    name, replicas, _, *rest = _runtime_row(runtime)
    return (name, replicas, show_short_time(runtime["last_poll_at"]), *rest)


def _count_replicas(replicas: list[dict[str, JSONValue]]) -> str:
    """Count the replicas that take jobs, and all that are open."""
    states = [ReplicaState(each["state"]) for each in replicas]
    members = [each for each in states if each is not ReplicaState.GONE]
    return f"{sum(each.connected for each in members)}/{len(members)}"


def _trouble(module: dict[str, JSONValue] | None) -> str:
    return " crash looping" if module is not None and module["state"] == "crash looping" else ""


def _replica_row(replica: dict[str, JSONValue]) -> Row:
    gone = replica["ended_at"] is not None
    return (
        replica["replica_id"],
        replica["state"],
        show_text(replica["max_concurrent_tasks"]),
        show_time(replica["last_poll_at"]),
        show_time(replica["ended_at"] if gone else replica["opened_at"]),
        first_line(replica["ended_why"]) if gone else ", ".join(replica["running_jobs"]) or "-",
    )


def _shown_replica_row(replica: dict[str, JSONValue]) -> Row:
    gone = replica["ended_at"] is not None
    return (
        *_replica_row(replica)[:3],
        show_short_time(replica["last_poll_at"]),
        show_short_time(replica["ended_at"] if gone else replica["opened_at"]),
        first_line(replica["ended_why"]) if gone else ", ".join(map(short_id, replica["running_jobs"])) or "-",
    )


@frozen
class _JobSelection:
    """The jobs that the user wants to see; ``None`` means any."""

    runtime_id: str | None
    function: str | None
    status: str | None
    limit: int

    async def find(self, control: EmulatorControl) -> list[dict[str, JSONValue]]:
        """Return the jobs, newest first."""
        return await control.jobs(self.limit, runtime_id=self.runtime_id, query_type=self.function, status=self.status)

    def includes(self, job: dict[str, JSONValue]) -> bool:
        """Return whether a job is one of them."""
        return (
            self.runtime_id in (None, job["runtime_id"])
            and self.function in (None, job["query_type"])
            and self.status in (None, _shown_status(job))
        )


@click.command()
@click.option("--runtime", "runtime_id", metavar="ID", help="Only jobs of this runtime.")
@click.option("--function", metavar="NAME", help="Only jobs of this function.")
@click.option(
    "--status",
    type=click.Choice([*(each.value for each in JobState), RAISED]),
    help="Only jobs with this status; raised means that the function raised.",
)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="List at most this many jobs.")
@click.option("--follow", is_flag=True, help="Print each change of a job until Ctrl-C.")
@JSON_OPTION
@control_command
async def jobs(
    control: EmulatorControl,
    runtime_id: str | None,
    function: str | None,
    status: str | None,
    limit: int,
    follow: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    With --follow, the jobs are listed oldest first, and each change is printed after them, with --json as one line of
    JSON. If the server stops, the command ends with an error.

    \b
    Examples:
      twisted-cm jobs --status failed --limit 5
      twisted-cm jobs --follow
    """
    selection = _JobSelection(runtime_id, function, status, limit)
    if follow:
        await _follow(control, selection, _print_json_line if as_json else _line_printer())
        return
    print_list(await selection.find(control), as_json, _job_row, _JOB_COLUMNS, _shown_job_row, "No jobs.")


def _shown_status(job: dict[str, JSONValue]) -> str:
    return RAISED if job["raised"] else str(job["status"])


def _job_row(job: dict[str, JSONValue]) -> Row:
    return (
        job["job_id"],
        _shown_status(job),
        job["query_type"],
        job["runtime_id"],
        show_time(job["queued_at"]),
        show_duration(job["started_at"], job["completed_at"]),
        str(job["attempts"]),
        "-" if job["result_bytes"] is None else f"{job['result_bytes']} bytes",
        show_text(job["raised_message"] or job["error_message"]),
    )


def _shown_job_row(job: dict[str, JSONValue]) -> Row:
    job_id, status, function, runtime, _, took, _, result, error = _job_row(job)
    queued = show_short_time(job["queued_at"])
    return (short_id(job_id), status, function, runtime, queued, took, result if error == "-" else error)


def _print_json_line(job: dict[str, JSONValue]) -> None:
    click.echo(json.dumps(job))


def _line_printer() -> Callable[[dict[str, JSONValue]], None]:
    """Return what prints a job: on a terminal as a row of a table, elsewhere as a line with tabs."""
    if not sys.stdout.isatty():
        return lambda job: print_lines([_job_row(job)])
    from .tables import LiveTable

    headings = (column.heading for column in _JOB_COLUMNS)
    table = LiveTable(list(zip(headings, _JOB_WIDTHS, strict=True)))
    return lambda job: table.print_row(printable_row(_shown_job_row(job)))


async def _follow(
    control: EmulatorControl, selection: _JobSelection, show: Callable[[dict[str, JSONValue]], None]
) -> None:
    """Show the selected jobs and each change of them, until this is canceled.

    Raises:
        click.ClickException: The server stopped.
    """
    shown: OrderedDict[str, JSONValue] = OrderedDict()

    def show_change(job: dict[str, JSONValue]) -> None:
        state = (_shown_status(job), job["attempts"])
        if shown.get(job["job_id"]) != state and selection.includes(job):
            show(job)
        shown[job["job_id"]] = state
        shown.move_to_end(job["job_id"])
        if len(shown) > _MOST_REMEMBERED:
            shown.popitem(last=False)

    try:
        async for kind, data in control.events():
            if kind == "job":
                show_change(data)
            elif kind == "reload":
                # Events may have been lost: the list shows what they would have said.
                for job in reversed(await selection.find(control)):
                    show_change(job)
    except CancelledError:
        return
    raise click.ClickException("The server stopped; no more updates.")


@click.command()
@click.argument("job_id", metavar="ID")
@JSON_OPTION
@control_command
async def job(control: EmulatorControl, job_id: str, as_json: bool) -> None:
    """Show one job with its query and result.

    ID is the job's id, as 'submit --async' and 'jobs' print it, or its last characters, if no other job that is kept
    ends with them. 'last' is the job that was submitted last.

    \b
    Examples:
      twisted-cm job last
      twisted-cm job 4aa5
    """
    found = await control.job(await find_job_id(control, job_id))
    if as_json:
        print_json(found)
        return
    rows = [
        ("job", found["job_id"]),
        ("status", _shown_status(found)),
        ("function", found["query_type"]),
        ("runtime", found["runtime_id"]),
        ("deployed app", show_text(found["deployed_app_rid"])),
        ("branch", show_text(found["deployed_app_branch"])),
        ("submitted as", found["source"]),
        ("queued", show_time(found["queued_at"])),
        *((f"attempt {number}", _describe_attempt(each)) for number, each in enumerate(found["attempts"], 1)),
        ("completed", show_time(found["completed_at"])),
        ("error", show_text(found["error_message"])),
        *([("raised", found["raised_message"])] if found["raised"] else []),
        ("query", json.dumps(found["query"], ensure_ascii=False)),
        ("result", _describe_result(found)),
    ]
    print_fields(rows)
    if found["output"]:
        click.echo("\nOutput of the module:")
        for line in found["output"].splitlines():
            click.echo(f"  {printable(line)}")


def _describe_attempt(attempt: dict[str, JSONValue]) -> str:
    took = show_duration(attempt["started_at"], attempt["ended_at"])
    return f"{show_time(attempt['started_at'])}, {took}, {attempt['outcome'] or 'running'}"


def _describe_result(job: dict[str, JSONValue]) -> str:
    if "result_body_base64" in job:
        return f"base64: {job['result_body_base64']}"
    return show_text(job["result_body_utf8"])
