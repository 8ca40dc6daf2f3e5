"""The command that submits jobs."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import click
from twisted.internet.defer import CancelledError

from .connection_options import caller_options, connection
from .printable import printable
from .reactor import run


@click.command()
@click.argument("rid", required=False)
@click.argument("function", required=False)
@click.argument("query", required=False)
@click.option("--branch", help="The deployed app's branch.  [default: any that is active]")
@click.option("--async", "asynchronous", is_flag=True, help="Print the job's id and do not wait.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Wait no longer.")
@click.option("--jobs", type=click.Path(path_type=Path), metavar="FILE", help="Submit a job for each line of FILE.")
@click.option(
    "--concurrency", type=click.IntRange(1), default=8, show_default=True, help="How many of --jobs at a time."
)
@caller_options
def submit(
    rid: str | None,
    function: str | None,
    query: str | None,
    branch: str | None,
    asynchronous: bool,
    timeout: float | None,
    jobs: Path | None,
    concurrency: int,
    token: str,
    url: str,
    ca: Path | None,
    state_dir: Path | None,
) -> None:
    """
    Submit a job to the deployed app RID and print its result.

    QUERY is JSON, - for standard input, or @FILE.

    With --jobs, each line of FILE (- for standard input) is a job. If FUNCTION is named, a line is a query, any JSON
    value. If not, it is an object {"function": …, "query": …, "rid": …, "branch": …}; the last two are needed only
    where RID and --branch do not say so for all. Every line is checked before anything is submitted. What became of
    each is printed in the order of the lines, as a line of JSON with its "line", "job_id", "status" and "result",
    "result_text" (no JSON), "result_base64" (no text) or "error". The status is that of the job, "raised" if the
    function raised, or "error" if there is no job. --timeout is for each job, which is then canceled. Ctrl-C prints
    what is done and cancels what is still queued. The exit status is 1 if any job did not succeed.
    """
    if jobs is not None:
        if query is not None or asynchronous:
            raise click.UsageError("--jobs takes its queries from FILE, and waits for results")
        _submit_many(jobs, rid, function, branch, concurrency, timeout, token, url, ca, state_dir)
    if rid is None or function is None:
        raise click.UsageError("Missing argument 'RID' or 'FUNCTION'.")
    found = _read_query(query or "{}")

    async def submit_one(reactor: Any) -> None:
        from ..client.api import ComputeModules

        async with ComputeModules(url, token, **connection(reactor, url, ca, state_dir)) as modules:
            if asynchronous:
                click.echo((await modules.submit(rid, function, found, branch=branch, timeout=timeout)).id)
                return
            async for chunk in modules.stream(rid, function, found, branch=branch, timeout=timeout):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()

    run(submit_one)


def _submit_many(
    path: Path,
    rid: str | None,
    function: str | None,
    branch: str | None,
    concurrency: int,
    timeout: float | None,
    token: str,
    url: str,
    ca: Path | None,
    state_dir: Path | None,
) -> NoReturn:
    from ..client.api import ComputeModules
    from ..client.connections import Retries
    from .submit_file import BadLines, Batch, JobFile

    try:
        lines = JobFile(path, rid, function, branch)
    except BadLines as error:
        problems = printable(str(error), "\n")
        raise click.ClickException(f"nothing was submitted, since these lines are no jobs:\n{problems}") from None
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}; name a readable file with --jobs") from None
    # Where the results are on the terminal, too, they say how far it is.
    shown = sys.stderr if sys.stderr.isatty() and not sys.stdout.isatty() else StringIO()

    async def submit_all(reactor: Any) -> bool:
        made = {**connection(reactor, url, ca, state_dir), "retries": Retries()}
        async with ComputeModules(url, token, **made) as modules:
            with click.progressbar(length=lines.count, file=shown) as bar:

                def emit(fields: dict[str, Any]) -> None:
                    click.echo(json.dumps(fields))
                    bar.update(1)

                batch = Batch(modules, iter(lines), concurrency, timeout, emit)
                interrupted = False
                try:
                    await batch.run()
                except CancelledError:
                    interrupted = True
            told = sum(batch.counts.values())
            counts = ", ".join(f"{count} {status}" for status, count in sorted(batch.counts.items())) or "none"
            click.echo(f"{told} of {lines.count} jobs: {counts}.", err=True)
            if batch.stopped is not None:
                click.echo(printable(f"No more were started: {batch.stopped}"), err=True)
            if interrupted:
                raise CancelledError
            return batch.counts["succeeded"] == lines.count

    raise SystemExit(0 if run(submit_all) else 1)


def _read_query(query: str) -> Any:
    try:
        if query == "-":
            query = sys.stdin.read()
        elif query.startswith("@"):
            query = Path(query[1:]).read_text("utf-8")
        return json.loads(query)
    except OSError as error:
        raise click.UsageError(f"{query[1:]}: {error.strerror}; name a readable file after @") from None
    except ValueError as error:
        raise click.UsageError(f"the query is not JSON: {error}") from None
