"""Test what the package promises as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest_twisted
from conftest import ROOT, Harness


def test_serving_does_not_load_the_client() -> None:
    code = "import sys, twisted_cm.cli, twisted_cm.service, twisted_cm.twistd; print('treq' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest_twisted.ensureDeferred
async def test_the_example_in_the_readme_runs(harness: Harness) -> None:
    page = (ROOT / "docs" / "scripting.rst").read_text()
    (example,) = re.findall(r":caption: scripted.py\n\n((?:    ?.*\n|\n)+)", page)
    found: dict[str, Any] = {}
    exec(textwrap.dedent(example), found)
    assert await found["answer"](harness.service.addresses.http, "app-token") == 42
