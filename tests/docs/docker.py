"""Stand in for ``docker`` where no engine can run: ``build``, ``run``, ``stop`` and ``compose``.

An image is a directory, with the interpreter in ``SDK_BIN``. A container is a process with the variables of the image
and those of ``--env-file``, and no others.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import compose
from dockerfile_parse import DockerfileParser

HOME = Path(os.environ["HOME"])


def build(tag: str, context: Path) -> None:
    """Carry out a Dockerfile, in a directory that stands for the root of the image."""
    root = HOME / "images" / tag / "root"
    directory = root
    environment = {"PATH": f"{os.environ['SDK_BIN']}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
    command: list[str] = []
    for step in DockerfileParser(str(context / "Dockerfile")).structure:
        name, value = step["instruction"], step["value"]
        if name == "FROM":
            assert value.startswith("python:"), value
        elif name == "WORKDIR":
            directory = root / value.lstrip("/")
            directory.mkdir(parents=True)
        elif name == "COPY":
            *sources, target = shlex.split(value)
            for source in sources:
                shutil.copy(context / source, directory / target)
        elif name == "RUN":
            subprocess.run(["sh", "-ec", value], cwd=directory, env=environment, check=True)
        elif name == "CMD":
            command = json.loads(value)
        else:
            raise SystemExit(f"this stand-in does not know the instruction {name}")
    image = {"directory": str(directory), "command": command}
    (root.parent / "image.json").write_text(json.dumps(image))


def run(options: argparse.Namespace) -> None:
    """Replace this process by the container."""
    image = json.loads((HOME / "images" / options.image / "image.json").read_text())
    # docker reads each line literally, without quotes and expansions.
    lines = options.env_file.read_text("utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    mounted = [each.split(":") for each in options.volume]
    for name, value in given.items():
        # Two variables hold paths of URIs.
        if value.startswith("/") and name not in ("GET_JOB_PATH", "POST_RESULT_PATH"):
            path = Path(value)
            assert path.is_file(), f"{name} names {path}, which does not exist"
            assert any(path.is_relative_to(inside) and outside == inside for outside, inside, _ in mounted), (
                f"{name} names {path}, which is not mounted at the same path"
            )
    environment = {
        **given,
        "PATH": os.environ["SDK_BIN"],
        "HOME": "/root",
        "PYTHONPATH": str(Path(__file__).with_name("container")),
        "CONTAINER_NETWORK": options.network,
    }
    containers = HOME / "containers"
    containers.mkdir(exist_ok=True)
    (containers / options.name).write_text(str(os.getpid()))
    os.chdir(image["directory"])
    os.execvpe(image["command"][0], image["command"], environment)


def stop(name: str) -> None:
    """Kill all processes of a container."""
    pid = HOME / "containers" / name
    os.killpg(int(pid.read_text()), signal.SIGKILL)
    pid.unlink()


if sys.argv[1] == "compose":
    compose.main(sys.argv[2:])
    sys.exit()
parser = argparse.ArgumentParser()
commands = parser.add_subparsers(dest="command", required=True)
building = commands.add_parser("build")
building.add_argument("--tag", required=True)
building.add_argument("context", type=Path)
running = commands.add_parser("run")
running.add_argument("--rm", action="store_true")
running.add_argument("--name", required=True)
running.add_argument("--network", default="bridge")
running.add_argument("--env-file", type=Path, required=True)
running.add_argument("--volume", action="append", default=[])
running.add_argument("image")
stopping = commands.add_parser("stop")
stopping.add_argument("name")
given = parser.parse_args()
if given.command == "build":
    build(given.tag, given.context)
elif given.command == "run":
    run(given)
else:
    stop(given.name)
