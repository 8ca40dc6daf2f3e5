"""How the dashboard signs in and stays connected."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Server
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from server.dashboard_fixtures import BASE, DASHBOARD_SEED, Board


def test_it_asks_for_a_token_where_it_has_none(browser: webdriver.Chrome, tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir)
    board = Board(browser, server.urls["http"])
    try:
        browser.get(board.url + BASE)
        board.until(lambda: board.find("#sign-in").is_displayed())
        assert not board.find("#board").is_displayed()
        assert "twisted-cm serve prints" in board.find("#sign-in").text
        assert board.find("#sign-in").text.startswith("Sign in\nEnter a bearer token")
        # The development token was refused. The user did not enter it, so it is no error.
        assert not board.find("#sign-in [role=alert]").is_displayed()
        assert ["401" in each for each in board.errors()] == [True]
        field = browser.switch_to.active_element
        assert field.accessible_name == "Bearer token"
        field.send_keys("wrong", Keys.ENTER)
        board.until(lambda: ["401" in each for each in board.errors()] == [True])
        board.until(lambda: "missing, unknown or expired" in board.find("#sign-in [role=alert]").text)
        assert not board.find("#board").is_displayed()
        field.clear()
        field.send_keys("app-token", Keys.ENTER)
        board.until(lambda: board.texts("#connection") == ["Live"])
        # The tab keeps the token until the user signs out.
        browser.refresh()
        board.until(lambda: board.texts("#connection") == ["Live"])
        board.button("Sign out").click()
        assert board.find("#sign-in").is_displayed()
        assert board.js("return sessionStorage.length") == 0
        assert board.errors() == []
    finally:
        browser.get("about:blank")
        server.stop()


@pytest.mark.parametrize("board", [DASHBOARD_SEED], indirect=True)
def test_it_connects_anew_when_the_emulator_is_back(
    board: Board, tmp_path_factory: pytest.TempPathFactory, state_dir: Path
) -> None:
    board.open()
    board.submit("lost")
    board.until(lambda: board.rows())
    board.server.stop()
    board.until(lambda: board.find("#connection").text.startswith("Not connected; trying again in"))
    port = board.url.rpartition(":")[2]
    again = Server(tmp_path_factory.mktemp("again"), state_dir, "--port", port, seed=DASHBOARD_SEED)
    try:
        board.until(lambda: board.texts("#connection") == ["Live"], 30)
        board.until(lambda: board.rows() == [])
        board.submit("found")
        board.until(lambda: [row[0] for row in board.rows()] == ["found"])
        # All errors are failed connections.
        assert all("ERR_" in each for each in board.errors())
    finally:
        board.browser.get("about:blank")
        again.stop()


@pytest.mark.whole_browser
def test_many_tabs_do_not_lock_each_other_out(board: Board) -> None:
    first, before = board.browser.current_window_handle, set(board.browser.window_handles)
    board.open()
    try:
        # A browser opens six connections to one server, and the events of each tab need one.
        for _ in range(7):
            board.browser.switch_to.new_window("tab")
            board.open()
        job_id = board.submit("meanwhile")
        board.take()
        board.module("POST", f"/results/{job_id}", b"")
        board.until(lambda: [row[:2] for row in board.rows()] == [["meanwhile", "succeeded"]])
    finally:
        for handle in set(board.browser.window_handles) - before:
            board.browser.switch_to.window(handle)
            board.browser.close()
        board.browser.switch_to.window(first)
    board.until(lambda: [row[:2] for row in board.rows()] == [["meanwhile", "succeeded"]])
    board.until(lambda: board.texts("figure p")[0] == "1 job ended, at most 1 per second")
