"""The benchmarks run. Their figures are not tested."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT

SUITE = ROOT / "tests/bench" / "suite.py"


@pytest.mark.long
def test_each_figure_comes_with_its_floor() -> None:
    scenarios = ("sync", "asynchronous", "payload", "stream", "start")
    command = [sys.executable, str(SUITE), "--quick", *(f"--only={each}" for each in scenarios)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert len(figures) == 18
    for each in figures:
        assert each["value"] > 0 and each["floor"] > 0 and each["ratio"] > 0, each
        assert each["scenario"] in ran.stderr
    assert {each["bar"] for each in figures} == {"", "<=1.5", ">=1.2", ">=0.6"}


def test_only_the_jobs_of_killed_modules_fail() -> None:
    command = [sys.executable, str(SUITE.with_name("replicas.py")), "--kills", "3", "--modules", "2", "--callers", "4"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["failed, but not on a killed replica"] == 0
    assert figures["outcomes"]["succeeded"] > 0


def test_two_workers_are_measured_beside_one() -> None:
    options = ("--rounds", "1", "--jobs", "300", "--json")
    command = [sys.executable, str(SUITE.with_name("workers.py")), *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    # The figures may miss the bar.
    assert ran.returncode in (0, 1), ran.stderr
    figures = json.loads(ran.stdout)
    # The parent does nothing meanwhile.
    assert all(figure > 0 for name, figure in figures.items() if not name.endswith("parent")), figures
    assert {each.partition(":")[0] for each in figures} >= {"one worker", "2 workers", "2 workers to one"}
