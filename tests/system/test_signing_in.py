"""Sign users in with the unmodified official clients: the Python SDK, and ``@osdk/oauth`` in a browser."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SEED, Server
from page_in_browser import PageInBrowser
from sdk_processes import SDK_PYTHON
from selenium import webdriver
from server.dashboard_fixtures import browser, chromium

__all__ = ["browser", "chromium"]

TYPESCRIPT = ROOT / "tests" / "sdk" / "typescript"

SIGN_IN_SEED = SEED.replace(
    "foundry:\n",
    "foundry:\n"
    "  users:\n"
    "    - {username: jane, given_name: Jane, family_name: Doe, email: jane@example.com}\n"
    "    - {username: jim}\n"
    "  oauth_clients:\n"
    "    - {client_id: app, client_secret: secret, scopes: ['api:admin-read']}\n"
    "    - {client_id: page, scopes: ['api:admin-read'], redirect_uris: ['ORIGIN/auth/callback']}\n",
)


def test_the_python_sdk_signs_users_in(tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir, seed=SIGN_IN_SEED.replace("ORIGIN", "http://localhost:8080"))
    try:
        environment = {**server.environment, "CA": str(state_dir / "ca.pem"), "URL": server.urls["https"]}
        script = str(ROOT / "tests" / "sdk" / "sign_in.py")
        done = subprocess.run(
            [SDK_PYTHON, script], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "jane Jane Doe jane@example.com ACTIVE",
            "jane Jane Doe jane@example.com ACTIVE",
            "400 invalid_grant",
            "UnauthorizedError",
            "jim None None None ACTIVE",
            "None",
            "401",
            "app None None None ACTIVE",
        ]
    finally:
        server.stop()


# In a browser


class _Pages(SimpleHTTPRequestHandler):
    """Serves the files of an application, and its page for every path that has no file."""

    def send_head(self) -> Any:
        if not Path(self.translate_path(self.path)).is_file():
            self.path = "/index.html"
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle the application as its developers do."""
    directory = tmp_path_factory.mktemp("application") / "built"
    command = ["node", "node_modules/vite/bin/vite.js", "build", "page", "--outDir", str(directory)]
    done = subprocess.run([*command, "--emptyOutDir", "--target", "esnext"], cwd=TYPESCRIPT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return directory


@pytest.fixture
def origin(built: Path) -> Iterator[str]:
    """Serve the application; return its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pages, directory=str(built))) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        yield f"http://localhost:{pages.server_port}"
        pages.shutdown()
        thread.join()


class SignedIn(PageInBrowser):
    """The application in a browser."""

    def shown(self) -> Any:
        """Wait for what the application shows, and take it away."""

        def take() -> Any:
            return self.browser.execute_script(
                "const shown = document.querySelector('#shown'); const text = shown?.textContent;"
                " if (text) shown.textContent = ''; return text"
            )

        return json.loads(self.until(take))

    def forget_page(self) -> None:
        """Do as if the page were in a new tab: after a sign-out, the client takes the old verifier for a new one."""
        self.browser.execute_script("sessionStorage.clear()")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["same site", "another site"])
def test_osdk_signs_users_in_in_a_browser(
    browser: webdriver.Chrome, origin: str, built: Path, tmp_path: Path, state_dir: Path, host: str
) -> None:
    server = Server(tmp_path, state_dir, "--cors-origin", origin, seed=SIGN_IN_SEED.replace("ORIGIN", origin))
    url = server.urls["http"].replace("127.0.0.1", host)
    (built / "config.json").write_text(json.dumps({"url": url, "clientId": "page"}))
    application = SignedIn(browser, origin)
    try:
        browser.get(origin)
        assert application.shown() == "nobody"
        application.click("#sign-in")
        application.choose("Jane Doe")
        signed_in = application.shown()
        assert signed_in["user"]["username"] == "jane"
        assert signed_in["user"]["email"] == "jane@example.com"
        application.until(lambda: browser.current_url == origin + "/")
        application.click("#refresh")
        refreshed = application.shown()
        assert (refreshed["user"]["givenName"], refreshed["refreshed"]) == ("Jane", True)
        # The refresh token is in the storage of the browser.
        browser.refresh()
        assert application.shown()["user"]["username"] == "jane"
        stored = browser.execute_script("return JSON.stringify({...localStorage})")
        application.click("#sign-out")
        assert application.shown() == {"signedOut": 401, "left": []}
        # A refresh token that was copied before has ended, too, so that the user has to sign in again.
        application.forget_page()
        browser.execute_script("Object.assign(localStorage, JSON.parse(arguments[0]))", stored)
        browser.get(origin)
        application.choose("jim")
        assert application.shown()["user"]["username"] == "jim"
        application.click("#sign-out")
        assert application.shown()["signedOut"] == 401
        application.forget_page()
        application.click("#sign-in")
        application.choose("Cancel")
        assert application.shown()["why"] == "access_denied"
        log = [each["message"] for each in browser.get_log("browser") if each["source"] != "network"]
        # The browser reports violations of the content security policy, and answers that it may not read.
        assert [message for message in log if "security" in message.lower() or "cors" in message.lower()] == []
    finally:
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        browser.get("about:blank")
        server.stop()
