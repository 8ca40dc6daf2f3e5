"""A page of the documentation, whose code blocks a test executes.

A page is played from top to bottom in a directory of its own:

- A block with a caption is a file of that name.
- A ``console`` block is commands, after ``$``, each followed by its output, in which ``...`` stands for anything. The
  commands that serve, ``twisted-cm serve``, ``exec`` and ``replay``, ``docker run`` and ``npx vite``, run in the
  background.

The ports of the text are replaced by free ones, because several runs may share a machine.
"""

from __future__ import annotations

import contextlib
import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from attrs import define
from conftest import BIN, FEWER_PLUGINS, ROOT, RUNTIMES, free_port, kill
from docutils import nodes
from forked_commands import start_command, start_pytest
from sphinx.application import Sphinx

SDK = ROOT / ".venv-sdk" / "bin"
TYPESCRIPT = ROOT / "tests" / "sdk" / "typescript"
STAND_INS = ROOT / "tests" / "docs"
ADMIN_TOKEN = "admin-token"


@define
class Block:
    """A code block.

    Attributes:
        name: The caption of the block, or ``None``.
        executed: Whether a test has executed the block.
    """

    page: str
    line: int
    language: str
    name: str | None
    text: str
    executed: bool = False

    def __str__(self) -> str:
        return f"docs/{self.page}.rst, line {self.line} ({self.language})"


def blocks_of(app: Sphinx, page: str) -> list[Block]:
    """Return the code blocks of a page, without those of docstrings that it includes."""
    found = []
    for node in app.env.get_doctree(page).findall(nodes.literal_block):
        if "docstring of" in (node.source or ""):
            continue
        named = isinstance(node.parent, nodes.container) and node.parent.get("literal_block")
        caption = next(iter(node.parent.findall(nodes.caption)), None) if named else None
        name = caption.astext() if caption is not None else None
        found.append(Block(page, node.line or 0, node.get("language", "default"), name, node.astext()))
    return found


