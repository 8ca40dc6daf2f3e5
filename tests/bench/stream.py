"""The delay and the memory of a streamed result on its way to a parked caller.

Measured for HTTP and HTTPS: the time from posting the first chunk until the caller has it, while the post stays open;
and the emulator's peak memory above its idle memory, while a long stream goes to a caller that reads slowly.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading
import time
from contextlib import closing
from typing import Any

import click
from emulator import MIB, RUNTIME, Emulator, read_answer

#: The most that a figure may be: the median, in milliseconds, and MiB.
BARS = {"first byte, ms": 20.0, "peak over idle, MiB": 64.0}


def first_byte(emulator: Emulator, scheme: str, runtime: socket.socket) -> float:
    """Return the seconds from posting the first chunk until the caller has received it."""
    caller = emulator.caller(scheme)
    job_id = emulator.take(runtime)
    post = open_stream(runtime, job_id)
    arrived: list[float] = []

    def receive() -> None:
        received = b""
        while not received.endswith(b"first\r\n"):
            received += caller.recv(65536)
        arrived.append(time.perf_counter())

    receiver = threading.Thread(target=receive)
    receiver.start()
    sent = time.perf_counter()
    post.sendall(b"5\r\nfirst\r\n")
    receiver.join()
    post.sendall(b"0\r\n\r\n")
    read_answer(post)
    caller.close()
    return arrived[0] - sent


def open_stream(runtime: socket.socket, job_id: str) -> socket.socket:
    """Return ``runtime``, on which the post of a chunked result has begun."""
    runtime.sendall(
        f"POST {RUNTIME}/results/{job_id} HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: module-token\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    return runtime


def slow_stream(emulator: Emulator, scheme: str, runtime: socket.socket, size: int) -> tuple[float, int]:
    """Stream ``size`` bytes to a caller that stops reading from time to time.

    Returns:
        Seconds for all of it, and the emulator's peak memory over its idle memory in bytes.
    """
    idle = emulator.memory("VmRSS")
    emulator.forget_peak()
    caller = emulator.caller(scheme)
    post = open_stream(runtime, emulator.take(runtime))
    chunk = b"40000\r\n%s\r\n" % (b"x" * 0x40000)

    def send() -> None:
        for _ in range(size // 0x40000):
            post.sendall(chunk)
        post.sendall(b"0\r\n\r\n")

    started = time.perf_counter()
    sender = threading.Thread(target=send)
    sender.start()
    received, tail, pause_at = 0, b"", size // 8
    with click.progressbar(length=size, label=f"  {size // MIB} MiB, {scheme}", file=sys.stderr) as bar:
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = caller.recv(MIB)
            assert data, "the stream broke off"
            received += len(data)
            tail = (tail + data)[-16:]
            bar.update(len(data))
            if received > pause_at:
                pause_at += size // 8
                time.sleep(0.5)
    sender.join()
    read_answer(post)
    caller.close()
    assert received > size
    return time.perf_counter() - started, emulator.memory("VmHWM") - idle


@click.command()
@click.option("--size", default=1024, show_default=True, help="MiB of the long stream.")
@click.option("--rounds", default=200, show_default=True, help="Streams for the time to the first byte.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(size: int, rounds: int, as_json: bool) -> None:
    """Measure the time to the first byte, and the memory while a caller is slow, of streamed results."""
    figures: list[dict[str, Any]] = []
    for scheme in ("http", "https"):
        with closing(Emulator("--max-body", str(2 * size * MIB))) as emulator:
            runtime = emulator.connect(scheme)
            times = [first_byte(emulator, scheme, runtime) * 1000 for _ in range(rounds + 10)][10:]
            seconds, peak = slow_stream(emulator, scheme, runtime, size * MIB)
            figures.append(
                {
                    "scheme": scheme,
                    "first byte, ms": {
                        "median": round(statistics.median(times), 2),
                        "p99": round(statistics.quantiles(times, n=100)[98], 2),
                        "max": round(max(times), 2),
                    },
                    "peak over idle, MiB": round(peak / MIB, 1),
                    "stream, s": round(seconds, 1),
                }
            )
            runtime.close()
    if as_json:
        click.echo(json.dumps({"size, MiB": size, "rounds": rounds, "figures": figures, "bars": BARS}))
    else:
        _print(figures, size, rounds)
    if any(
        each["first byte, ms"]["median"] > BARS["first byte, ms"]
        or each["peak over idle, MiB"] > BARS["peak over idle, MiB"]
        for each in figures
    ):
        raise SystemExit(1)


def _print(figures: list[dict[str, Any]], size: int, rounds: int) -> None:
    click.echo(
        f"first byte over {rounds} streams; memory over one stream of {size} MiB whose caller pauses eight times"
    )
    click.echo(f"{'':8}{'first byte, ms (bar 20)':^34}{'peak over idle':>18}{'':4}{'time':>8}")
    click.echo(f"{'':8}{'median':>10}{'p99':>12}{'max':>12}{'MiB (bar 64)':>18}{'':4}{'s':>8}")
    for each in figures:
        first = each["first byte, ms"]
        click.echo(
            f"{each['scheme']:8}{first['median']:>10}{first['p99']:>12}{first['max']:>12}"
            f"{each['peak over idle, MiB']:>18}{'':4}{each['stream, s']:>8}"
        )


if __name__ == "__main__":
    main()
