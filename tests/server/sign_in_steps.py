"""The steps of an application that signs a user in, over a socket."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from attrs import field, frozen
from conftest import SEED, Harness

REDIRECT = "http://localhost:8080/callback?from=foundry"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()

SIGN_IN_SEED = SEED.replace(
    "foundry:\n",
    "foundry:\n"
    "  users:\n"
    "    - {username: jane, given_name: Jane, family_name: Doe, email: jane@example.com, organization_rid: ri.o}\n"
    "    - {username: joe, active: false}\n"
    "    - {username: bot, principal_type: service}\n"
    "    - {username: jim, id: 1f0e9d8c-7b6a-4958-8476-655443322110, attributes: {team: [a, b]}}\n"
    "  oauth_clients:\n"
    f"    - {{client_id: page, name: My page, redirect_uris: ['{REDIRECT}', 'my.app:/done'], token_lifetime: 100}}\n"
    f"    - {{client_id: other, redirect_uris: ['{REDIRECT}']}}\n"
    f"    - {{client_id: site, client_secret: secret, redirect_uris: ['{REDIRECT}'], scopes: [read, write]}}\n"
    f"    - {{client_id: brief, redirect_uris: ['{REDIRECT}'], grant_types: [authorization_code]}}\n"
    f"    - {{client_id: machine, client_secret: s, redirect_uris: ['{REDIRECT}'],"
    " grant_types: [client_credentials]}\n",
)

AUTHORIZE, TOKEN, REVOKE = (f"/multipass/api/oauth2/{name}" for name in ("authorize", "token", "revoke_token"))
ME = "/multipass/api/me"
CURRENT = "/api/v2/admin/users/getCurrent"


@frozen
class Answer:
    """An answer of the emulator."""

    status: int
    text: str
    headers: Any = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str]:
        return self.status, self.json["error"]

    def header(self, name: str) -> str:
        (value,) = self.headers.getRawHeaders(name)
        found: str = value
        return found

    @property
    def target(self) -> str:
        """Where a redirect leads, without what it adds to the query."""
        return re.split(r"[?&](?=code=|error=)", self.header("Location"))[0]

    @property
    def told(self) -> dict[str, str]:
        """What a redirect adds to the query."""
        added = self.header("Location").removeprefix(self.target)[1:]
        return dict(parse_qsl(added, keep_blank_values=True, strict_parsing=True))

    @property
    def users(self) -> dict[str, str]:
        """The ids of the users on the page, by their names."""
        found = re.findall(r'value="([^"]*)"><bdi>.*?</bdi><small><bdi>(.*?)</bdi></small>', self.text, re.DOTALL)
        return {unescape(name): user_id for user_id, name in found}

    @property
    def sealed(self) -> str:
        """The client's request, as the form of the page carries it."""
        found = re.search(r'name="request" value="([^"]*)"', self.text)
        assert found is not None, self.text
        return unescape(found[1])


class Application:
    """An application with a client of the seed.

    Attributes:
        harness: The emulator that the next request goes to.
    """

    def __init__(self, harness: Harness, client_id: str = "page", secret: str | None = None) -> None:
        self.harness = harness
        self.client = {"client_id": client_id, **({} if secret is None else {"client_secret": secret})}

    async def ask(self, method: str, path: str, form: Any = None, **headers: str) -> Answer:
        """Send a request; a redirect is not followed."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            form = urlencode(form).encode()
        url = self.harness.service.addresses.http + path
        response = await self.harness.http.request(method, url, headers=sent, data=form, allow_redirects=False)
        return Answer(response.code, (await response.content()).decode(), response.headers)

    async def page(self, **changes: Any) -> Answer:
        """Ask for the page for signing in; ``None`` leaves a field out."""
        fields: dict[str, Any] = {
            "client_id": self.client["client_id"],
            "redirect_uri": REDIRECT,
            "response_type": "code",
            "state": "a state",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changes,
        }
        query = urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)
        return await self.ask("GET", f"{AUTHORIZE}?{query}")

    async def choose(self, page: Answer, username: str, **form: str) -> Answer:
        """Choose a user on the page."""
        return await self.send(page, user=page.users[username], **form)

    async def send(self, page: Answer, **form: str) -> Answer:
        """Send the form of the page."""
        origin = self.harness.service.addresses.http or ""
        sent = {"request": page.sealed, **form}
        return await self.ask("POST", AUTHORIZE, sent, Origin=origin, Sec_Fetch_Site="same-origin")

    async def code(self, username: str = "jane", **changes: Any) -> str:
        """Sign a user in, and return the code."""
        redirected = await self.choose(await self.page(**changes), username)
        assert redirected.status == 303, redirected.text
        return redirected.told["code"]

    async def redeem(self, code: str, /, **changes: Any) -> Answer:
        """Redeem a code; ``None`` leaves a field out."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT,
            "code_verifier": VERIFIER,
            **self.client,
            **changes,
        }
        return await self.ask("POST", TOKEN, {name: value for name, value in form.items() if value is not None})

    async def sign_in(self, username: str = "jane", **changes: Any) -> Any:
        """Sign a user in, and return the tokens."""
        answer = await self.redeem(await self.code(username, **changes))
        assert answer.status == 200, answer.text
        return answer.json

    async def refresh(self, refresh_token: str, **changes: str) -> Answer:
        """Use a refresh token."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, **self.client, **changes}
        return await self.ask("POST", TOKEN, form)

    async def revoke(self, token: str) -> Answer:
        """Revoke a token."""
        return await self.ask("POST", REVOKE, {"token": token, **self.client})

    async def owner(self, token: str) -> str | None:
        """Return the name of the owner of a bearer token, or ``None`` if the token is not valid."""
        answer = await self.ask("GET", CURRENT, Authorization=f"Bearer {token}")
        username: str | None = answer.json["username"] if answer.status == 200 else None
        return username


def query_of(url: str) -> dict[str, str]:
    """Return the fields of a URL's query."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


@pytest.fixture
def emulators(start_anywhere: Callable[..., Harness], request: pytest.FixtureRequest) -> list[Harness]:
    """Start an emulator in memory, or two on a Redis."""
    first = start_anywhere(seed=SIGN_IN_SEED, cors_origins=("https://app.example",))
    two = request.node.callspec.params["start_anywhere"] == "redis"
    return [first, start_anywhere(seed=SIGN_IN_SEED) if two else first]


@pytest.fixture
def public(emulators: list[Harness]) -> Application:
    """Provide an application without a secret."""
    return Application(emulators[0])


@pytest.fixture
def confidential(emulators: list[Harness]) -> Application:
    """Provide an application with a secret."""
    return Application(emulators[0], "site", "secret")
