"""Where a broker on Redis connects to, and how it says that it cannot."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import pytest
import pytest_twisted
from attrs import evolve
from redis_server import RedisServer
from twisted.internet import reactor

from twisted_cm.broker.interface import BrokerUnavailable
from twisted_cm.broker.redis.address import InvalidAddress, parse_address
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.broker.redis.node import RedisNode
from twisted_cm.config.seed import parse_seed
from twisted_cm.model.registry import Registry, SessionRequest


def test_the_address_of_a_redis() -> None:
    address = parse_address("redis://user:p%40ss@[::1]:7/3")
    assert (address.host, address.port, address.user, address.password, address.db) == ("::1", 7, "user", "p@ss", 3)
    assert parse_address("redis://somewhere").port == 6379
    assert parse_address("unix:///run/redis.sock?db=2").path == "/run/redis.sock"
    for wrong in ("http://x", "redis://", "redis://x/y", "redis://:secret@x:y", "unix://?db=1", "unix:///x?y=1"):
        with pytest.raises(InvalidAddress) as error:
            parse_address(wrong)
        assert "secret" not in str(error.value)


@pytest_twisted.ensureDeferred
async def test_a_redis_that_wants_a_password_and_another_database() -> None:
    with closing(RedisServer("--requirepass", "s3cret")) as server:
        for password, works in (("other", False), ("s3cret", True)):
            address = evolve(parse_address(server.url), password=password, db=3)
            broker = RedisBroker(RedisNode(reactor, address), Registry())
            await broker.start()
            assert broker.node.up is works
            if works:
                await broker.open_session(SessionRequest("r"))
            else:
                with pytest.raises(BrokerUnavailable):
                    await broker.open_session(SessionRequest("r"))
            await broker.stop()
            await broker.close()


def test_the_seed_may_name_the_broker() -> None:
    seed = parse_seed("foundry: {compute_modules: {broker: 'redis://:s3cret@somewhere/1'}}")
    assert seed.broker == "redis://:s3cret@somewhere/1"
    assert "s3cret" not in repr(seed)


def test_a_broker_that_cannot_be_had_is_said() -> None:
    serve = "import sys; from twisted_cm.cli import main; main(sys.argv[1:])"
    hidden = serve.replace("from", "sys.modules['hiredis'] = None; from")
    for program, url, said in (
        (hidden, "redis://localhost", "pip install hiredis"),
        (serve, "mysql://user:secret@localhost", "give redis://"),
    ):
        command = [sys.executable, "-c", program, "serve", "--port", "0", "--tls-port", "0", "--broker", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert said in done.stderr
        assert "secret" not in done.stderr
        assert "Traceback" not in done.stderr
