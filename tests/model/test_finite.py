"""Times that are not finite numbers are refused wherever someone can give one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from click.testing import CliRunner

from twisted_cm.cli.main import main
from twisted_cm.client import ComputeModules, Retries
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.limits import JobLimits, Limits

BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)

#: An address at which nothing listens.
NOWHERE = "http://127.0.0.1:1"


@BAD
@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--port", "0", "--tls-port", "0", "--poll-timeout"],
        ["serve", "--port", "0", "--tls-port", "0", "--sync-timeout"],
        ["submit", "ri.x", "f", "--url", NOWHERE, "--timeout"],
        ["faults", "add", "delay_result", "--url", NOWHERE, "--seconds"],
        ["faults", "add", "delay_result", "--url", NOWHERE, "--probability"],
    ],
    ids=lambda command: command[-1],
)
def test_options_that_take_seconds_take_finite_numbers(command: list[str], bad: float) -> None:
    ran = CliRunner().invoke(main, [*command, str(bad)])
    assert (ran.exit_code, f"Invalid value for '{command[-1]}': {bad} is not" in ran.output) == (2, True), ran.output


@BAD
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: Limits(poll_timeout=bad),
        lambda bad: Limits(sync_timeout=bad),
        lambda bad: JobLimits(lease=bad),
        lambda bad: JobLimits(retained_seconds=bad),
        lambda bad: FaultPlan(FaultKind.DELAY_RESULT, seconds=bad),
        lambda bad: FaultPlan(FaultKind.FAIL_JOB, probability=bad),
        lambda bad: Retries(initial=bad),
        lambda bad: Retries(maximum=bad),
    ],
    ids=["poll_timeout", "sync_timeout", "lease", "retained_seconds", "seconds", "probability", "initial", "maximum"],
)
def test_records_take_finite_numbers(make: Callable[[float], Any], bad: float) -> None:
    with pytest.raises(ValueError, match=f"{bad} is not a finite number"):
        make(bad)


@BAD
@pytest_twisted.ensureDeferred
async def test_timeouts_of_a_client_are_finite_numbers(bad: float) -> None:
    async with ComputeModules(NOWHERE) as modules:
        for asked in (
            lambda: modules.execute("ri.x", "f", timeout=bad),
            lambda: modules.submit("ri.x", "f", timeout=bad),
            lambda: modules.stream("ri.x", "f", timeout=bad).__anext__(),
            lambda: modules.wait("job", bad),
            lambda: modules.wait("job", long_poll=bad),
            lambda: modules.status("job", bad),
        ):
            with pytest.raises(ValueError, match=f"{bad} is not a finite number"):
                await asked()
