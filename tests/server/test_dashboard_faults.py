"""The faults on the dashboard."""

from __future__ import annotations

import json
import re

import pytest
import pytest_twisted
from conftest import make_harness
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from server.dashboard_fixtures import BASE, Board
from twisted.internet.threads import deferToThread


def test_faults_are_set_and_cleared(board: Board) -> None:
    board.open()
    for kind, fill in (
        ("A job fails before a runtime gets it", {"Message": "on purpose", "Times": "1"}),
        ("A poll is answered with an error", {"Probability": "0.5"}),
    ):
        board.find("#add-fault").click()
        Select(board.label("What goes wrong")).select_by_visible_text(kind)
        Select(board.label("Runtime")).select_by_visible_text("one")
        for name, value in fill.items():
            board.label(name).send_keys(value)
        board.button("Add", "#fault").click()
        board.until(lambda: kind in str(board.texts("#faults h3")))  # noqa: B023
    faults = json.loads(board.call("GET", "/faults"))
    assert [(each["kind"], each["runtime_id"]) for each in faults] == [("fail_job", "one"), ("poll_error", "one")]
    assert faults[0]["message"] == "on purpose" and faults[1]["probability"] == 0.5
    board.submit()
    board.until(lambda: board.rows() and board.rows()[0][1] == "failed")
    board.until(lambda: "Applied 1 time (limit: 1), used up" in board.texts("#faults li")[0])
    board.open_story()
    assert "on purpose" in board.texts("#story .timeline")[0]
    board.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    board.find("#faults button[aria-label='Clear fail_job']").click()
    board.until(lambda: len(board.all("#faults li")) == 1)
    board.button("Clear all").click()
    board.until(lambda: board.texts("#faults-note") == ["No faults are active."])
    assert json.loads(board.call("GET", "/faults")) == []


@pytest_twisted.ensureDeferred
async def test_beyond_loopback_the_admin_token_sees_faults(
    browser: webdriver.Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    guarded = make_harness(admin_token="boss")
    board = Board(browser, guarded.service.addresses.http)

    def look() -> None:
        browser.get(board.url + BASE)
        for token, says in (
            ("app-token", "Only the admin token may do this. Send it as the bearer token."),
            ("boss", "No faults are active."),
        ):
            board.until(lambda: board.find("#sign-in").is_displayed())
            board.find("#token").send_keys(token, Keys.ENTER)
            board.until(lambda: board.texts("#faults-note") == [says])  # noqa: B023
            board.button("Sign out").click()
        # The development token was refused, and so was one request for faults.
        assert [re.findall(r"status of (\d+)", each) for each in board.errors()] == [["401"], ["403"]]

    try:
        await deferToThread(look)
    finally:
        await deferToThread(browser.get, "about:blank")
        await guarded.service.stopService()
