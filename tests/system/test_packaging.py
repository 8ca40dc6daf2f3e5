"""The wheel, the source distribution, the container image and the systemd unit."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import BIN, ROOT

DOCKERFILE = ROOT / "docs" / "Dockerfile"


def run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the source distribution and the wheel, built from only the files that the Dockerfile copies."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("COPY "):
            *copied, to = shlex.split(line)[1:]
            for each in copied:
                if (ROOT / each).is_dir():
                    shutil.copytree(ROOT / each, source / to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    (source / to).mkdir(exist_ok=True)
                    shutil.copy(ROOT / each, source / to)
    # setuptools comes from this environment. uv and pip build in an isolated one; bin/test does so when it installs.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source))
    return dist


@pytest.mark.long
def test_an_index_would_take_both(built: Path) -> None:
    assert sorted(each.suffix for each in built.iterdir()) == [".gz", ".whl"]
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir()))


@pytest.mark.long
def test_the_wheel_holds_everything_that_is_installed(built: Path) -> None:
    wheel = ZipFile(next(built.glob("*.whl")))
    names = set(wheel.namelist())
    package = {str(each.relative_to(ROOT)) for each in (ROOT / "twisted_cm").rglob("*") if each.is_file()}
    package = {each for each in package if "__pycache__" not in each and "/plugins/" not in each}
    assert {"twisted_cm/py.typed", "twisted_cm/server/openapi.yaml"} <= package <= names
    assert {each for each in names if not each.startswith("twisted_cm")} == {"twisted/plugins/twisted_cm_plugin.py"}
    (path,) = (each for each in names if each.endswith("METADATA"))
    metadata = message_from_bytes(wheel.read(path))
    assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("MIT", ["LICENSE"])
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        shipped = {each.partition("/")[2] for each in source.getnames()}
    assert {"README.rst", "setup.py", "LICENSE", "twisted_cm/plugins/twisted_cm_plugin.py", *package} <= shipped


def test_the_dockerfile_is_clean_and_starts_the_emulator() -> None:
    run(str(BIN / "hadolint"), str(DOCKERFILE))
    entry = re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert entry is not None
    command, *options = map(str, re.findall(r'"([^"]*)"', entry[1]))
    environment = {name: value for name, value in os.environ.items() if name != "TWISTED_CM_ADMIN_TOKEN"}
    ran = subprocess.run([BIN / command, *options], env=environment, capture_output=True, text=True, timeout=60)
    # The options are valid; the token that is still missing is named at the top of the Dockerfile.
    assert ran.stderr.startswith("Error: 0.0.0.0 can be reached from other machines; set an admin token")
    assert "-e TWISTED_CM_ADMIN_TOKEN=" in DOCKERFILE.read_text()


def test_ports_of_containers_are_published_on_loopback_only() -> None:
    pages = (ROOT / "docs").rglob("*.rst")
    published = {
        port
        for path in (ROOT / "README.rst", DOCKERFILE, ROOT / "docs" / "compose.yaml", *pages)
        for port in re.findall(r"(?:-p |--publish[ =]|^ *- )\"?((?:[\d.]+:)?\d+:\d+)", path.read_text(), re.MULTILINE)
    }
    assert published == {"127.0.0.1:4000:4000", "127.0.0.1:4443:4443"}


def test_systemd_takes_the_service(tmp_path: Path) -> None:
    unit = tmp_path / "twisted-cm.service"
    text = (ROOT / "docs" / unit.name).read_text()
    assert text.count("/opt/twisted-cm/bin") == 1
    unit.write_text(text.replace("/opt/twisted-cm/bin", str(BIN)))
    run("systemd-analyze", "verify", str(unit))