def _link(source: str, target: str) -> None:
    """Copy a file, as a hard link if that is possible: there are 9,000 of them."""
    # npm writes its own record in place. It replaces other files.
    if not source.endswith(".package-lock.json"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


class Page:
    """A page that is being played.

    Attributes:
        directory: The working directory of the commands.
        ports: The free port in place of each port in the text.
        bin: A directory of programs that commands find first.
        temporary: Where commands put temporary files.
        url: The base URL of the page's emulator.
        environment: The variables of the commands.
    """

    def __init__(self, blocks: list[Block], directory: Path) -> None:
        self.blocks = blocks
        self.directory = directory / "page"
        self.ports = {"4000": str(free_port()), "4443": str(free_port())}
        self.background: list[subprocess.Popen[bytes]] = []
        self.bin, home, self.temporary = directory / "bin", directory / "home", directory / "tmp"
        for each in (self.directory, self.bin, home, self.temporary):
            each.mkdir()
        self.url = f"http://127.0.0.1:{self.ports['4000']}"
        others = re.compile("PYTEST_|TWISTED_CM_|XDG_STATE_HOME|FORCE_COLOR|.*_proxy", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not others.match(name)}
        self.environment = {
            **kept,
            "PATH": f"{self.bin}:{BIN}:{os.environ['PATH']}",
            "HOME": str(home),
            "TMPDIR": str(self.temporary),
            "TWISTED_CM_URL": self.url,
            "TWISTED_CM_ADMIN_TOKEN": ADMIN_TOKEN,
            # The project under test is installed already; nothing is downloaded.
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTEST_ADDOPTS": " ".join(FEWER_PLUGINS),
            # vitest, among others, colors its output wherever CI is set.
            "NO_COLOR": "1",
            "npm_config_offline": "true",
            "npm_config_audit": "false",
            "npm_config_fund": "false",
        }
        self.stand_in("pip", "pip.py")

    def stand_in(self, command: str, file: str) -> None:
        """Replace a command by a program in ``tests/docs``."""
        script = self.bin / command
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_INS / file} "$@"\n')
        script.chmod(0o755)

    def use_the_sdk(self) -> None:
        """Make ``python`` the interpreter with the official SDK."""
        python = self.bin / "python"
        python.write_text(f'#!/bin/sh\nexec {SDK}/python "$@"\n')
        python.chmod(0o755)

    def copy_node_packages(self) -> None:
        """Copy the installed packages of ``tests/sdk/typescript``, so that npm downloads nothing."""
        packages = self.directory / "node_modules"
        shutil.copytree(TYPESCRIPT / "node_modules", packages, symlinks=True, copy_function=_link)
        shutil.copy(TYPESCRIPT / "package-lock.json", self.directory)

    def play(self) -> None:
        """Execute all blocks that are files or commands."""
        for block in self.blocks:
            if block.name is not None:
                self.write(block)
            elif block.language == "console":
                self.run_console(block)

    def write(self, block: Block) -> Path:
        """Write the file of a block."""
        assert block.name is not None
        path = self.directory / block.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.moved(block.text) + "\n", "utf-8")
        block.executed = True
        return path

    def moved(self, text: str) -> str:
        """Return a text with the ports of this run."""
        return re.sub(rf"\b({'|'.join(self.ports)})\b", lambda match: self.ports[match[1]], text)

    def run_console(self, block: Block) -> None:
        """Run commands, and compare their output with the text."""
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            command = lines.pop(0)
            while command.endswith("\\"):
                command = command[:-1] + lines.pop(0).strip()
            if re.match(r"twisted-cm (dev|serve|exec|replay)\b|docker run\b", command):
                self.start(command)
                continue
            if re.search(r"\bnpx vite (?!build)", command):
                self.start_vite(command)
                continue
            printed = self.run(command, str(block))
            expected = "\n".join(lines)
            matches = doctest.OutputChecker().check_output(
                expected + "\n", printed + "\n", doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            )
            assert not expected or matches, f"{block}: {command}\nprints\n{printed}\nand not\n{expected}"
        block.executed = True

    def run(self, command: str, where: str) -> str:
        """Run a command to its end, check that it succeeds, and return its output."""
        ran = self._begin(self.moved(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            printed = ran.communicate(timeout=90)[0].decode()
        except subprocess.TimeoutExpired:
            # With all processes that it has started.
            raise AssertionError(f"{where}: {command} does not end\n{kill(ran).decode()}") from None
        assert ran.returncode == 0, f"{where}: {command}\n{printed}\n{self.log.read_text() if self.background else ''}"
        return printed

    @property
    def log(self) -> Path:
        """Where the output of commands in the background goes."""
        return self.directory.parent / "log"

    def start(self, command: str) -> None:
        """Run a command in the background, and wait until it serves."""
        serves = re.match(r"twisted-cm (dev|serve)\b", command)
        if serves:
            ports = f"--port {self.ports['4000']} --tls-port {self.ports['4443']}"
            command = command.replace(serves[0], f"{serves[0]} {ports}")
        before = set() if serves else self.polls()
        process = self.spawn(command, serves)
        if serves:
            assert process.stdout is not None
            assert any(b"Ctrl-C stops." in line for line in process.stdout), self.log.read_text()
            return
        for _ in range(600):
            if self.polls() - before:
                return
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{command} takes no jobs\n{self.log.read_text()}")

    def start_vite(self, command: str) -> None:
        """Run vite in the background, and wait until it serves the page."""
        # It serves the name, which is not 127.0.0.1 everywhere.
        url = self.moved("http://localhost:" + re.search(r"--port (\d+)", command)[1])
        process = self.spawn(command)
        for _ in range(600):
            try:
                with urlopen(url):
                    return
            except OSError:
                assert process.poll() is None, self.log.read_text()
                time.sleep(0.05)
        raise AssertionError(f"{command} does not serve {url}\n{self.log.read_text()}")

    def spawn(self, command: str, piped: bool = False) -> subprocess.Popen[bytes]:
        """Run a command in the background, with its output in a pipe or in the log."""
        with self.log.open("ab") as log:
            output = subprocess.PIPE if piped else log
            process = self._begin(self.moved(command), "exec env ", stdout=output, stderr=log)
        self.background.append(process)
        return process

    def _begin(self, command: str, prefix: str = "", **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own: in a shell after ``prefix``, or as it is if it needs no shell."""
        start: Any = subprocess.Popen
        words = ["bash", "-eo", "pipefail", "-c", prefix + command]
        if re.fullmatch(r"(twisted-cm|pytest) [^$|&;<>*`\n]*", command):
            program, *words = shlex.split(command)
            start = start_command if program == "twisted-cm" else partial(start_pytest, script=True)
        process: subprocess.Popen[bytes] = start(
            words,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )
        return process

    def polls(self) -> set[tuple[str, int]]:
        """Return the time of the last poll of each connected runtime."""
        asked = Request(self.url + RUNTIMES, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        with urlopen(asked) as answer:
            return {(each["runtime_id"], each["last_poll_at"]) for each in json.load(answer) if each["connected"]}

    def stop(self) -> None:
        """End the commands in the background."""
        for process in reversed(self.background):
            kill(process)
