"""Where a job came from, on each way in: in the inspection, the list of jobs and the metrics."""

from __future__ import annotations

import pytest_twisted
from conftest import RUNTIMES, Harness
from server.query_steps import FUNCTIONS, LOCAL, UNTYPED, ask, execute, post_schemas, run_next
from twisted.internet.defer import Deferred

APP = {"deployedAppRid": "ri.one", "queryType": "untyped"}
PARAMETERS = {"parameters": {}}


def after(prefix: str, lines: str) -> dict[str, str]:
    """Return the sources that a metric has counted, each with its value."""
    counted = (line.removeprefix(prefix) for line in lines.splitlines() if line.startswith(prefix + "{"))
    found = (line.partition(" ") for line in counted)
    return {labels: value for labels, _, value in found if float(value)}


@pytest_twisted.ensureDeferred
async def test_each_way_in_is_a_source_of_jobs(anywhere: Harness) -> None:
    await post_schemas(anywhere, UNTYPED)
    ways = [
        Deferred.fromCoroutine(anywhere.module("POST", "/jobs", {"queryType": "untyped"})),
        Deferred.fromCoroutine(anywhere.app("POST", "/compute-modules/jobs/execute", APP)),
        Deferred.fromCoroutine(anywhere.app("POST", "/deployed-apps/jobs", APP)),
    ]
    # The jobs may arrive in any order.
    for _ in ways:
        await run_next(anywhere, "done")
    for way in ways:
        status, answer, _ = await way
        assert status < 300, answer
    for prefix, form in ((FUNCTIONS, "streamingExecute"), (FUNCTIONS, "executeAsync"), (LOCAL, "execute")):
        asked = ask(anywhere, "POST", f"{prefix}/queries/untyped/{form}", PARAMETERS)
        await run_next(anywhere, "done")
        status, answer, _ = await asked
        assert status == 200, answer
    called = execute(anywhere, "untyped", {})
    await run_next(anywhere, {"exception": "on purpose"})
    assert (await called)[0] == 400

    listed = (await ask(anywhere, "GET", "/_emulate/foundry/compute-modules/jobs"))[1]["jobs"]
    direct, functions = ["runtime-direct"], ["functions-sync", "functions-async", "functions-sync", "functions-sync"]
    wanted = [*direct, "contour-sync", "contour-async", *functions]
    assert sorted(each["source"] for each in listed) == sorted(wanted)
    for each in listed:
        shown = (await ask(anywhere, "GET", f"{RUNTIMES}/one/jobs/{each['job_id']}"))[1]["job"]
        assert (shown["source"], shown["deployed_app_rid"]) == (
            each["source"],
            None if each["source"] == "runtime-direct" else "ri.one",
        )
    text = (await ask(anywhere, "GET", "/metrics"))[1].decode()
    counts = {source: float(wanted.count(source)) for source in wanted}
    assert after("twisted_cm_jobs_submitted_total", text) == {
        f'{{source="{source}"}}': str(count) for source, count in counts.items()
    }
    assert after("twisted_cm_jobs_finished_total", text) == {
        f'{{source="{source}",state="succeeded"}}': str(count) for source, count in counts.items()
    }
    assert after("twisted_cm_jobs_raised_total", text) == {'{source="functions-sync"}': "1.0"}
