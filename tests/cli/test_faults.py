"""The commands that list, add and remove faults."""

from __future__ import annotations

import json

import pytest
from conftest import Server
from terminal import Terminal, cells

pytestmark = pytest.mark.shared_server


def test_faults_are_added_listed_and_ended(server: Server) -> None:
    added = [
        server.cm("faults", "add", *options.split()).stdout.decode().strip()
        for options in (
            "delay_result --seconds 0.5 --runtime one --function f --count 2 --probability 0.5 --random-seed 7",
            "poll_error --status 401",
        )
    ]
    listed = cells(server.cm("faults").stdout)
    assert [row[0] for row in listed] == added
    assert listed[0][1:] == ["delay_result", "one", "f", "0", "2", "probability=0.5, random_seed=7, seconds=0.5"]
    assert listed[1][1:6] == ["poll_error", "any", "any", "0", "any number"]
    assert server.cm("faults", "remove", added[0]).returncode == 0
    (left,) = json.loads(server.cm("faults", "--json").stdout)
    assert (left["fault_id"], left["status"]) == (added[1], 401)
    assert server.cm("faults", "clear").returncode == 0
    assert "No faults." in Terminal(server, "faults").end()
    for arguments, says in (
        (("add", "delay_result"), b"seconds"),
        (("--url", "http://127.0.0.1:1", "clear"), b"Put the options after 'clear'"),
    ):
        ran = server.cm("faults", *arguments)
        assert ran.returncode != 0 and ran.stdout == b""
        assert says in ran.stderr and b"Traceback" not in ran.stderr
