"""Kill modules under load: only the jobs of the killed one may fail, and at once.

Some modules on the official Python SDK run under ``twisted-cm exec``, each a replica of one runtime, while callers
submit jobs. One module after another is killed with SIGKILL and started again.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click
import psutil
from attrs import Factory, define
from emulator import CONTOUR, Emulator

ROOT = Path(__file__).resolve().parents[2]
MODULE = [str(ROOT / ".venv-sdk" / "bin" / "python"), str(ROOT / "tests" / "sdk" / "module.py")]

#: How long each job takes.
JOB_SECONDS = 0.05

#: Why the jobs of a killed module fail.
KILLED = "replica stopped"


@define
class Load:
    """Callers that submit one job after another.

    Attributes:
        outcomes: How many jobs ended in each way.
        failed_at: When a caller was told that its job failed, by the job's id.
    """

    url: str
    outcomes: Counter[str] = Factory(Counter)
    failed_at: dict[str, float] = Factory(dict)
    over: threading.Event = Factory(threading.Event)

    def run(self) -> None:
        """Submit jobs until the load is over."""
        query = {"deployedAppRid": "ri.bench", "queryType": "slow", "query": {"seconds": JOB_SECONDS}}
        headers = {"Authorization": "Bearer token"}
        while not self.over.is_set():
            try:
                with urlopen(
                    Request(f"{self.url}{CONTOUR}/compute-modules/jobs/execute", _json(query), headers)
                ) as done:
                    self.outcomes["succeeded" if json.load(done) == JOB_SECONDS else "wrong"] += 1
            except HTTPError as error:
                now = time.monotonic()
                answer = json.load(error)
                self.outcomes[answer["error_description"]] += 1
                self.failed_at[answer["parameters"]["jobId"]] = now


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _get(emulator: Emulator, path: str) -> Any:
    with urlopen(Request(emulator.urls["http"] + path, headers={"Authorization": "Bearer token"})) as answer:
        return json.load(answer)


def start_module(emulator: Emulator) -> subprocess.Popen[bytes]:
    """Start a module, and wait until it is connected."""
    command = [str(Path(sys.executable).with_name("twisted-cm")), "exec", "--runtime", "bench"]
    options = ["--url", emulator.urls["http"], "--module-auth-token", "module-token"]
    state = ["--state-dir", str(emulator.state_dir)]
    process = subprocess.Popen(
        [*command, *options, *state, "--", *MODULE], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    assert b"connected" in said, said
    return process


def kill_one(emulator: Emulator, process: subprocess.Popen[bytes]) -> tuple[set[str], float]:
    """Kill a module; return the jobs that it may have run, and the time."""
    (module,) = psutil.Process(process.pid).children()
    replica = module.environ()["COMPUTE_SESSION_ID"]
    killed_at = time.monotonic()
    module.kill()
    process.wait(timeout=30)
    jobs = _get(emulator, "/_emulate/foundry/compute-modules/jobs?status=failed&limit=1000")["jobs"]
    return {each["job_id"] for each in jobs if each["replica_id"] == replica}, killed_at


@click.command()
@click.option("--kills", type=click.IntRange(1), default=200, show_default=True, help="How many modules to kill.")
@click.option("--modules", type=click.IntRange(2), default=4, show_default=True, help="How many run at a time.")
@click.option("--callers", type=click.IntRange(1), default=8, show_default=True, help="How many submit at a time.")
def main(kills: int, modules: int, callers: int) -> None:
    """Kill modules under load, and count whose jobs fail."""
    with contextlib.closing(Emulator()) as emulator:
        running = [start_module(emulator) for _ in range(modules)]
        load = Load(emulator.urls["http"])
        threads = [threading.Thread(target=load.run) for _ in range(callers)]
        for each in threads:
            each.start()
        lost: dict[str, float] = {}
        try:
            with click.progressbar(range(kills), label="  kills", file=sys.stderr) as bar:
                for _ in bar:
                    victim = running.pop(random.randrange(len(running)))
                    jobs, killed_at = kill_one(emulator, victim)
                    lost.update(dict.fromkeys(jobs, killed_at))
                    running.append(start_module(emulator))
        finally:
            load.over.set()
            for each in threads:
                each.join()
            for process in running:
                process.terminate()
                process.wait(timeout=30)
    late = [load.failed_at[each] - lost[each] for each in load.failed_at.keys() & lost.keys()]
    figures = {
        "kills": kills,
        "jobs": sum(load.outcomes.values()),
        "outcomes": dict(load.outcomes),
        "failed, but not on a killed replica": len(load.failed_at.keys() - lost.keys()),
        "longest seconds from a kill to the answer": round(max(late, default=0), 3),
    }
    click.echo(json.dumps(figures, indent=1))
    if load.outcomes.keys() - {"succeeded", KILLED} or load.failed_at.keys() - lost.keys():
        raise click.ClickException("other jobs failed than those of killed replicas")


if __name__ == "__main__":
    main()
