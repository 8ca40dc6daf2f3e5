"""Stand in for ``docker compose`` where no engine can run: ``run`` and ``down``, as docs/docker.rst uses them.

A service is a process of this machine, with the variables of the service and no others. The names of services are this
machine. A volume is a directory, whose path replaces the path at which a service mounts it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

HOME = Path(os.environ["HOME"])
RUNNING = HOME / "compose.pids"
DOCKERFILE = Path(__file__).parents[2] / "docs" / "Dockerfile"
BIN = Path(sys.executable).parent


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Replace ``${NAME:?message}`` and ``$$`` as compose does."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if not variables.get(match["name"]):
            raise SystemExit(f"required variable {match['name']} is missing a value: {match['message']}")
        return variables[match["name"]]

    return re.sub(r"\$\$|\$\{(?P<name>\w+):\?(?P<message>[^}]*)\}", replace, text)


class Project:
    """The services of ``compose.yaml``."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        lines = Path(".env").read_text().splitlines() if Path(".env").exists() else []
        variables = dict(line.split("=", 1) for line in lines)
        described = yaml.safe_load(Path("compose.yaml").read_text())
        text = json.dumps(described)
        escaped = {name: json.dumps(value)[1:-1] for name, value in (variables | os.environ).items()}
        self.services: dict[str, Any] = json.loads(interpolated(text, escaped))["services"]
        self.volumes = set(described["volumes"])
        #: The port of the emulator for HTTP, which is published first.
        self.port: str = self.services["emulator"]["ports"][0].split(":")[-1]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service after those that it depends on."""
        service = self.services[name]
        for other, how in service.get("depends_on", {}).items():
            process = self.start(other)
            if how["condition"] == "service_healthy":
                self._wait_until_healthy(other, process)
            elif how["condition"] == "service_completed_successfully":
                assert process.wait(timeout=60) == 0, f"{other} failed"
            else:
                assert how["condition"] == "service_started"
        directory, words = self._command(name)
        # As in compose, "run" shows the output of the service alone.
        with (HOME / "compose.log").open("ab") as log:
            output = None if name == self.shown else log
            process = subprocess.Popen(
                words,
                cwd=directory,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with RUNNING.open("a") as running:
            running.write(f"{process.pid}\n")
        return process

    def _command(self, name: str) -> tuple[Path, list[str]]:
        service = self.services[name]
        directory, entrypoint, command = self._home(name), [], service.get("command", [])
        if service["image"] == "twisted-cm":
            (line,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
            entrypoint = json.loads(line)
            for published in service.get("ports", []):
                interface, outside, inside = published.split(":")
                assert interface == "127.0.0.1" and outside == inside, published
                entrypoint += ["--port" if inside == self.port else "--tls-port", inside]
        elif service["image"] == "my-module":
            image = json.loads((HOME / "images" / "my-module" / "image.json").read_text())
            directory, command = Path(image["directory"]), service.get("command", image["command"])
        entrypoint = service.get("entrypoint", entrypoint)
        return directory, [self._mounted(name, word) for word in (*entrypoint, *command)]

    def _mounted(self, name: str, text: str) -> str:
        """Replace the paths of volumes."""
        for mount in self.services[name].get("volumes", []):
            volume, path, *_ = mount.split(":")
            assert volume in self.volumes, mount
            directory = HOME / "volumes" / volume
            directory.mkdir(parents=True, exist_ok=True)
            text = text.replace(path, str(directory))
        assert not re.search("/home/emulator|(?<!volumes)/runtime/", text), f"{name} lacks a volume of {text}"
        return text

    def _home(self, name: str) -> Path:
        home = HOME / "services" / name
        home.mkdir(parents=True, exist_ok=True)
        (home / ".curlrc").write_text(f"resolve = emulator:{self.port}:127.0.0.1\n")
        return home

    def _environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        programs = {"twisted-cm": BIN, "my-module": os.environ["SDK_BIN"]}.get(service["image"], "/usr/local/bin")
        # A container reaches its own addresses, and other services by their names.
        hosts = [*self.services, "127.0.0.1", "0.0.0.0"] if name == "emulator" else list(self.services)
        environment = {
            **service.get("environment", {}),
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(self._home(name)),
            "PYTHONPATH": f"{Path(__file__).with_name('container')}:{os.environ.get('PYTHONPATH', '')}",
            "CONTAINER_NETWORK": "compose",
            "CONTAINER_HOSTS": " ".join(hosts),
        }
        if service["image"] == "twisted-cm" and "user" not in service:
            environment["HOME"] = self._mounted(name, "/home/emulator")
        if "hostname" in service:
            environment["CONTAINER_HOSTNAME"] = service["hostname"]
        return environment

    def _wait_until_healthy(self, name: str, process: subprocess.Popen[bytes]) -> None:
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        for _ in range(self.services[name]["healthcheck"]["retries"]):
            checked = subprocess.run(command, env=self._environment(name), stderr=subprocess.DEVNULL, timeout=60)
            if checked.returncode == 0:
                return
            assert process.poll() is None, f"{name} has ended"
            time.sleep(1)
        raise SystemExit(f"{name} is unhealthy")


def down() -> None:
    """Kill all processes of all services."""
    for pid in RUNNING.read_text().split() if RUNNING.exists() else []:
        try:
            os.killpg(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    RUNNING.unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    """Carry out ``run --rm SERVICE`` or ``down --volumes``."""
    if arguments == ["down", "--volumes"]:
        down()
    else:
        run, rm, name = arguments
        assert (run, rm) == ("run", "--rm")
        raise SystemExit(Project(name).start(name).wait(timeout=60))
