"""A browser with the dashboard in it, and the emulator that it shows."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import RUNTIMES, SEED, Server
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

BASE = "/_emulate/foundry/compute-modules"


DASHBOARD_SEED = SEED.replace("app-token: {login: jane}", "test_token_admin: {login: jane}").replace(
    "poll_timeout: 30\n", "poll_timeout: 0.5\n    job_lease: 60\n"
)

#: Runtime one serves a deployed app on two branches, and runtime two none that is active.
SEED_OF_APPS = DASHBOARD_SEED.replace(
    "{deployed_app_rid: ri.two, runtime_id: two, branch: dev}",
    "{deployed_app_rid: ri.one, runtime_id: one, branch: 'it''s \"dev\"'}",
)


@contextmanager
def run_chromium(profile: Path, whole: bool = False, **variables: str) -> Iterator[webdriver.Chrome]:
    """Run a browser.

    Args:
        profile: Where the browser keeps its data.
        whole: Whether it is the program that users have. By default it is the same engine without tabs that can be
            hidden and without the clipboard of the system. That takes a third of the CPU.
        variables: Variables of the browser's environment.
    """
    name = "chromium" if whole else "chromium-headless-shell"
    chromium, driver = shutil.which(name), shutil.which("chromedriver")
    assert chromium is not None and driver is not None, f"install {name} and chromium-driver; bin/test does"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    if not whole:
        options.set_capability("browserName", "chrome-headless-shell")
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1300,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The driver is on this machine, so no proxy is on the way to it.
    environment = {**os.environ, "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost", **variables}
    started = webdriver.Chrome(options=options, service=Service(driver, env=environment))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with run_chromium(tmp_path_factory.mktemp("chromium") / "profile") as started:
        yield started


@pytest.fixture(scope="session")
def whole_chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with run_chromium(tmp_path_factory.mktemp("chromium") / "profile", whole=True) as started:
        yield started


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[webdriver.Chrome]:
    """Open a tab in a browser that other tests have used. What they have emulated or stored in their tabs is gone."""
    whole = request.node.get_closest_marker("whole_browser") is not None
    chromium: webdriver.Chrome = request.getfixturevalue("whole_chromium" if whole else "chromium")
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    yield chromium
    chromium.close()
    chromium.switch_to.window(first)


class Board:
    """A dashboard in a browser, and the emulator that it shows.

    Attributes:
        server: The process of the emulator.
    """

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
        """Poll as runtime one, and return the id of the job."""
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
        """Return the visible button with a text."""
        (found,) = [each for each, shown in self.visible(f"{within} button") if shown.strip() == text]
        return found

    def visible(self, selector: str) -> list[tuple[WebElement, str]]:
        """Return all matching elements that are visible, each with its text, read in one step.

        Selenium's own text of an element takes the browser a hundred times as long.
        """
        found: list[tuple[WebElement, str]] = self.js(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(each => each.checkVisibility()).map(each => [each, each.innerText])",
            selector,
        )
        return found

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all matching elements, read in one step so that they belong together."""
        found: list[str] = self.js(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector
        )
        return found

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        try:
            return WebDriverWait(self.browser, seconds, seconds / 200).until(lambda _: condition())
        except Exception as error:
            raise AssertionError(f"The condition never became true. The page shows {self.texts('body')}") from error

    def rows(self) -> list[list[str]]:
        """Return the cells of the table of jobs, read in one step."""
        found: list[list[str]] = self.js(
            "return [...document.querySelectorAll('#rows tr')].map(row => [...row.cells].map(c => c.innerText))"
        )
        return found

    def open_story(self, index: int = 0) -> None:
        self.until(lambda: len(self.all("#rows tr")) > index)
        self.all("#rows button")[index].click()
        self.until(lambda: self.texts("#story h2 .badge"))

    def label(self, text: str, within: str = "dialog[open]") -> WebElement:
        """Return the field with a label."""
        for label, shown in self.visible(f"{within} label"):
            if shown.partition("\n")[0].removesuffix("optional").strip() == text:
                return self.find(f"#{label.get_attribute('for')}")
        raise AssertionError(f"No field has the label {text}: {self.texts(f'{within} label')}")

    def errors(self) -> list[str]:
        return [each["message"] for each in self.browser.get_log("browser") if each["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def dashboard_server(tmp_path_factory: pytest.TempPathFactory, state_dir: Path) -> Iterator[Server]:
    # Nobody reads its log, and a line for each of thousands of jobs would fill the pipe.
    started = Server(tmp_path_factory.mktemp("shared"), state_dir, "--log-level", "warn", seed=DASHBOARD_SEED)
    yield started
    started.stop()


@pytest.fixture
def board(
    request: pytest.FixtureRequest, browser: webdriver.Chrome, dashboard_server: Server, tmp_path: Path, state_dir: Path
) -> Iterator[Board]:
    """Open no page yet; a parameter is the seed of a server of its own.

    The seed has the development token, so the page signs in by itself.
    """
    seed = getattr(request, "param", None)
    server = dashboard_server if seed is None else Server(tmp_path, state_dir, seed=seed)
    made = Board(browser, server.urls["http"])
    made.server = server
    made.call("POST", "/reset")
    made.errors()
    try:
        yield made
        # The browser reports failed requests and violations of the content security policy.
        assert made.errors() == []
    finally:
        browser.get("about:blank")
        if server is not dashboard_server:
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


def flood(board: Board, functions: list[str], runtime: str) -> None:
    """Submit many jobs over one connection."""
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
