"""The dashboard's runtimes, jobs and charts."""

from __future__ import annotations

import json
import re
from urllib.request import Request, urlopen

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from server.dashboard_fixtures import Board, flood


def polled_ago(board: Board) -> int:
    """Return how many seconds ago the first runtime polled, as the page shows it."""
    found = re.search(r"polled (\d+) s ago", board.texts("#runtimes li")[0])
    assert found is not None
    return int(found[1])


def test_jobs_and_runtimes_change_before_ones_eyes(board: Board) -> None:
    board.open()
    assert board.texts("#runtimes h3") == ["one\nnot connected", "two\nnot connected"]
    assert "never polled" in board.texts("#runtimes li")[0]
    assert board.texts("#runtimes .bindings li")[0] == "ri.one on master"
    job_id = board.submit("now")
    board.until(lambda: [row[:3] for row in board.rows()] == [["now", "queued", "one"]])
    board.until(lambda: "1 queued, 0 running" in board.texts("#runtimes li")[0])
    assert board.take() == job_id
    board.until(lambda: board.rows()[0][1] == "running")
    board.until(lambda: board.texts("#runtimes h3")[0] == "one\nconnected")
    board.until(lambda: "0 queued, 1 running" in board.texts("#runtimes li")[0])
    board.module("POST", f"/results/{job_id}", b"12345")
    board.until(lambda: board.rows()[0][1] == "succeeded")
    row = board.rows()[0]
    assert row[3] == "runtime-direct" and row[7:] == ["1", "5 B"]
    board.until(lambda: board.texts("figure p")[0] == "1 job ended, at most 1 per second")
    assert board.texts("figure p")[1].startswith("Median ")
    assert len(board.all("rect.bar")) == 1
    # A poll that finds no job updates the page, too.
    before = json.loads(board.call("GET", "/runtimes"))[0]["last_poll_at"]
    board.until(lambda: polled_ago(board) >= 4)
    board.module("GET", "/job")
    board.until(lambda: polled_ago(board) < 4)
    assert json.loads(board.call("GET", "/runtimes"))[0]["last_poll_at"] > before


def test_a_call_of_the_functions_api_is_shown_as_such(board: Board) -> None:
    board.module("POST", "/schemas", [{"functionName": "called", "schema": {}}])
    board.open()
    headers = {"Authorization": "Bearer test_token_admin", "Content-Type": "application/json"}
    url = f"{board.url}/api/v2/functions/queries/called/executeAsync"
    with urlopen(Request(url, b'{"parameters": {}}', headers), timeout=10):
        pass
    board.until(lambda: [row[:4] for row in board.rows()] == [["called", "queued", "one", "functions-async"]])
    board.open_story()
    board.until(lambda: "functions-async" in board.find("#story").text)
    assert "for ri.one on master" in board.find("#story").text


def test_jobs_that_a_reset_forgets_are_no_longer_shown(board: Board) -> None:
    board.open()
    job_id = board.submit("ended")
    board.take()
    board.module("POST", f"/results/{job_id}", b"")
    board.submit("queued", runtime="two")
    board.until(lambda: [row[1] for row in board.rows()] == ["queued", "succeeded"])
    board.call("DELETE", "/runtimes/two")
    board.until(lambda: [row[0] for row in board.rows()] == ["ended"])
    board.until(lambda: board.texts("#runtimes h3") == ["one\nconnected"])
    board.call("POST", "/reset")
    board.until(lambda: board.rows() == [])
    board.until(lambda: board.texts("#runtimes h3") == ["one\nnot connected", "two\nnot connected"])


#: Keeps the longest time between two frames in ``window.longest``.
WATCH_FRAMES = """
let last = performance.now();
window.longest = 0;
(function watch() {
  const now = performance.now();
  window.longest = Math.max(window.longest, now - last);
  last = now;
  requestAnimationFrame(watch);
})();
"""


def test_ten_thousand_jobs_are_a_page_at_a_time(board: Board) -> None:
    board.open()
    board.js(WATCH_FRAMES)
    names = [f"f{n % 5}" for n in range(5000)]
    flood(board, names, "one")
    flood(board, [*names[:-1], "last"], "two")
    board.until(lambda: board.rows() and board.rows()[0][0] == "last")
    assert board.js("return window.longest") < 2000
    assert len(board.rows()) == 50
    assert board.js("return document.querySelectorAll('*').length") < 2000
    first = board.rows()
    for _ in range(3):
        former = board.rows()
        board.button("Older").click()
        board.until(lambda: board.rows() != former)  # noqa: B023
    board.until(lambda: board.texts("#page-note") == ["Page 4, 50 jobs"])
    listed = json.loads(board.call("GET", "/jobs?limit=200"))["jobs"]
    assert [row[0] for row in board.rows()] == [job["query_type"] for job in listed[150:]]
    # A new job does not move the rows of an older page.
    shown = board.rows()
    board.submit("newcomer")
    board.until(lambda: board.texts("#page-note") == ["Page 4, 50 jobs; 1 newer"])
    assert board.rows() == shown
    board.button("Newer").click()
    board.until(lambda: board.texts("#page-note")[0].startswith("Page 3"))
    board.button("Newest").click()
    board.until(lambda: board.rows()[0][0] == "newcomer")
    assert board.rows()[1:] == first[:-1]
    # With updates paused, the page stays as it is.
    board.button("Pause updates").click()
    board.submit("later")
    board.until(lambda: board.texts("#page-note") == ["Page 1, 50 jobs; 1 newer"])
    assert board.rows()[0][0] == "newcomer"
    board.button("Pause updates").click()
    board.until(lambda: board.rows()[0][0] == "later")
    # Filters apply to jobs that change later, too.
    board.find("[name=function]").send_keys("f3", Keys.ENTER)
    board.until(lambda: {row[0] for row in board.rows()} == {"f3"})
    Select(board.find("[name=runtime]")).select_by_value("one")
    board.until(lambda: {(row[0], row[2]) for row in board.rows()} == {("f3", "one")})
    assert len(board.rows()) == 50
    Select(board.find("[name=status]")).select_by_visible_text("running")
    board.until(lambda: board.texts("#page-note") == ["No jobs"])
    taken = [board.take() for _ in range(4)]
    board.until(lambda: [row[:3] for row in board.rows()] == [["f3", "running", "one"]])
    board.module("POST", f"/results/{taken[3]}", b"")
    board.until(lambda: board.rows() == [])
    assert board.js("return window.longest") < 2000


def test_a_page_that_its_filter_empties_is_filled_again(board: Board) -> None:
    flood(board, [f"f{n}" for n in range(120)], "one")
    board.open()
    Select(board.find("[name=status]")).select_by_visible_text("queued")
    board.until(lambda: board.texts("#page-note") == ["Page 1, 50 jobs"])
    top = [job["job_id"] for job in json.loads(board.call("GET", "/jobs?limit=20"))["jobs"]]
    for job_id in top:
        token = {"Authorization": "Bearer test_token_admin"}
        path = f"/contour-backend-multiplexer/api/module-group-multiplexer/jobs/{job_id}"
        urlopen(Request(board.url + path, headers=token, method="DELETE")).close()
    board.until(lambda: [row[0] for row in board.rows()] == [f"f{n}" for n in range(99, 49, -1)])
