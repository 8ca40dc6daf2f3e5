"""What slows a job down: options that cost CPU, each measured in turn with an emulator without options."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beside import ROOT, ratio
from callers import Contender, Measured, cpu, in_turn
from emulator import Emulator
from figures import written
from http_client import caller_request
from redis_server import RedisServer
from suite import ADD, post_schemas

CALLERS = 64

#: An emulator without options, and a second one, which shows how far apart two equal ones are.
NONE, SAME = "None of these", "None of these, a second emulator"

#: What the page calls each option.
REDIS = "``--broker`` with a Redis, with the CPU of Redis"
HTTPS = "HTTPS, connections kept"
DEBUG = "``--log-level debug``"
RECORD = "``--record FILE``"
LEASE = "``job_lease`` in the seed"
VALIDATE = "``validate_queries`` in the seed; two numbers"
OPTIONS = (NONE, SAME, HTTPS, DEBUG, RECORD, LEASE, VALIDATE, REDIS)

#: A job whose query fits the schema of its function.
REQUESTS = [caller_request({"a": 1, "b": 2})]


def measure_options(rounds: int, seconds: float, step: Callable[[], None]) -> dict[str, list[Measured]]:
    """Return the measurements of each option."""
    with contextlib.ExitStack() as stack:

        def start(*options: str, **settings: Any) -> Emulator:
            return stack.enter_context(contextlib.closing(Emulator(*options, package=ROOT, **settings)))

        validating = start(validate_queries=True)
        asyncio.run(post_schemas(validating.urls["http"], [{**ADD, "functionName": "f"}]))
        redis = stack.enter_context(contextlib.closing(RedisServer("--appendonly", "yes")))
        records = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twisted-cm-bench-"))) / "jobs.jsonl"
        emulators = {
            NONE: start(),
            SAME: start(),
            DEBUG: start("--log-level", "debug"),
            RECORD: start("--record", str(records)),
            LEASE: start(lease=60),
            VALIDATE: validating,
        }
        servers = {name: Contender(each.urls["http"], each.cpu, REQUESTS) for name, each in emulators.items()}
        secure, shared = start(), start("--broker", redis.url)
        servers[HTTPS] = Contender(secure.urls["https"], secure.cpu, REQUESTS)
        servers[REDIS] = Contender(shared.urls["http"], lambda: shared.cpu() + redis.cpu(), REQUESTS)
        return in_turn({name: servers[name] for name in OPTIONS}, CALLERS, rounds, seconds, step)


def rows(found: dict[str, list[Measured]]) -> list[list[str]]:
    """Return the table: each option, CPU of a job, and that to the CPU without options."""
    return [
        ["Option", "CPU of a job, µs", "To that without options"],
        *([name, written(cpu(measured)), f"{ratio(measured, found[NONE]):.2f}"] for name, measured in found.items()),
    ]


def steps(rounds: int) -> int:
    """Return how many measurements :func:`measure_options` makes."""
    return len(OPTIONS) * rounds
