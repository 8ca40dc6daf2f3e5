"""How the dashboard is served."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import pytest_twisted
from conftest import ROOT, Harness
from server.dashboard_fixtures import BASE, Board


@pytest_twisted.ensureDeferred
async def test_the_page_is_open_and_its_files_are_never_stale(harness: Harness) -> None:
    for path, content_type in (
        ("/", "text/html; charset=utf-8"),
        ("/dashboard/main.js", "text/javascript; charset=utf-8"),
        ("/dashboard/style.css", "text/css; charset=utf-8"),
        ("/dashboard/icon.svg", "image/svg+xml"),
    ):
        status, content, headers = await harness.call("GET", BASE + path)
        name = path.rpartition("/")[2] or "index.html"
        assert (status, content) == (200, (ROOT / "twisted_cm/server/dashboard" / name).read_bytes())
        assert headers.getRawHeaders("Content-Type") == [content_type]
        assert headers.getRawHeaders("Cache-Control") == ["no-cache"]
        (tag,) = headers.getRawHeaders("ETag")
        status, content, headers = await harness.call("GET", BASE + path, If_None_Match=tag)
        assert (status, content) == (304, b"")
        status, content, _ = await harness.call("GET", BASE + path, If_None_Match='"of another version"')
        assert (status, content) == (200, (ROOT / "twisted_cm/server/dashboard" / name).read_bytes())


@pytest_twisted.ensureDeferred
async def test_nothing_but_its_own_files_may_run_on_the_page(harness: Harness) -> None:
    for path in ("/", "/dashboard/main.js", "/dashboard/icon.svg"):
        _, _, headers = await harness.call("GET", BASE + path)
        (policy,) = headers.getRawHeaders("Content-Security-Policy")
        directives = dict(each.split(" ", 1) for each in policy.split("; "))
        assert directives["default-src"] == "'none'"
        for kind in ("script-src", "style-src", "connect-src", "img-src"):
            assert directives[kind] == "'self'"
        for kind in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
            assert directives[kind] == "'none'"
        assert headers.getRawHeaders("X-Content-Type-Options") == ["nosniff"]
        assert headers.getRawHeaders("Referrer-Policy") == ["no-referrer"]


@pytest_twisted.ensureDeferred
async def test_what_is_no_file_of_the_page_is_not_served(harness: Harness) -> None:
    for name in ("none.js", "..%2Fschemas%2Fseed.json", "%2E%2E", "%2Fetc%2Fpasswd"):
        status, answer, _ = await harness.call("GET", f"{BASE}/dashboard/{name}")
        assert (status, answer["error"]) == (404, "not_found")


def test_the_banner_names_it(board: Board) -> None:
    assert f"  dashboard: {board.url}{BASE}/\n" in board.server.banner
    # The page also works under another name of this machine: its requests pass the check of their origin.
    board.url = board.url.replace("127.0.0.1", "localhost")
    board.open()
    board.submit()
    board.open_story()
    board.button("Cancel the job").click()
    board.until(lambda: board.texts("#story .badge") == ["canceled"])


def test_the_prefix_leads_to_the_page(board: Board) -> None:
    board.browser.get(board.url + BASE)
    assert board.browser.current_url == f"{board.url}{BASE}/"
    with urlopen(Request(board.url + BASE + "/", method="HEAD")) as answer:
        assert (answer.status, answer.read()) == (200, b"")
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(board.url + BASE + "/", method="PUT"))
    assert refused.value.code == 405
