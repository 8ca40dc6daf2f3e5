"""A link to Redis that can be cut without being closed, as by a firewall that drops what it carries."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from redis_server import RedisServer

#: Bytes to pass on at once.
PIECE = 256 * 1024


class Link:
    """A proxy before a Redis, in a process of its own. To suspend the process cuts the link.

    Attributes:
        url: The URL for ``--broker``.
        process: The proxy.
    """

    def __init__(self, server: RedisServer) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="twisted-cm-link-")
        listens_at = Path(self._directory.name) / "redis.sock"
        self.url = f"unix://{listens_at}"
        command = [sys.executable, __file__, str(listens_at), str(server.socket)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "the proxy did not start"

    def close(self) -> None:
        """End the proxy, also if it is suspended."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)
        self._directory.cleanup()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(listens_at: str, server: str) -> None:
    """Pass on what comes to one Unix socket to another, both ways, until the process ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, requests = await asyncio.open_unix_connection(server)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, requests), _pass_on(answers, writer))

    listener = await asyncio.start_unix_server(connected, listens_at)
    print("listening", flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
