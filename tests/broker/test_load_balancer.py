"""A real nginx in front of emulators that share a Redis."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_twisted
from attrs import evolve
from conftest import ROOT, RUNTIMES, Harness, raw_caller, raw_stream_head, receive_until, serve_one
from emulator import MIB
from node_fixtures import parked_polls, until_parked
from twisted.internet.defer import Deferred

NGINX = ROOT / "docs" / "nginx.conf"


class Balancer:
    """An nginx in front of emulators, with the configuration from the documentation."""

    def __init__(self, directory: Path, upstreams: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        servers = "\n".join(f"        server {url.removeprefix('http://')};" for url in upstreams)
        text = NGINX.read_text("utf-8")
        for shipped in ("server 127.0.0.1:4000;\n", "server 127.0.0.1:4001;\n", "listen 8080;\n"):
            assert shipped in text
        text = text.replace("server 127.0.0.1:4000;\n", servers.strip() + "\n").replace("server 127.0.0.1:4001;\n", "")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};")
        (directory / "nginx.conf").write_text(text, "utf-8")
        command = ["nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"]
        self.process = subprocess.Popen(command)
        for _ in range(1000):
            assert self.process.poll() is None, "nginx did not start"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("nginx does not listen")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def balanced(three: list[Harness], tmp_path: Path) -> Iterator[Harness]:
    """Send requests to three emulators through a load balancer."""
    urls = [each.service.addresses.http for each in three]
    with closing(Balancer(tmp_path, [url for url in urls if url is not None])) as balancer:
        front = Harness(three[0].service)
        addresses = evolve(three[0].service.addresses, http=f"http://127.0.0.1:{balancer.port}")
        three[0].service.addresses, direct = addresses, three[0].service.addresses
        yield front
        three[0].service.addresses = direct
        pytest_twisted.blockon(front.pool.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_a_balancer_spreads_parked_parties_and_streams_through(balanced: Harness, three: list[Harness]) -> None:
    # Long-polls park at every node.
    polls = [Deferred.fromCoroutine(balanced.module("GET", "/job")) for _ in range(9)]
    await until_parked(three, polls=9)
    assert all(await parked_polls(three))
    callers = [balanced.execute(n) for n in range(9)]
    for poll in polls:
        _, envelope, _ = await poll
        job = envelope["computeModuleJobV1"]
        answer = await balanced.module("POST", f"/results/{job['jobId']}", b"result of %d" % job["query"])
        assert answer[:2] == (204, b"")
    assert [(await caller)[1] for caller in callers] == [b"result of %d" % n for n in range(9)]
    # A stream arrives as it is posted.
    caller = raw_caller(balanced)
    job = (await balanced.module("GET", "/job"))[1]["computeModuleJobV1"]
    post = raw_stream_head(balanced, job["jobId"])
    for word in (b"first", b"second"):
        post.sendall(b"%x\r\n%s\r\n" % (len(word), word))
        await receive_until(caller, word + b"\r\n")
    post.sendall(b"0\r\n\r\n")
    await receive_until(caller, b"0\r\n\r\n")
    caller.close()
    post.close()
    # A large body is not too large.
    large = balanced.execute("large")
    await serve_one(balanced, bytes(20 * MIB))
    assert len((await large)[1]) == 20 * MIB
    # The balancer does not cut off a poll before its wait is over.
    status, _, headers = await balanced.call(
        "GET", f"{RUNTIMES}/one/job", Module_Auth_Token="token-one", Prefer="wait=1"
    )
    assert (status, headers.getRawHeaders("Preference-Applied")) == (204, ["wait=1"])
