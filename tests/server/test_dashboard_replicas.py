"""The dashboard's replicas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from server.dashboard_fixtures import BASE, Board
from server.test_dashboard_accessibility import LOWEST_CONTRAST


def open_replica(board: Board, replica_id: str, limit: int = 1, runtime: str = "one") -> Any:
    body = {"replicaId": replica_id, "maxConcurrentTasks": limit}
    return json.loads(board.call("POST", f"/runtimes/{runtime}/replicas", body))


def poll(board: Board, replica: Any) -> str | None:
    """Poll as a replica; return the id of the job, or ``None``."""
    path = replica["getJobUri"].removeprefix(board.url + BASE)
    content = board.call("GET", path, Module_Auth_Token=replica["moduleAuthToken"], Prefer="wait=0")
    return json.loads(content)["computeModuleJobV1"]["jobId"] if content else None


def check_contrast(board: Board) -> None:
    """Check that all texts can be read, in light and in dark colors."""
    for scheme in ("dark", "light"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        board.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        _, lowest, text = board.js(LOWEST_CONTRAST)
        assert lowest >= 4.5, (scheme, lowest, text)


def close(board: Board, replica_id: str) -> None:
    board.call("DELETE", f"/runtimes/one/replicas/{replica_id}", Module_Auth_Token="token-one")


def shown(board: Board, of: str = "#runtimes > li:first-child .card-replicas > .replicas") -> dict[str, list[str]]:
    """Return the lines of each replica that is shown, by its id."""
    rows = [[line for line in text.splitlines() if line] for text in board.texts(f"{of} > li")]
    return {lines[0].split(" ")[0]: [lines[0].partition(" ")[2], *lines[1:]] for lines in rows}


def states(board: Board) -> dict[str, str]:
    return {replica: lines[0] for replica, lines in shown(board).items()}


def test_replicas_change_before_ones_eyes(board: Board) -> None:
    board.open()
    board.until(lambda: states(board) == {"default": "starting"})
    assert "0 running, no limit" in shown(board)["default"][1]
    small, large = open_replica(board, "small"), open_replica(board, "large", limit=3)
    # Nobody uses the default replica.
    board.until(lambda: states(board) == {"small": "starting", "large": "starting"})
    assert "0 of 3 running" in shown(board)["large"][1] and "never polled" in shown(board)["large"][1]
    first, second = board.submit("first"), board.submit("second")
    assert (poll(board, small), poll(board, large)) == (first, second)
    board.until(lambda: states(board) == {"small": "busy", "large": "responsive"})
    assert "1 of 1 running" in shown(board)["small"][1] and " s ago" in shown(board)["small"][1]
    assert "1 of 3 running" in shown(board)["large"][1]
    assert (shown(board)["small"][2:], shown(board)["large"][2:]) == ([first], [second])
    # The other runtime has other replicas.
    assert [*shown(board, "#runtimes > li:nth-child(2) .card-replicas > .replicas")] == ["default"]
    board.module("POST", f"/results/{first}", b"1")
    board.until(lambda: states(board)["small"] == "responsive")
    assert shown(board)["small"][2:] == []
    board.module("GET", "/job")
    board.until(lambda: [*states(board)] == ["default", "small", "large"])


def test_a_replica_leads_to_its_jobs(board: Board) -> None:
    replica = open_replica(board, "r", limit=20)
    jobs = [board.submit(f"f{number}") for number in range(12)]
    assert [poll(board, replica) for _ in jobs] == jobs
    board.open()
    board.until(lambda: "r" in shown(board))
    assert shown(board)["r"][2:] == [*jobs[:10], "and 2 more"]
    board.button(jobs[3], ".replicas").click()
    board.until(lambda: board.texts("#story h2") == ["f3\nrunning"])
    assert jobs[3] in board.texts("#story")[0] and "Dispatched" in board.texts("#story .timeline")[0]
    board.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    # The focus is back where it was.
    assert board.browser.switch_to.active_element.text == jobs[3]
    board.module("POST", f"/results/{jobs[0]}", b"1")
    board.until(lambda: shown(board)["r"][2:] == [*jobs[1:11], "and 1 more"])
    assert board.browser.switch_to.active_element.text == jobs[3]


def test_a_replica_that_is_gone_says_why(board: Board) -> None:
    board.open()
    open_replica(board, "stays")
    for name in ("first", "second"):
        open_replica(board, name)
    board.until(lambda: [*states(board)] == ["stays", "first", "second"])
    assert board.all("#runtimes details > .replicas") == []
    close(board, "first")
    # Two ends in the same millisecond have no order.
    board.until(lambda: [*states(board)] == ["stays", "second"])
    close(board, "second")
    board.until(lambda: [*states(board)] == ["stays"])
    summary = board.find("#runtimes summary")
    assert summary.text == "2 replicas gone"
    summary.send_keys(Keys.ENTER)
    gone = shown(board, "#runtimes details > .replicas")
    # The last one that ended comes first.
    assert [(name, lines[0]) for name, lines in gone.items()] == [("second", "gone"), ("first", "gone")]
    assert all(lines[1].startswith("ended ") and lines[1].endswith(": replica stopped") for lines in gone.values())
    open_replica(board, "first")
    board.until(lambda: states(board) == {"stays": "starting", "first": "starting"})
    assert [*shown(board, "#runtimes details > .replicas")] == ["second"]
    board.call("POST", "/reset")
    board.until(lambda: [*states(board)] == ["default"])
    assert board.texts("#runtimes summary") == ["Functions", "Functions"]


def test_a_replica_becomes_silent_before_ones_eyes(board: Board) -> None:
    poll(board, open_replica(board, "r"))
    board.open()
    board.until(lambda: states(board) == {"r": "responsive"})
    assert board.texts("#runtimes h3")[0] == "one\nconnected"
    # It takes 10 seconds, and there is no event.
    board.until(lambda: states(board) == {"r": "silent"}, seconds=40)
    assert board.texts("#runtimes h3")[0] == "one\nnot connected"
    check_contrast(board)


@pytest.mark.parametrize("width", [1400, 400])
def test_replicas_are_usable_on_a_screen_of(board: Board, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    board.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        long = "replica-with-a-name-that-is-longer-than-most-screens-of-phones-are-wide-0123456789"
        replica = open_replica(board, long, limit=2)
        open_replica(board, "gone")
        close(board, "gone")
        job_id = board.submit("f")
        poll(board, replica)
        board.open()
        board.until(lambda: states(board) == {long: "responsive"})
        board.find("#runtimes summary").click()
        # Nothing is cut off, and nothing makes the page wider than the screen.
        assert board.js("return document.documentElement.scrollWidth") <= width
        cut = board.js(
            "const card = document.querySelector('#runtimes > li'), edge = card.getBoundingClientRect();"
            "return [...card.querySelectorAll('*')].filter(e => e.checkVisibility()).filter(e => {"
            "  const box = e.getBoundingClientRect();"
            "  return box.left < edge.left - 1 || box.right > edge.right + 1 || e.scrollWidth > e.clientWidth + 1"
            "    && getComputedStyle(e).display !== 'inline';"
            "}).map(e => e.outerHTML)"
        )
        assert cut == []
        check_contrast(board)
        board.button(job_id, ".replicas").click()
        board.until(lambda: board.texts("#story h2") == ["f\nrunning"])
        board.button("Close", "#story").click()
    finally:
        board.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
