"""The state directory and the files in it belong to one user."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from twisted_cm.config.state_dir import locked, make_private_directory
from twisted_cm.config.tls import CertificateError, local_certificate


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Run the test with a umask that protects nothing."""
    former = os.umask(0)
    yield
    os.umask(former)


def test_every_directory_that_is_made_is_private(tmp_path: Path) -> None:
    deepest = tmp_path / "state" / "runtimes" / "one"
    make_private_directory(deepest)
    assert [mode(each) for each in (deepest, deepest.parent, deepest.parent.parent)] == [0o700] * 3
    make_private_directory(deepest)


def test_a_directory_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_directory(tmp_path)
    assert mode(tmp_path) == 0o755


def test_the_lock_follows_no_link_and_truncates_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("do not lose this")
    state = tmp_path / "state"
    state.mkdir()
    (state / "lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic"), locked(state):
        pass
    with pytest.raises(CertificateError, match=r"lock.*--state-dir"):
        local_certificate(state, "127.0.0.1")
    assert precious.read_text() == "do not lose this"
    (state / "lock").unlink()
    (state / "lock").write_text("kept")
    with locked(state):
        assert (state / "lock").read_text() == "kept"


def test_the_lock_is_private(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert mode(tmp_path / "lock") == 0o600
