"""What the dashboard shows of modules that the emulator starts."""

from __future__ import annotations

import json
import sys

import pytest
from server.dashboard_fixtures import DASHBOARD_SEED, Board
from supervised_emulator import MODULE

COMMAND = json.dumps([sys.executable, str(MODULE)])
SEED = DASHBOARD_SEED.replace("runtime_id: one", f"runtime_id: one, command: {COMMAND}", 1)


@pytest.mark.parametrize("board", [SEED], indirect=True)
def test_the_state_and_the_output_of_a_module_are_shown(board: Board) -> None:
    assert COMMAND in SEED
    board.open()
    card = "#runtimes > li:first-child"
    board.until(lambda: "module running · started 1 times" in board.texts(card)[0])
    board.submit("print", query=["<b>one</b>"])
    board.open_story()
    board.until(lambda: board.texts("#story pre")[-1].splitlines() == ["<b>one</b>", "and to standard error"])
    assert "Output of the module" in board.texts("#story h3")


@pytest.mark.parametrize("board", [SEED.replace(COMMAND, json.dumps([sys.executable, "-c", "1/0"]))], indirect=True)
def test_a_crash_loop_is_shown(board: Board) -> None:
    board.open()
    card = "#runtimes > li:first-child"
    board.until(lambda: "module crash looping" in board.texts(card)[0], 20)
    assert "twisted-cm restart one" in board.texts(card)[0]
