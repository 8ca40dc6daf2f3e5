"""An emulator in this process whose supervisor starts real processes, on each kind of broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml
from attrs import evolve
from redis_server import RedisServer
from supervised_emulator import Supervised, seed_of
from twisted.internet import reactor

from twisted_cm.config.seed import parse_seed
from twisted_cm.config.settings import Settings
from twisted_cm.config.tls import local_certificate
from twisted_cm.service import EmulatorService, SeedReloader
from twisted_cm.supervisor.service import SupervisedEmulator, Supervisor


@pytest.fixture(params=["memory", "redis"])
def supervised(
    request: pytest.FixtureRequest, tmp_path: Path, state_dir: Path
) -> Iterator[Callable[..., Awaitable[Supervised]]]:
    """Return a function that starts an emulator and its supervisor, with keys of the runtime in the seed."""
    started: list[Supervised] = []
    broker = None
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        assert redis.command("FLUSHALL") == b"+OK\r\n"
        broker = redis.url
    certificate = local_certificate(state_dir, "127.0.0.1")
    directory = tmp_path / "module"
    directory.mkdir()
    (directory / "version").write_text("1")

    async def start(
        *, reload: bool = False, record: Path | None = None, modules: dict[str, Any] | None = None, **runtime: Any
    ) -> Supervised:
        seed = parse_seed(yaml.safe_dump(seed_of({"directory": str(directory), **runtime}, **(modules or {}))))
        settings = Settings(seed=seed, port=0, tls_port=0, broker=broker, record=record, certificate=certificate)
        settings = evolve(settings, limits=evolve(settings.limits, poll_timeout=0.5, sync_timeout=30))
        emulator = EmulatorService(reactor, settings)
        supervisor = Supervisor(reactor, emulator, tmp_path, tmp_path / "state", reload)
        both = SupervisedEmulator(reactor, emulator, supervisor, SeedReloader(reactor, emulator, None))
        both.startService()
        await emulator.when_listening()
        started.append(Supervised(both, directory))
        return started[-1]

    yield start
    for each in started:
        pytest_twisted.blockon(each.pool.closeCachedConnections())
        if each.both.running:
            pytest_twisted.blockon(each.both.stopService())
