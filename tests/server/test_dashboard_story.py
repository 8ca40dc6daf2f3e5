"""The story of one job on the dashboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server.dashboard_fixtures import DASHBOARD_SEED, Board


@pytest.mark.parametrize("board", [DASHBOARD_SEED.replace("job_lease: 60", "job_lease: 0.3")], indirect=True)
def test_a_story_tells_each_attempt(board: Board) -> None:
    board.open()
    job_id = board.submit()
    board.open_story()
    assert board.texts("#story .timeline strong") == ["Queued"]
    board.take()
    # The lease ends, and the job is queued again.
    board.until(lambda: board.texts("#story .timeline strong") == ["Queued", "Dispatched", "Attempt ended"])
    board.take()
    board.module("POST", f"/results/{job_id}", b'{"a": [1, 9007199254740993, "\xc3\xa9"]}')
    board.until(lambda: board.texts("#story .badge") == ["succeeded"])
    steps = board.texts("#story .timeline li")
    assert [step.split("\n")[1] for step in steps] == [
        "Queued", "Dispatched", "Attempt ended", "Dispatched", "Succeeded",
    ]  # fmt: skip
    assert "attempt 1, after" in steps[1] and "attempt 2, after" in steps[3]
    assert "lease" in steps[2] and "in total" in steps[4]
    assert board.texts("#story pre")[1] == '{\n  "a": [\n    1,\n    9007199254740993,\n    "é"\n  ]\n}'


def is_whole(saved: Path) -> bool:
    """Return whether a download is complete: the browser first creates an empty file of that name."""
    return saved.exists() and saved.stat().st_size > 0


@pytest.mark.parametrize(
    "result",
    [b'\xef\xbb\xbf{"a":  1.0,\r\n "b": "\xf0\x9f\x98\x80"}', bytes(range(256)) * 300],
    ids=["text", "binary"],
)
def test_a_result_is_downloaded_as_it_was_posted(board: Board, tmp_path: Path, result: bytes) -> None:
    downloads = tmp_path / "downloads"
    board.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads), "eventsEnabled": True}
    )
    board.open()
    job_id = board.submit(query={"n": 1})
    board.take()
    board.module("POST", f"/results/{job_id}", result)
    board.open_story()
    board.until(lambda: board.texts("#story .badge") == ["succeeded"])
    board.button("Download the result").click()
    saved = downloads / f"{job_id}-result"
    board.until(lambda: is_whole(saved))
    assert saved.read_bytes() == result
    board.button("Download the query").click()
    saved = downloads / f"{job_id}-query.json"
    board.until(lambda: is_whole(saved))
    assert json.loads(saved.read_text()) == {"n": 1}


def test_a_job_is_canceled(board: Board) -> None:
    board.open()
    job_id = board.submit()
    board.open_story()
    board.button("Cancel the job").click()
    board.until(lambda: board.texts("#story .badge") == ["canceled"])
    assert board.job(job_id)["status"] == "canceled"
    assert not board.find("#story .buttons button").is_displayed()
    assert board.texts("#story .timeline strong") == ["Queued", "Canceled"]


def test_a_function_that_raised_is_told(board: Board) -> None:
    board.open()
    job_id = board.submit()
    board.take()
    board.module("POST", f"/results/{job_id}", b'{"error":"TypeError","reason":"<b>no</b>"}')
    board.until(lambda: board.texts("#rows .badge") == ["raised"])
    board.open_story()
    board.until(lambda: board.texts("#story .badge") == ["raised"])
    assert board.texts("#story .timeline strong")[-1] == "Raised"
    assert "TypeError: <b>no</b>" in board.texts("#story .timeline li")[-1]
