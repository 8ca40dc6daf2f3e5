"""Servers that record, and replays."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Server, kill
from redis_server import RedisServer


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return tmp_path / "recorded.jsonl"


@pytest.fixture(params=["memory", "redis"])
def serve(request: pytest.FixtureRequest, tmp_path: Path, state_dir: Path) -> Iterator[Callable[..., Server]]:
    """Start servers on each kind of broker; stop them after the test."""
    started: list[Server] = []
    broker: list[str] = []
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        assert redis.command("FLUSHALL") == b"+OK\r\n"
        broker = ["--broker", redis.url]

    def start(*options: str) -> Server:
        directory = tmp_path / f"server-{len(started)}"
        directory.mkdir()
        started.append(Server(directory, state_dir, *broker, *options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.stop()


@pytest.fixture
def replay(recorded: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start replays of the recording as runtime one; end them after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(server: Server, *options: str) -> subprocess.Popen[bytes]:
        started.append(server.start("replay", str(recorded), "--runtime", "one", *options))
        assert started[-1].stdout is not None
        assert b"answers from" in started[-1].stdout.readline()
        return started[-1]

    yield start
    for each in started:
        kill(each)
