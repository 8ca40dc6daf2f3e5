"""The steps that a job may take."""

from __future__ import annotations

import pytest

from twisted_cm.model.jobs import IllegalTransition, Job, JobSource, JobState, Submission


def test_an_illegal_transition_is_refused() -> None:
    job = Job("j", "r", Submission("f", b"null", JobSource.CONTOUR_SYNC), 0)
    job.transition(JobState.CANCELED, 1)
    with pytest.raises(IllegalTransition):
        job.transition(JobState.RUNNING, 2)
