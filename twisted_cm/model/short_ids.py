"""How people see the id of a job."""

from __future__ import annotations

#: How many characters of the end of a job's id are shown to people.
SHORT_ID = 4


def short_id(job_id: str) -> str:
    """Return the end of a job's id, as people see it; the commands take it in place of the id."""
    return job_id if len(job_id) <= SHORT_ID else f"…{job_id[-SHORT_ID:]}"
