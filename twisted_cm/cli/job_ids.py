"""Which job does a user mean who types only the end of its id?"""

from __future__ import annotations

import click

from ..client.control import EmulatorControl
from ..model.printable import printable

#: What stands for the job that was submitted last.
LAST = "last"

#: A whole id is at least as long, and is not looked for in the list.
_WHOLE = 44

#: The most jobs that are looked through.
_MOST = 10_000

#: The most ids that a message lists.
_MOST_NAMED = 5


async def find_job_id(control: EmulatorControl, given: str) -> str:
    """Return the id of a job: ``last``, or its end if that is unique among the jobs that are kept.

    Raises:
        click.ClickException: No job is meant, or several are.
    """
    # Tables show the end of an id after an ellipsis.
    given = given.removeprefix("…")
    if len(given) >= _WHOLE:
        return given
    jobs = await control.jobs(1 if given == LAST else _MOST)
    if given == LAST:
        if not jobs:
            raise click.ClickException("There are no jobs yet.")
        return str(jobs[0]["job_id"])
    found = [str(each["job_id"]) for each in jobs if each["job_id"].endswith(given)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise click.ClickException(
            printable(f"No job that is kept has an id that ends with '{given}'. 'twisted-cm jobs' lists the latest.")
        )
    named = ", ".join(found[:_MOST_NAMED]) + (", …" if len(found) > _MOST_NAMED else "")
    raise click.ClickException(printable(f"{len(found)} jobs have ids that end with '{given}': {named}. Type more."))
