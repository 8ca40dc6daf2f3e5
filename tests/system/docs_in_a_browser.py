"""The page of the documentation that is about a browser: its application runs in one."""

from __future__ import annotations

import socket
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from conftest import free_port, kill
from page_in_browser import PageInBrowser
from selenium.webdriver.common.by import By
from server.dashboard_fixtures import run_chromium
from system.docs_page import Page

#: What the page shows before a user has signed in.
NOBODY = "Nobody is signed in."

CURRENT_USER = "/api/v2/admin/users/getCurrent"

#: Asks for the user without a token; returns the status, or the error of ``fetch``.
ASK = """
    const done = arguments[arguments.length - 1];
    fetch(arguments[0]).then((answer) => done(answer.status), (error) => done(error.message));
"""

#: Takes from the page what it does after each sign-in.
NEVER_CLEAR = "Storage.prototype.clear = () => {}"


class _Application(PageInBrowser):
    """The application of the page in a browser."""

    def shows(self, text: str) -> None:
        self.until(lambda: [each.text for each in self.browser.find_elements(By.TAG_NAME, "output")] == [text])

    def open(self, text: str = NOBODY) -> None:
        """Open the application, and wait for what it shows."""
        self.browser.get(self.origin)
        self.shows(text)

    def sign_in(self, name: str, text: str) -> None:
        self.click("#sign-in")
        self.choose(name)
        self.shows(text)
        assert self.browser.current_url == f"{self.origin}/"

    def ask(self, url: str) -> object:
        return self.browser.execute_async_script(ASK, url + CURRENT_USER)

    def refresh_token(self) -> str:
        """Return what the client keeps of the sign-in."""
        (kept,) = self.browser.execute_script("return Object.values(localStorage)")
        return str(kept)


def play_calling_from_a_browser(page: Page) -> None:
    """Play the page, click on what it tells to click on, and check what it says of origins, tokens and HTTPS."""
    page.ports["5173"] = str(free_port())
    page.copy_node_packages()
    page.use_the_sdk()
    *application, lifetime, trust, https, built = page.blocks
    page.blocks = application
    page.play()
    page.run("twisted-cm wait dev", "the module")
    profile = page.directory.parent / "chromium"
    with run_chromium(profile, HOME=page.environment["HOME"]) as browser:
        shown = _Application(browser, page.moved("http://localhost:5173"))
        shown.open()
        _sign_in_and_out(shown)
        _open_from_another_origin(page, shown)
        _renew(page, shown, lifetime.text)
        lifetime.executed = True
        assert shown.ask(page.moved("https://localhost:4443")) == "Failed to fetch"
    page.run_console(trust)
    for each in (https, built):
        _stop_vite(page)
        page.run_console(each)
        with run_chromium(profile, HOME=page.environment["HOME"]) as browser:
            shown = _Application(browser, shown.origin)
            shown.open()
            shown.sign_in("jim", "You are jim.")
            shown.click("#greet")
            shown.shows("Hello, jim!")
            assert shown.ask(page.moved("https://localhost:4443")) == 401
            shown.click("#sign-out")
            shown.shows(NOBODY)


def _stop_vite(page: Page) -> None:
    """End vite, which is not the process that npx was, and wait until its port is free."""
    kill(page.background.pop())
    for _ in range(600):
        try:
            socket.create_connection(("localhost", int(page.ports["5173"]))).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    raise AssertionError("vite does not end")


def _sign_in_and_out(shown: _Application) -> None:
    browser = shown.browser
    shown.click("#sign-in")
    shown.choose("Cancel")
    shown.shows("Failed to get token: access_denied")
    assert browser.current_url == f"{shown.origin}/"
    shown.sign_in("Jane Doe", "You are Jane.")
    shown.click("#greet")
    shown.shows("Hello, jane!")
    first = shown.refresh_token()
    browser.refresh()
    shown.shows("You are Jane.")
    renewed = shown.refresh_token()
    assert renewed != first

    key = browser.execute_script("return localStorage.key(0)")
    shown.click("#sign-out")
    shown.shows(NOBODY)
    browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, renewed)
    shown.open()

    without = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NEVER_CLEAR})
    shown.sign_in("jim", "You are jim.")
    shown.click("#sign-out")
    shown.shows(NOBODY)
    shown.click("#sign-in")
    shown.until(lambda: browser.find_element(By.TAG_NAME, "output").text not in (NOBODY, ""))
    assert browser.current_url == f"{shown.origin}/"
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", without)
    browser.execute_script("sessionStorage.clear()")
    shown.open()
    for _ in range(2):
        shown.sign_in("jim", "You are jim.")
        shown.click("#sign-out")
        shown.shows(NOBODY)


def _open_from_another_origin(page: Page, shown: _Application) -> None:
    assert shown.ask(page.url) == 401
    other = _Application(shown.browser, shown.origin.replace("localhost", "other.localhost"))
    other.open()
    assert other.ask(page.url) == "Failed to fetch"
    other.click("#sign-in")
    other.until(lambda: other.browser.current_url.startswith(page.moved("http://localhost:4000/multipass/")))
    assert f"{other.origin}/auth/callback" in other.browser.find_element(By.TAG_NAME, "body").text
    execute = f"{page.url}/api/v2/ontologies/ri.ontology.main.ontology.local/queries/greet/execute"
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(execute, b"{}", {"Origin": other.origin}))
    printed = page.run("! npx vite --port 5173 --strictPort", "vite")
    assert page.moved("Port 5173 is already in use") in printed


def _renew(page: Page, shown: _Application, client: str) -> None:
    """Start the emulator again, with tokens that expire soon, and another origin."""
    shown.open()
    shown.sign_in("Jane Doe", "You are Jane.")
    emulator = page.background.pop(0)
    kill(emulator)
    seed = page.directory / "seed.yaml"
    *lines, _ = seed.read_text().splitlines()
    seed.write_text("\n".join([*lines, f"    {page.moved(client).strip()}\n"]))
    other = shown.origin.replace("localhost", "other.localhost")
    origins = f"--cors-origin {shown.origin} --cors-origin {other}"
    page.start(f"twisted-cm dev --state-dir state {origins} -- python app.py")
    page.background.insert(0, page.background.pop())
    page.run("twisted-cm wait dev", "the module")
    shown.browser.refresh()
    shown.shows(NOBODY)
    shown.sign_in("Jane Doe", "You are Jane.")
    first = shown.refresh_token()
    shown.until(lambda: shown.refresh_token() != first)
    shown.click("#greet")
    shown.shows("Hello, jane!")
    shown.click("#sign-out")
    shown.shows(NOBODY)
    another = _Application(shown.browser, other)
    another.open()
    assert another.ask(page.url) == 401
