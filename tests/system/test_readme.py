"""The README: its test runs, its links lead somewhere, and it stays short.

``tests/cli/test_cli.py`` runs its commands.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from conftest import FEWER_PLUGINS, ROOT

TEXT = (ROOT / "README.rst").read_text("utf-8")


def test_the_readme_ends_where_the_documentation_begins() -> None:
    assert len(TEXT.splitlines()) <= 120


def test_every_link_leads_to_a_page() -> None:
    links = re.findall(r"`[^`<]+<([^`>]+)>`_", TEXT)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_test_in_the_readme_passes(tmp_path: Path) -> None:
    (block,) = re.findall(r"^((?:    def test_.*\n)(?:    .*\n|\n)+)", TEXT, re.MULTILINE)
    (tmp_path / "test_it.py").write_text(textwrap.dedent(block), "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", *FEWER_PLUGINS, "test_it.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
