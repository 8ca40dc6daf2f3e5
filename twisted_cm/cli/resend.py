"""The command that submits a job again."""

from __future__ import annotations

from typing import Any

import click
from twisted.internet.defer import CancelledError

from ..client.application import ComputeModules
from ..client.control import EmulatorControl
from ..client.errors import NotFound, TimedOut
from ..client.raw_json import KeptJob
from ..config.numbers import FiniteRange
from ..model.jobs import JobState
from ..model.printable import printable
from ..model.raised import raised_message
from .connection_options import CallerOptions, caller_options
from .job_ids import find_job_id
from .reactor import run
from .result_output import print_stream, report_raised, standard_output


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--async", "asynchronous", is_flag=True, help="Print the new job's id and do not wait for the result.")
@click.option(
    "--timeout",
    type=FiniteRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait at most this long for the job.",
)
@caller_options
def resend(caller: CallerOptions, job_id: str, asynchronous: bool, timeout: float | None) -> None:
    """Submit a job again and print its result.

    The new job has the function and the query of job ID, and goes to the same deployed app and branch. If job ID was
    submitted to its runtime without a deployed app, the new one goes to that runtime. ID is the job's id, its last
    characters, or 'last'. The result and the exit status are those of 'submit'.

    \b
    Examples:
      twisted-cm resend last
      twisted-cm resend 4aa5 --async
    """

    async def main(reactor: Any) -> tuple[str, str | None]:
        arguments = (caller.url, caller.token)
        options = caller.client_arguments(reactor)
        async with EmulatorControl(*arguments, **options) as control, ComputeModules(*arguments, **options) as modules:
            job = await _find_job(control, job_id)
            function = str(job.fields["query_type"])
            if job.fields["deployed_app_rid"] is None:
                raised = await _submit_to_runtime(control, modules, job, asynchronous, timeout)
                return function, raised
            again = (str(job.fields["deployed_app_rid"]), function, job.query)
            branch = job.fields["deployed_app_branch"]
            if asynchronous:
                click.echo((await modules.submit(*again, branch=branch, timeout=timeout)).id)
                return function, None
            return function, await print_stream(modules.stream(*again, branch=branch, timeout=timeout))

    report_raised(*run(main))


async def _find_job(control: EmulatorControl, given: str) -> KeptJob:
    job_id = await find_job_id(control, given)
    try:
        return await control.job_with_query(job_id)
    except NotFound:
        raise click.ClickException(
            printable(f"The query of job '{job_id}' is no longer kept. 'twisted-cm jobs' lists the jobs that are.")
        ) from None


async def _submit_to_runtime(
    control: EmulatorControl, modules: ComputeModules, job: KeptJob, asynchronous: bool, timeout: float | None
) -> str | None:
    """Submit a job without a deployed app, and print its result; return what its function raised."""
    new_id = await control.enqueue(str(job.fields["runtime_id"]), str(job.fields["query_type"]), job.query)
    if asynchronous:
        click.echo(new_id)
        return None
    try:
        ended = await modules.wait(new_id, timeout)
    except (CancelledError, TimedOut):
        await modules.cancel(new_id, only_queued=True)
        raise
    if ended.state is not JobState.SUCCEEDED:
        raise click.ClickException(printable(f"{ended.message} (job {new_id})", "\n"))
    result = await modules.result(new_id)
    output = standard_output()
    output.write(result.content)
    output.close()
    return raised_message(new_id, result.content)
