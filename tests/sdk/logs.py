"""Functions that write while they run, for the official Python SDK."""

import time
from pathlib import Path

from compute_modules.annotations import function
from compute_modules.logging import get_logger

log = get_logger("app")


@function
def note(context, event):  # type: ignore[no-untyped-def]
    """Log a message and print another one; wait for a file; log again."""
    log.error("begin %s", event["name"])
    print(f"print {event['name']}")
    while not Path(event["until"]).exists():
        time.sleep(0.01)
    log.error("end %s", event["name"])
    return event["name"]
