"""The dashboard, in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import pytest_twisted
from conftest import ROOT, RUNTIMES, SEED, Harness, Server, make_harness
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait
from twisted.internet.threads import deferToThread

BASE = "/_emulate/foundry/compute-modules"


# How it is served


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


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    directory = tmp_path_factory.mktemp("chromium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium is not None and driver is not None, "install chromium and chromium-driver; bin/test does"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1300,1000",
        f"--user-data-dir={directory / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # It is beside the emulator: nothing on the way.
    environment = {**os.environ, "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
    started = webdriver.Chrome(options=options, service=Service(driver, env=environment))
    yield started
    started.quit()


class Board:
    """A dashboard in a browser, and the emulator that it is about."""

    server: Server

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self.url = url

    # The emulator

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"Authorization": "Bearer test_token_admin", **{k.replace("_", "-"): v for k, v in headers.items()}}
        with urlopen(Request(self.url + BASE + path, data, sent, method=method), timeout=30) as answer:
            content: bytes = answer.read()
            return content

    def module(self, method: str, path: str, body: Any = None, runtime: str = "one") -> bytes:
        return self.call(method, f"/runtimes/{runtime}{path}", body, Module_Auth_Token=f"token-{runtime}")

    def submit(self, function: str = "f", query: Any = None, runtime: str = "one") -> str:
        answer = self.module("POST", "/jobs", {"queryType": function, "query": query}, runtime)
        job_id: str = json.loads(answer)["job_id"]
        return job_id

    def take(self) -> str:
        """Be the runtime that gets the next job."""
        job_id: str = json.loads(self.module("GET", "/job"))["computeModuleJobV1"]["jobId"]
        return job_id

    def job(self, job_id: str, runtime: str = "one") -> Any:
        return json.loads(self.call("GET", f"/runtimes/{runtime}/jobs/{job_id}"))["job"]

    # The page

    def open(self) -> Board:
        self.browser.get(self.url + BASE)
        self.until(lambda: self.texts("#connection") == ["Live"])
        return self

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def button(self, text: str, within: str = "body") -> WebElement:
        (found,) = [each for each in self.all(f"{within} button") if each.text == text]
        return found

    def texts(self, selector: str) -> list[str]:
        """At one moment, however much the page changes."""
        found: list[str] = self.js(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector
        )
        return found

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        try:
            return WebDriverWait(self.browser, seconds, 0.02).until(lambda _: condition())
        except Exception as error:
            raise AssertionError(f"never became true; the page says {self.texts('body')}") from error

    def rows(self) -> list[list[str]]:
        """The cells of the rows of jobs, at one moment."""
        found: list[list[str]] = self.js(
            "return [...document.querySelectorAll('#rows tr')].map(row => [...row.cells].map(c => c.innerText))"
        )
        return found

    def open_story(self, index: int = 0) -> None:
        self.until(lambda: len(self.all("#rows tr")) > index)
        self.all("#rows button")[index].click()
        self.until(lambda: self.texts("#story h2 .badge"))

    def label(self, text: str, within: str = "dialog[open]") -> WebElement:
        """The field with that label."""
        for label in self.all(f"{within} label"):
            if label.text.partition("\n")[0].removesuffix("optional").strip() == text:
                return self.find(f"#{label.get_attribute('for')}")
        raise AssertionError(f"{text} labels nothing: {self.texts(f'{within} label')}")

    def errors(self) -> list[str]:
        return [each["message"] for each in self.browser.get_log("browser") if each["level"] == "SEVERE"]


DASHBOARD_SEED = SEED.replace("app-token: {login: jane}", "test_token_admin: {login: jane}").replace(
    "poll_timeout: 30\n", "poll_timeout: 0.5\n    job_lease: 60\n"
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, state_dir: Path) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("shared"), state_dir, seed=DASHBOARD_SEED)
    yield started
    started.stop()


@pytest.fixture
def board(
    request: pytest.FixtureRequest, browser: webdriver.Chrome, shared: Server, tmp_path: Path, state_dir: Path
) -> Iterator[Board]:
    """A dashboard that signs in by itself; its parameter, if it has one, is the seed of a server of its own."""
    seed = getattr(request, "param", None)
    server = shared if seed is None else Server(tmp_path, state_dir, seed=seed)
    made = Board(browser, server.urls["http"])
    made.server = server
    made.call("POST", "/reset")
    made.errors()
    try:
        yield made
        # Nothing went wrong, and nothing was tried that the policy forbids.
        assert made.errors() == []
    finally:
        browser.get("about:blank")
        if server is not shared:
            server.stop()


class Runtime(threading.Thread):
    """Answers the jobs of runtime one until it is stopped."""

    def __init__(self, board: Board, answer: Callable[[Any], bytes]) -> None:
        super().__init__(daemon=True)
        self.board = board
        self.answer = answer
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            polled = self.board.module("GET", "/job")
            if polled:
                job = json.loads(polled)["computeModuleJobV1"]
                self.board.module("POST", f"/results/{job['jobId']}", self.answer(job))

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exception: object) -> None:
        self.stopped = True
        self.join()


def whole(name: str, required: bool = True) -> Any:
    return {"name": name, "required": required, "dataType": {"type": "integer", "integer": {}}, "constraints": []}


ADD = {
    "functionName": "add",
    "description": "Adds numbers.",
    "inputs": [
        whole("a"),
        whole("b"),
        {
            "name": "more",
            "required": True,
            "dataType": {
                "type": "optionalType",
                "optionalType": {"wrappedType": {"type": "list", "list": {"elementsType": whole("")["dataType"]}}},
            },
        },
        {"name": "exact", "required": True, "dataType": {"type": "boolean", "boolean": {}}},
        whole("c", required=False),
    ],
    "output": {"type": "single", "single": {"dataType": {"type": "integer", "integer": {}}}},
}

SEARCH = {
    "functionName": "search",
    "schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to look for"},
            "limit": {"type": "integer", "default": 10},
            "where": {"$ref": "#/$defs/where"},
            "tags": {"type": "object", "additionalProperties": {"type": "number"}},
            "order": {"enum": ["up", "down"]},
        },
        "required": ["text", "where"],
        "$defs": {
            "where": {"type": "object", "properties": {"kind": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
        },
    },
}


def polled_ago(board: Board) -> int:
    """How many seconds ago the first runtime has polled, as the page has it."""
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
    board.until(lambda: board.texts("figure p")[0] == "1 job ended, at most 1 in a second")
    assert board.texts("figure p")[1].startswith("Median ")
    assert len(board.all("rect.bar")) == 1
    # A poll is news, though it finds no job and the runtime is known.
    before = json.loads(board.call("GET", "/runtimes"))[0]["last_poll_at"]
    board.until(lambda: polled_ago(board) >= 4)
    board.module("GET", "/job")
    board.until(lambda: polled_ago(board) < 4)
    assert json.loads(board.call("GET", "/runtimes"))[0]["last_poll_at"] > before


def test_a_job_is_submitted_with_the_form_of_its_function(board: Board) -> None:
    board.module("POST", "/schemas", [ADD, SEARCH])
    board.open()
    board.find("#runtimes summary").click()
    board.until(lambda: board.texts(".functions > li > code"))
    assert board.texts(".functions > li > code") == [
        "add(a: integer, b: integer, more?: list<integer>, exact: boolean, c?: integer) → integer",
        'search(text: string, limit?: integer, where: where, tags?: object, order?: "up" | "down")',
    ]

    def sum_up(job: Any) -> bytes:
        query = job["query"]
        return json.dumps({"sum": query["a"] + query["b"] + sum(query["more"])}).encode()

    with Runtime(board, sum_up):
        board.find("button[aria-label='Run add']").click()
        board.label("a").send_keys("2")
        # What is required is missing: the browser says so, and nothing is sent.
        board.button("Submit", "#submit").click()
        assert board.js("return document.activeElement.matches(':invalid')")
        board.label("b").send_keys("40")
        board.find("#submit legend input").click()
        for number in ("100", "1000", "5"):
            board.button("Add to more").click()
            board.browser.switch_to.active_element.send_keys(number)
        board.all("#submit .one button")[2].click()
        board.label("exact").click()
        board.button("Edit as JSON").click()
        shown = json.loads(board.find("#submit-json").get_property("value"))
        assert shown == {"a": 2, "b": 40, "more": [100, 1000], "exact": True}
        board.button("Edit as a form").click()
        assert board.label("b").get_property("value") == "40"
        board.button("Submit", "#submit").click()
        board.until(lambda: board.texts("#story h2") == ["add\nsucceeded"])
    assert json.loads(board.texts("#story pre")[1]) == {"sum": 1142}
    (job,) = json.loads(board.call("GET", "/jobs"))["jobs"]
    assert board.job(job["job_id"])["query"] == shown


def test_a_json_schema_makes_a_form_too(board: Board) -> None:
    board.module("POST", "/schemas", [SEARCH])
    board.open()
    board.find("#runtimes summary").click()
    board.until(lambda: board.all("button[aria-label='Run search']"))
    board.find("button[aria-label='Run search']").click()
    board.label("text").send_keys("</textarea>")
    assert board.label("limit").get_property("value") == "10"
    board.label("kind").send_keys("k")
    board.find("#submit fieldset fieldset legend input").click()
    board.button("Add to tags").click()
    board.label("Key").send_keys("__proto__")
    board.label("Value").send_keys("12345678901234567890")
    Select(board.label("order")).select_by_visible_text("down")
    board.button("Submit", "#submit").click()
    board.until(lambda: board.texts("#story h2 .badge"))
    (job,) = json.loads(board.call("GET", "/jobs"))["jobs"]
    query = board.job(job["job_id"])["query"]
    assert query == {
        "text": "</textarea>",
        "limit": 10,
        "where": {"kind": "k"},
        "tags": {"__proto__": 12345678901234567890},
        "order": "down",
    }
    assert '"__proto__": 12345678901234567890' in board.texts("#story pre")[0]


def test_json_is_sent_as_it_was_written(board: Board) -> None:
    board.open()
    board.until(lambda: board.all("#runtimes > li > button"))
    board.all("#runtimes > li > button")[1].click()
    board.label("Function").send_keys("any")
    editor = board.label("Query as JSON")
    editor.clear()
    editor.send_keys('{"n": 9007199254740993')
    board.button("Submit", "#submit").click()
    assert "This is not JSON" in board.find("#submit [role=alert]").text
    editor.send_keys("}")
    board.button("Submit", "#submit").click()
    board.until(lambda: board.texts("#story h2 .badge"))
    assert board.texts("#story pre")[0] == '{\n  "n": 9007199254740993\n}'
    (job,) = json.loads(board.call("GET", "/jobs"))["jobs"]
    assert board.job(job["job_id"], "two")["query"] == {"n": 9007199254740993}


@pytest.mark.parametrize("board", [DASHBOARD_SEED + "    validate_queries: true\n"], indirect=True)
def test_a_refused_job_says_why(board: Board) -> None:
    board.module("POST", "/schemas", [ADD])
    board.open()
    board.until(lambda: board.all("#runtimes > li > button"))
    board.all("#runtimes > li > button")[0].click()
    board.label("Function").send_keys("add")
    board.button("Submit", "#submit").click()
    board.until(lambda: "'a' is a required property" in board.find("#submit [role=alert]").text)
    (message,) = board.errors()
    assert "400" in message


@pytest.mark.parametrize("board", [DASHBOARD_SEED.replace("job_lease: 60", "job_lease: 0.3")], indirect=True)
def test_a_story_tells_each_attempt(board: Board) -> None:
    board.open()
    job_id = board.submit()
    board.open_story()
    assert board.texts("#story .timeline strong") == ["Queued"]
    board.take()
    # Its lease ends, and it is queued again.
    board.until(lambda: board.texts("#story .timeline strong") == ["Queued", "Dispatched", "Attempt ended"])
    board.take()
    board.module("POST", f"/results/{job_id}", b'{"a": [1, 9007199254740993, "\xc3\xa9"]}')
    board.until(lambda: board.texts("#story .badge") == ["succeeded"])
    steps = board.texts("#story .timeline li")
    assert [step.split("\n")[1] for step in steps] == [
        "Queued", "Dispatched", "Attempt ended", "Dispatched", "Succeeded",
    ]  # fmt: skip
    assert "attempt 1, after" in steps[1] and "attempt 2, after" in steps[3]
    assert "lease" in steps[2] and "in all" in steps[4]
    assert board.texts("#story pre")[1] == '{\n  "a": [\n    1,\n    9007199254740993,\n    "é"\n  ]\n}'


def is_whole(saved: Path) -> bool:
    """A browser takes the name with an empty file, which what it has downloaded replaces when it is all there."""
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


def test_faults_are_set_and_cleared(board: Board) -> None:
    board.open()
    for kind, fill in (
        ("A job fails without a runtime having had it", {"Message": "on purpose", "Times": "1"}),
        ("A poll is answered with an error", {"Probability": "0.5"}),
    ):
        board.find("#add-fault").click()
        Select(board.label("What goes wrong")).select_by_visible_text(kind)
        Select(board.label("Runtime")).select_by_visible_text("one")
        for name, value in fill.items():
            board.label(name).send_keys(value)
        board.button("Set", "#fault").click()
        board.until(lambda: kind in str(board.texts("#faults h3")))  # noqa: B023
    faults = json.loads(board.call("GET", "/faults"))
    assert [(each["kind"], each["runtime_id"]) for each in faults] == [("fail_job", "one"), ("poll_error", "one")]
    assert faults[0]["message"] == "on purpose" and faults[1]["probability"] == 0.5
    board.submit()
    board.until(lambda: board.rows() and board.rows()[0][1] == "failed")
    board.until(lambda: "Has struck 1 time of 1, and will no more" in board.texts("#faults li")[0])
    board.open_story()
    assert "on purpose" in board.texts("#story .timeline")[0]
    board.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    board.find("#faults button[aria-label='Clear fail_job']").click()
    board.until(lambda: len(board.all("#faults li")) == 1)
    board.button("Clear all").click()
    board.until(lambda: board.texts("#faults-note") == ["Nothing goes wrong on purpose."])
    assert json.loads(board.call("GET", "/faults")) == []


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


def flood(board: Board, functions: list[str], runtime: str) -> None:
    """Submit many jobs at once over one connection."""
    address = board.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((address[0], int(address[2]))) as client:
        for at in range(0, len(functions), 100):
            requests = b""
            for function in functions[at : at + 100]:
                body = json.dumps({"queryType": function}).encode()
                requests += (
                    f"POST {RUNTIMES}/{runtime}/jobs HTTP/1.1\r\nHost: localhost\r\n"
                    f"Module-Auth-Token: token-{runtime}\r\nContent-Length: {len(body)}\r\n\r\n"
                ).encode() + body
            client.sendall(requests)
            wanted = len(functions[at : at + 100])
            received = b""
            while received.count(b"HTTP/1.1 201") < wanted or not received.endswith(b"}"):
                data = client.recv(1 << 20)
                assert data
                received += data


#: Keeps the longest time that the page was not drawn.
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
    # A new job moves nothing here.
    shown = board.rows()
    board.submit("newcomer")
    board.until(lambda: board.texts("#page-note") == ["Page 4, 50 jobs; 1 newer"])
    assert board.rows() == shown
    board.button("Newer").click()
    board.until(lambda: board.texts("#page-note")[0].startswith("Page 3"))
    board.button("Newest").click()
    board.until(lambda: board.rows()[0][0] == "newcomer")
    assert board.rows()[1:] == first[:-1]
    # Held still, the page waits to be let go.
    board.button("Hold still").click()
    board.submit("later")
    board.until(lambda: board.texts("#page-note") == ["Page 1, 50 jobs; 1 newer"])
    assert board.rows()[0][0] == "newcomer"
    board.button("Hold still").click()
    board.until(lambda: board.rows()[0][0] == "later")
    # Filters, with what happens meanwhile.
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


def test_it_asks_for_a_token_where_it_has_none(browser: webdriver.Chrome, tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir)
    board = Board(browser, server.urls["http"])
    try:
        browser.get(board.url + BASE)
        board.until(lambda: board.find("#sign-in").is_displayed())
        assert not board.find("#board").is_displayed()
        assert "twisted-cm serve prints" in board.find("#sign-in").text
        assert "missing, unknown or expired" in board.find("#sign-in [role=alert]").text
        assert ["401" in each for each in board.errors()] == [True]
        field = browser.switch_to.active_element
        assert field.accessible_name == "Bearer token"
        field.send_keys("wrong", Keys.ENTER)
        board.until(lambda: ["401" in each for each in board.errors()] == [True])
        assert not board.find("#board").is_displayed()
        field.clear()
        field.send_keys("app-token", Keys.ENTER)
        board.until(lambda: board.texts("#connection") == ["Live"])
        # The tab keeps it, and forgets it when asked to.
        browser.refresh()
        board.until(lambda: board.texts("#connection") == ["Live"])
        board.button("Sign out").click()
        assert board.find("#sign-in").is_displayed()
        assert board.js("return sessionStorage.length") == 0
        assert board.errors() == []
    finally:
        browser.get("about:blank")
        server.stop()


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
            ("app-token", "Only the admin token may do this."),
            ("boss", "Nothing goes wrong on purpose."),
        ):
            board.until(lambda: board.find("#sign-in").is_displayed())
            board.find("#token").send_keys(token, Keys.ENTER)
            board.until(lambda: board.texts("#faults-note") == [says])  # noqa: B023
            board.button("Sign out").click()
        # The token that is tried first, and one question about faults.
        assert [re.findall(r"status of (\d+)", each) for each in board.errors()] == [["401"], ["403"]]

    try:
        await deferToThread(look)
    finally:
        await deferToThread(browser.get, "about:blank")
        await guarded.service.stopService()


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
        # Each was one that could not connect.
        assert all("ERR_" in each for each in board.errors())
    finally:
        board.browser.get("about:blank")
        again.stop()


def test_many_tabs_do_not_lock_each_other_out(board: Board) -> None:
    first = board.browser.current_window_handle
    board.open()
    try:
        # A browser has six connections to one server, and the events would hold one each.
        for _ in range(7):
            board.browser.switch_to.new_window("tab")
            board.open()
        job_id = board.submit("meanwhile")
        board.take()
        board.module("POST", f"/results/{job_id}", b"")
        board.until(lambda: [row[:2] for row in board.rows()] == [["meanwhile", "succeeded"]])
    finally:
        for handle in set(board.browser.window_handles) - {first}:
            board.browser.switch_to.window(handle)
            board.browser.close()
        board.browser.switch_to.window(first)
    board.until(lambda: [row[:2] for row in board.rows()] == [["meanwhile", "succeeded"]])
    board.until(lambda: board.texts("figure p")[0] == "1 job ended, at most 1 in a second")


#: What would run if it were put on the page as more than text.
HOSTILE = [
    "<script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1">',
    "javascript:window.pwned=1//'\"><svg onload=window.pwned=1>",
]


@pytest.mark.parametrize("payload", HOSTILE)
def test_what_is_in_a_job_is_text(board: Board, payload: str) -> None:
    session = json.loads(
        board.call(
            "POST", "/runtimes", {"runtimeId": payload, "deployedAppRid": f"ri.{payload}", "displayName": payload}
        )
    )

    def module(method: str, uri: str, body: Any = None) -> bytes:
        return board.call(
            method,
            uri.removeprefix(board.url + BASE),
            body,
            Module_Auth_Token=session["moduleAuthToken"],
            Content_Type=f"text/html;{payload}",
        )

    schema = {"functionName": payload, "description": payload, "inputs": [whole(payload)], "output": ADD["output"]}
    module("POST", session["postSchemaUri"], [schema])
    jobs = session["getJobUri"] + "s"
    board.open()
    job_id = json.loads(module("POST", jobs, {"queryType": payload, "query": {payload: payload}}))["job_id"]
    board.until(lambda: board.rows())
    assert board.rows()[0][0::2][:2] == [payload, payload]
    module("GET", session["getJobUri"])
    module("POST", f"{session['postResultUri']}/{job_id}", f"<html>{payload}".encode())
    board.until(lambda: board.rows()[0][1] == "succeeded")
    board.open_story()
    board.until(lambda: board.texts("#story .badge") == ["succeeded"])
    query, result = board.texts("#story pre")
    assert json.loads(query) == {payload: payload} and result == f"<html>{payload}"
    board.button("Close", "#story").click()
    fault = {"kind": "fail_job", "message": payload, "function": payload, "runtime_id": payload}
    board.call("POST", "/faults", fault)
    module("POST", jobs, {"queryType": payload, "query": payload})
    board.until(lambda: board.rows()[0][1] == "failed")
    board.open_story()
    assert payload in board.texts("#story .timeline")[0]
    board.button("Close", "#story").click()
    card = next(each for each in board.all("#runtimes > li") if payload in each.text)
    assert card.text.count(payload) == 3
    card.find_element(By.TAG_NAME, "summary").click()
    board.until(lambda: board.texts(".functions > li > code"))
    assert board.texts(".functions > li > code") == [f"{payload}({payload}: integer) → integer"]
    board.find(".functions > li > button").click()
    assert board.label(payload) is not None
    board.button("Close", "#submit").click()
    board.until(lambda: payload in board.texts("#faults")[0])
    assert board.js("return window.pwned") is None
    assert board.js("return [document.images.length, document.scripts.length]") == [0, 1]
    assert board.js("return document.querySelectorAll('[onload], [onerror], iframe').length") == 0


def test_the_keyboard_is_enough(board: Board) -> None:
    board.module("POST", "/schemas", [ADD])
    for n in range(3):
        board.submit(f"f{n}")
    board.open()
    board.until(lambda: len(board.rows()) == 3 and len(board.all("#runtimes > li")) == 2)

    def active() -> WebElement:
        return board.browser.switch_to.active_element

    def press(*keys: str) -> str:
        """Press a key; whatever has the focus then has a name and shows that it has the focus."""
        active().send_keys(*keys)
        outline = board.js("return getComputedStyle(document.activeElement).outline")
        assert "solid 3px" in outline, (outline, active().get_attribute("outerHTML"))
        name = active().accessible_name
        assert name, active().get_attribute("outerHTML")
        return name

    stops = []
    while "f2" not in stops:
        stops.append(press(Keys.TAB))
        assert len(stops) < 40, stops
    assert stops[:2] == ["Skip to the jobs", "Sign out"]
    # The faults are empty, and there is nothing to clear.
    assert stops[2:] == [
        "Functions", "Submit a job…", "Functions", "Submit a job…", "Set a fault…",
        "Runtime", "Function", "Status", "Hold still", "f2",
    ]  # fmt: skip
    assert press(Keys.ARROW_DOWN) == "f1"
    press(Keys.ENTER)
    board.until(lambda: board.texts("#story h2") == ["f1\nqueued"])
    assert active().accessible_name == "Close"
    assert [press(Keys.TAB), press(Keys.TAB)] == ["Cancel the job", "Query"]
    press(Keys.ESCAPE)
    assert not board.find("#story").is_displayed()
    assert active().text == "f1"
    # Back to the first runtime's functions, and run one.
    assert [press(Keys.SHIFT, Keys.TAB) for _ in range(10)] == ["f2", *reversed(stops[2:-1])]
    press(Keys.SPACE)
    board.until(lambda: board.texts(".functions > li > code"))
    assert press(Keys.TAB) == "Run add"
    press(Keys.ENTER)
    assert active().accessible_name == "a"
    active().send_keys("1")
    press(Keys.TAB)
    active().send_keys("2", Keys.ENTER)
    board.until(lambda: board.texts("#story h2") == ["add\nqueued"])
    assert board.find("#announcer").text == "The job is queued"


#: The lowest contrast of any text that can be seen, with that text (WCAG 2, 1.4.3).
LOWEST_CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  throw new Error("nothing is behind it");
};
const ratio = (color, back) => {
  const [low, high] = [luminance(channels(color)), luminance(back)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility() || element.closest(":disabled, svg, .hidden")) continue;
  const style = getComputedStyle(element);
  if (element.placeholder) {
    found.push([ratio(getComputedStyle(element, "::placeholder").color, behind(element)), element.placeholder]);
  }
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (own || element.value) found.push([ratio(style.color, behind(element)), element.textContent]);
}
return [found.length, ...found.sort((a, b) => a[0] - b[0])[0]];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in(board: Board, scheme: str) -> None:
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    board.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    board.module("POST", "/schemas", [ADD])
    board.call("POST", "/faults", {"kind": "fail_job", "function": "bad", "message": "on purpose"})
    for function in ("good", "running", "canceled", "bad", "queued"):
        board.submit(function)
    board.module("POST", f"/results/{board.take()}", b"{}")
    board.take()
    board.open()
    board.until(lambda: len(board.rows()) == 5)
    light = board.js("return getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 247)"
    assert light == (scheme == "light")
    board.all("#rows button")[2].click()
    board.until(lambda: board.texts("#story .badge") == ["canceled"] or board.button("Cancel the job").is_displayed())
    board.button("Cancel the job").click()
    board.until(lambda: {row[1] for row in board.rows()} == {"queued", "running", "succeeded", "failed", "canceled"})
    board.find("#runtimes summary")
    seen = []

    def check() -> None:
        number, lowest, text = board.js(LOWEST_CONTRAST)
        seen.append(number)
        assert lowest >= 4.5, (lowest, text)

    check()
    board.button("Close", "#story").click()
    board.find("#runtimes summary").click()
    board.until(lambda: board.all("button[aria-label='Run add']"))
    check()
    board.find("button[aria-label='Run add']").click()
    check()
    board.button("Close", "#submit").click()
    board.button("Sign out").click()
    check()
    assert min(seen) >= 5 and max(seen) > 80


def test_the_banner_names_it(board: Board) -> None:
    assert f"  dashboard: {board.url}{BASE}/\n" in board.server.banner
    # By a name of this machine, its own requests pass the check of where a request comes from.
    board.url = board.url.replace("127.0.0.1", "localhost")
    board.open()
    board.submit()
    board.open_story()
    board.button("Cancel the job").click()
    board.until(lambda: board.texts("#story .badge") == ["canceled"])


def test_the_prefix_leads_to_the_page(board: Board) -> None:
    board.browser.get(board.url + BASE)
    assert board.browser.current_url == f"{board.url}{BASE}/"
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(board.url + BASE + "/", method="HEAD"))
    assert refused.value.code == 405
