"""The commands that show runtimes and jobs."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime

import click

from ..client.api import EmulatorControl
from ..model.jobs import JobState
from ..model.types import JSONValue
from .printable import printable
from .tables import (
    JSON_OPTION,
    Row,
    asking,
    print_json,
    print_list,
    print_table,
    show_age,
    show_seconds,
    show_text,
    show_time,
    styled,
)

#: The most jobs whose last shown state is remembered while they are followed.
_REMEMBERED = 10_000


@click.command()
@JSON_OPTION
@asking
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
            print_json({**told, **counts})
            return
        values = {
            **told,
            "started_at": f"{show_time(info.started_at)}, {show_age(info.started_at, datetime.now().timestamp())} ago",
            "poll_timeout": f"{info.poll_timeout:g} s",
            "sync_timeout": f"{info.sync_timeout:g} s",
            "max_body": f"{info.max_body} bytes",
            **counts,
        }
        print_table(("", ""), [(name.replace("_", " "), show_text(value)) for name, value in values.items()])

    return show


@click.command()
@JSON_OPTION
@asking
def runtimes(as_json: bool) -> Callable[[EmulatorControl], Awaitable[None]]:
    """List the runtimes."""

    async def show(control: EmulatorControl) -> None:
        columns = ("RUNTIME", "CONNECTED", "LAST POLL", "QUEUED", "RUNNING", "POLLS", "DEPLOYED APPS")
        print_list(await control.runtimes(), as_json, columns, _runtime_row, "No runtimes.")

    return show


def _runtime_row(runtime: dict[str, JSONValue]) -> Row:
    bindings = (
        f"{each['deployed_app_rid']}@{each['branch']}{'' if each['active'] else ' (inactive)'}"
        for each in runtime["bindings"]
    )
    return (
        runtime["runtime_id"],
        "yes" if runtime["connected"] else "no",
        show_time(runtime["last_poll_at"]),
        *(str(runtime[name]) for name in ("queued_jobs", "running_jobs", "parked_polls")),
        ", ".join(bindings) or "-",
    )


@click.command()
@click.option("--runtime", "runtime_id", metavar="ID", help="Only those of this runtime.")
@click.option("--function", metavar="NAME", help="Only those of this function.")
@click.option("--status", type=click.Choice([each.value for each in JobState]), help="Only those that are so now.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The most to list.")
@click.option("--follow", is_flag=True, help="List the last ones last, and go on with what changes, until Ctrl-C.")
@JSON_OPTION
@asking
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
        print_list(await find(control), as_json, columns, _job_row, "No jobs.")

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
        show_time(job["queued_at"]),
        show_seconds(job["started_at"], job["completed_at"]),
        str(job["attempts"]),
        "-" if job["result_bytes"] is None else f"{job['result_bytes']} bytes",
        show_text(job["error_message"]),
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
    click.echo(f"{queued}  {job_id}  {styled(state)}  {function}  {runtime}  {took}  {result}{tail}")


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
@JSON_OPTION
@asking
def job(job_id: str, as_json: bool) -> Callable[[EmulatorControl], Awaitable[None]]:
    """Tell the story of the job ID, with its query and its result."""

    async def show(control: EmulatorControl) -> None:
        found = await control.job(job_id)
        if as_json:
            print_json(found)
            return
        rows = [
            ("job", found["job_id"]),
            ("status", found["status"]),
            ("function", found["query_type"]),
            ("runtime", found["runtime_id"]),
            ("deployed app", show_text(found["deployed_app_rid"])),
            ("branch", show_text(found["deployed_app_branch"])),
            ("submitted as", found["source"]),
            ("queued", show_time(found["queued_at"])),
            *((f"attempt {number}", _attempt(each)) for number, each in enumerate(found["attempts"], 1)),
            ("completed", show_time(found["completed_at"])),
            ("error", show_text(found["error_message"])),
            ("query", json.dumps(found["query"], ensure_ascii=False)),
            ("result", _result(found)),
        ]
        print_table(("", ""), rows)

    return show


def _attempt(attempt: dict[str, JSONValue]) -> str:
    took = show_seconds(attempt["started_at"], attempt["ended_at"])
    return f"{show_time(attempt['started_at'])}, {took}, {attempt['outcome'] or 'running'}"


def _result(job: dict[str, JSONValue]) -> str:
    if "result_body_base64" in job:
        return f"base64: {job['result_body_base64']}"
    return show_text(job["result_body_utf8"])
