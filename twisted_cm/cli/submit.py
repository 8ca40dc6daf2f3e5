"""The command that submits jobs."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import CancelledError

from ..client.application import ComputeModules
from ..client.retries import Retries
from ..config.numbers import FiniteRange
from ..model.printable import printable
from ..model.types import JSONValue
from .connection_options import CallerOptions, caller_options
from .job_file import BadLines, JobFile
from .reactor import run
from .result_output import print_stream, report_raised
from .submit_file import Batch


@click.command()
@click.argument("rid", required=False)
@click.argument("function", required=False)
@click.argument("query", required=False)
@click.option("--branch", help="Branch of the deployed app.  [default: any active branch]")
@click.option("--async", "asynchronous", is_flag=True, help="Print the job's id and do not wait for the result.")
@click.option(
    "--timeout",
    type=FiniteRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait at most this long for each job.",
)
@click.option("--jobs", type=click.Path(path_type=Path), metavar="FILE", help="Submit a job for each line of FILE.")
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="With --jobs, run at most this many jobs at a time.",
)
@caller_options
def submit(
    caller: CallerOptions,
    rid: str | None,
    function: str | None,
    query: str | None,
    branch: str | None,
    asynchronous: bool,
    timeout: float | None,
    jobs: Path | None,
    concurrency: int,
) -> None:
    """Submit jobs and print their results.

    RID is the deployed app, FUNCTION one of its functions. QUERY is JSON, @FILE to read it from a file, or - to read
    it from standard input; without QUERY, it is {}.

    With --jobs, each line of FILE is a job; - reads standard input. If FUNCTION is given, a line is its query: any
    JSON value. Otherwise a line is an object {"function": …, "query": …, "rid": …, "branch": …}. The fields rid and
    branch override RID and --branch. All lines are checked before the first job is submitted.

    Each job of FILE prints one line of JSON, in the order of FILE: "line", "job_id", "status", and either "error" or
    the result, as "result" (JSON), "result_text" (other text) or "result_base64" (other bytes). "status" is the
    status of the job, "raised" if the function raised, or "error" if a request failed. A job that takes longer than
    --timeout is canceled. Ctrl-C cancels the queued jobs and prints the results so far. The exit status is 1 unless
    every job succeeded and no function raised.

    \b
    Examples:
      twisted-cm submit ri.mine add '{"a": 2, "b": 40}'
      twisted-cm submit --async ri.mine add @query.json
      twisted-cm submit ri.mine add --jobs queries.jsonl --concurrency 4
    """
    if jobs is not None:
        if query is not None or asynchronous:
            raise click.UsageError(
                "--jobs reads queries from FILE and waits for the results. Leave out QUERY and --async."
            )
        raise SystemExit(
            0 if _submit_file(_open_jobs(jobs, rid, function, branch), concurrency, timeout, caller) else 1
        )
    if rid is None or function is None:
        raise click.UsageError("Missing argument 'RID' or 'FUNCTION'.")
    value = _read_query(query or "{}")

    async def submit_one(reactor: Any) -> str | None:
        async with ComputeModules(caller.url, caller.token, **caller.client_arguments(reactor)) as modules:
            if asynchronous:
                click.echo((await modules.submit(rid, function, value, branch=branch, timeout=timeout)).id)
                return None
            return await print_stream(modules.stream(rid, function, value, branch=branch, timeout=timeout))

    report_raised(function, run(submit_one))


def _open_jobs(path: Path, rid: str | None, function: str | None, branch: str | None) -> JobFile:
    try:
        return JobFile(path, rid, function, branch)
    except BadLines as error:
        are = "is not a valid job" if error.count == "1 line" else "are not valid jobs"
        problems = printable(str(error), "\n")
        raise click.ClickException(f"Nothing was submitted: {error.count} {are}.\n{problems}") from None
    except OSError as error:
        raise click.UsageError(f"Cannot read {path}: {error.strerror}. Name a readable file with --jobs.") from None


def _submit_file(jobs: JobFile, concurrency: int, timeout: float | None, caller: CallerOptions) -> bool:
    """Submit the jobs of a file, and return whether every one succeeded."""
    # If the results go to the terminal too, they show the progress themselves.
    shown = sys.stderr if sys.stderr.isatty() and not sys.stdout.isatty() else StringIO()

    async def submit_all(reactor: Any) -> bool:
        # Unlike a single job, a long batch should survive a short interruption.
        client = {**caller.client_arguments(reactor), "retries": Retries()}
        async with ComputeModules(caller.url, caller.token, **client) as modules:
            with click.progressbar(length=jobs.count, file=shown) as bar:

                def emit(fields: dict[str, JSONValue]) -> None:
                    click.echo(json.dumps(fields))
                    bar.update(1)

                batch = Batch(modules, iter(jobs), concurrency, timeout, emit)
                interrupted = False
                try:
                    await batch.run()
                except CancelledError:
                    interrupted = True
            printed = sum(batch.counts.values())
            counts = ", ".join(f"{count} {status}" for status, count in sorted(batch.counts.items())) or "none"
            click.echo(f"{printed} of {jobs.count} jobs: {counts}.", err=True)
            if batch.stopped is not None:
                click.echo(printable(f"No more jobs were started: {batch.stopped}"), err=True)
            if interrupted:
                raise CancelledError
            return batch.counts["succeeded"] == jobs.count

    return run(submit_all)


def _read_query(query: str) -> JSONValue:
    try:
        if query == "-":
            query = sys.stdin.read()
        elif query.startswith("@"):
            query = Path(query[1:]).read_text("utf-8")
        return json.loads(query)
    except OSError as error:
        raise click.UsageError(f"Cannot read {query[1:]}: {error.strerror}. Name a readable file after @.") from None
    except ValueError as error:
        raise click.UsageError(f"The query is not JSON: {error}.") from None
