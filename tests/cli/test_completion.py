"""Shell completion, by the protocol of click: the shell's function runs the command with these variables."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from conftest import BIN, ROOT

NAMES = ("bash", "zsh", "fish")


def ask(instruction: str, **variables: str) -> str:
    ran = subprocess.run(
        [str(BIN / "twisted-cm")],
        env={**os.environ, "_TWISTED_CM_COMPLETE": instruction, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stderr == ""
    return ran.stdout


def complete(line: str) -> list[str]:
    """Complete the last word of a line as bash does."""
    words = line.split(" ")
    printed = ask("bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    return [each.partition(",")[2] for each in printed.splitlines()]


def test_commands_are_completed() -> None:
    assert complete("twisted-cm ser") == ["serve"]
    assert complete("twisted-cm re") == ["replay", "resend", "restart"]
    assert {"exec", "job", "jobs", "submit"} <= set(complete("twisted-cm "))
    assert complete("twisted-cm faults cl") == ["clear"]


def test_options_and_their_values_are_completed() -> None:
    assert {"--seed", "--port", "--log-level"} <= set(complete("twisted-cm serve --"))
    assert complete("twisted-cm serve --log-f") == ["--log-format"]
    assert complete("twisted-cm jobs --status ra") == ["raised"]
    assert complete("twisted-cm faults add fail") == ["fail_job"]


@pytest.mark.parametrize("shell", NAMES)
def test_each_shell_has_a_script_that_is_documented(shell: str) -> None:
    script = ask(f"{shell}_source")
    assert f"_TWISTED_CM_COMPLETE={shell}_complete" in script
    assert f"_TWISTED_CM_COMPLETE={shell}_source" in (ROOT / "docs" / "terminal.rst").read_text("utf-8")


def test_bash_completes_with_the_script() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = """
        eval "$(_TWISTED_CM_COMPLETE=bash_source twisted-cm)"
        COMP_WORDS=(twisted-cm ser) COMP_CWORD=1
        _twisted_cm_completion twisted-cm
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    ran = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("serve\n", "")
