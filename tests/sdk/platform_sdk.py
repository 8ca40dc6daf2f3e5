"""Applications on the official platform SDK, which call what the tests tell them to call.

Each line of the input is a JSON object. Its ``environment`` holds all variables, its ``calls`` what to call; all
calls of a line are made at the same time, each by a client of its own. The line that answers it holds what each call
returned or raised. A call has these fields:

- ``method``: its path in the client, such as ``functions.Query.execute``,
- ``args`` and ``kwargs``, in which ``{"$datetime": "…"}`` stands for a datetime,
- ``touch``, optional: a file to create once the first event of a stream has arrived,
- ``values``, optional: how many values must have arrived before that, of a function that returns a list.
"""

import json
import operator
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from foundry_sdk import FoundryClient
from foundry_sdk._core.sse import SseContextManager
from pydantic import BaseModel


def python_value(fields):
    """Return the object that a JSON object stands for."""
    return datetime.fromisoformat(fields["$datetime"]) if "$datetime" in fields else fields


def json_value(value):
    """Return a result of the SDK as JSON, under the names of the API."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return value


def events(stream, touch, values):
    """Return the data of all events of a stream."""
    found = []
    with stream as arriving:
        for event in arriving:
            found.append(json_value(event.data))
            if touch is not None and (values is None or sum(len(each.get("value", ())) for each in found) >= values):
                Path(touch).touch()
    return found


def perform(call):
    try:
        method = operator.attrgetter(call["method"])(FoundryClient())
        result = method(*call["args"], **call["kwargs"])
        if isinstance(result, SseContextManager):
            return {"returned": events(result, call.get("touch"), call.get("values"))}
        if hasattr(result, "__next__"):
            return {"returned": [json_value(each) for each in result]}
        return {"returned": json_value(result)}
    except Exception as error:
        about = ("name", "error_code", "parameters", "error_description", "error_instance_id")
        return {"raised": type(error).__name__, **{each: getattr(error, each, None) for each in about}}


with ThreadPoolExecutor(64) as pool:
    for line in sys.stdin:
        task = json.loads(line, object_hook=python_value)
        os.environ.clear()
        os.environ.update(task["environment"])
        print(json.dumps(list(pool.map(perform, task["calls"]))), flush=True)
