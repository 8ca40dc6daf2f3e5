"""A module without an SDK, which does what its queries say; it speaks to the emulator as Foundry documents it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TOKEN = Path(os.environ["MODULE_AUTH_TOKEN"]).read_text()
VERSION = Path(sys.argv[1]).read_text().strip() if len(sys.argv) > 1 else "0"


def send(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    with urlopen(Request(url, data, {"Module-Auth-Token": TOKEN})) as answer:
        return answer.status, answer.read()


def work(job_id: str, function: str, query: Any) -> Any:
    if function == "print":
        for line in query:
            print(line)
        sys.stderr.write("and to standard error\n")
        return len(query)
    if function == "log":
        # In one write: print writes the end of the line apart, so that lines of two threads could mix.
        sys.stdout.write(json.dumps({"params": {"job_id": job_id}, "message": query["message"]}) + "\n")
        while not Path(query["until"]).exists():
            time.sleep(0.01)
        return None
    if function == "crash":
        print("about to crash")
        os._exit(query)
    if function == "wait":
        while not Path(query).exists():
            time.sleep(0.01)
        return VERSION
    if function == "child":
        # A grandchild that holds the pipes open.
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    if function == "stubborn":
        return signal.signal(signal.SIGTERM, signal.SIG_IGN) is not None
    if function == "environment":
        return {name: os.environ.get(name) for name in query}
    return {"version": VERSION, "pid": os.getpid(), "directory": os.getcwd()}


def serve() -> None:
    while True:
        try:
            status, body = send(os.environ["GET_JOB_URI"])
        except HTTPError as error:
            # As the SDKs do, it asks again, whatever the answer is.
            status, body = error.code, b""
        if status == 200:
            job = json.loads(body)["computeModuleJobV1"]
            result = work(job["jobId"], job["queryType"], job["query"])
            send(f"{os.environ['POST_RESULT_URI']}/{job['jobId']}", json.dumps(result).encode())


def main() -> None:
    if VERSION == "broken":
        raise SystemExit("this version is broken")
    if Path("slow").exists():
        # One of several processes is slow.
        with contextlib.suppress(FileNotFoundError):
            Path("slow").rename("slow.taken")
            while Path("slow.taken").exists():
                time.sleep(0.01)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    names = ["print", "log", "crash", "wait", "child", "stubborn", "environment", "who"]
    send(os.environ["POST_SCHEMA_URI"], json.dumps([{"functionName": name} for name in names]).encode())
    for _ in range(int(os.environ["MAX_CONCURRENT_TASKS"]) - 1):
        threading.Thread(target=serve, daemon=True).start()
    serve()


if __name__ == "__main__":
    main()
