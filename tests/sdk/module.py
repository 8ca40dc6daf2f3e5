"""A compute module on the official Python SDK, with one function of each kind."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import requests
from compute_modules.annotations import function


@dataclass
class Pair:
    a: int
    b: int


@function
def typed(context, event: Pair) -> int:
    return event.a * event.b


@function
def untyped(context, event):
    return {"echo": event, "userId": context["userId"], "jobId": context["jobId"]}


@function
def asks_who_calls(context, event):
    """Return what the emulator says of the owner of the job's token, in each form in which the job carries it."""
    headers = (context["authHeader"], f"Bearer {context['tempCredsAuthToken']}")
    url = f"{event['url']}/multipass/api/me"
    return [requests.get(url, headers={"Authorization": each}, timeout=10).json() for each in headers]


@function
def raises(context, event):
    raise ValueError("on purpose")


@function
def unserializable(context, event):
    return object()


@function(streaming=True)
def stream(context, event) -> Iterable[int]:
    yield from range(event["n"])


@function
def together(context, event):
    """Return once ``size`` processes run this function at the same time, or after 20 seconds."""
    room = Path(event["room"])
    (room / str(os.getpid())).touch()
    deadline = time.monotonic() + 20
    while len(list(room.iterdir())) < event["size"] and time.monotonic() < deadline:
        time.sleep(0.01)
    return {"n": event["n"], "seen": len(list(room.iterdir()))}


@function
def slow(context, event):
    time.sleep(event["seconds"])
    return event["seconds"]


@function
def forever(context, event):
    time.sleep(600)
