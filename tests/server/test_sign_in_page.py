"""The page on which users sign in, and who may send its form."""

from __future__ import annotations

import json
from html import escape
from urllib.parse import urlencode

import pytest
import pytest_twisted
from conftest import Harness, make_harness
from server.sign_in_steps import AUTHORIZE, CURRENT, ME, REDIRECT, TOKEN, Answer, Application, query_of


@pytest_twisted.ensureDeferred
async def test_the_page_is_text_and_may_not_be_framed_or_kept(public: Application) -> None:
    for answer in (await public.page(), await public.page(client_id="none")):
        assert answer.header("Cache-Control") == "no-store"
        assert answer.header("X-Content-Type-Options") == "nosniff"
        policy = answer.header("Content-Security-Policy")
        for part in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert part in policy
        assert "script" not in policy and "unsafe" not in policy
        assert "<script" not in answer.text
    assert "form-action 'self' http://localhost:8080;" in (await public.page()).header("Content-Security-Policy")
    redirected = await public.choose(await public.page(), "jane")
    assert redirected.header("Referrer-Policy") == "no-referrer"


def shared(answer: Answer) -> list[str]:
    """Return the names of the headers by which a page of another origin may read an answer."""
    names = [name.decode("ascii") for name, _ in answer.headers.getAllRawHeaders()]
    return [name for name in names if name.lower().startswith("access-control-")]


HOSTILE = [
    '"><script>alert(1)</script>',
    "'; DROP",
    "&lt;b&gt;",
    "\N{RIGHT-TO-LEFT OVERRIDE}evil",
    "a\r\nSet-Cookie: b",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest_twisted.ensureDeferred
async def test_hostile_names_and_states_stay_text(text: str) -> None:
    client_id = f"{text} client"
    client = {"client_id": client_id, "name": text, "redirect_uris": [REDIRECT]}
    user = {"username": text, "given_name": text, "email": text}
    harness = make_harness(json.dumps({"foundry": {"users": [user], "oauth_clients": [client]}}))
    try:
        application = Application(harness, client_id)
        shown = await application.page(state=text, scope="read")
        assert list(shown.users) == [text]
        assert shown.text.count(f"<bdi>{escape(text)}</bdi>") == 3
        assert "<script" not in shown.text
        redirected = await application.choose(shown, text)
        assert not redirected.headers.hasHeader("Set-Cookie")
        assert redirected.told["state"] == text
        tokens = (await application.redeem(redirected.told["code"])).json
        assert await application.owner(tokens["access_token"]) == text
        for changes in ({"redirect_uri": text}, {"client_id": text}):
            refused = await application.page(**changes)
            assert (refused.status, "<script" in refused.text) == (400, False)
    finally:
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()


@pytest_twisted.ensureDeferred
async def test_only_a_page_of_the_emulator_is_answered(emulators: list[Harness], public: Application) -> None:
    shown = await public.page()
    user = {"user": shown.users["jane"]}
    content, mac = shown.sealed.split(".")
    foreign = Application(emulators[0], "other")
    for sealed in (
        "",
        "x",
        content,
        f"{content}.",
        f"{content}.{mac[:-1]}",
        f"A{content}.{mac}",
        f".{mac}",
        "\xe9.\xe9",
    ):
        answer = await public.ask("POST", AUTHORIZE, {"request": sealed, **user})
        assert (answer.status, answer.headers.hasHeader("Location")) == (400, False), sealed
    other = (await foreign.page()).sealed.split(".")[1]
    assert (await public.ask("POST", AUTHORIZE, {"request": f"{content}.{other}", **user})).status == 400
    for user_id in ("", "x", "jane"):
        answer = await public.ask("POST", AUTHORIZE, {"request": shown.sealed, "user": user_id})
        assert (answer.status, answer.headers.hasHeader("Location")) == (400, False), user_id
    assert (await public.ask("POST", AUTHORIZE, {"request": shown.sealed})).status == 400
    twice = urlencode([("request", shown.sealed), ("request", "x")])
    assert (await public.harness.call("POST", AUTHORIZE, twice.encode()))[0] == 400


@pytest_twisted.ensureDeferred
async def test_a_form_that_is_sent_again_gives_another_code_to_the_same_client_only(public: Application) -> None:
    shown = await public.page()
    first, second = [await public.choose(shown, "jane") for _ in range(2)]
    assert first.told["code"] != second.told["code"]
    assert first.target == second.target == REDIRECT
    for redirected in (first, second):
        code = redirected.told["code"]
        assert (await Application(public.harness, "other").redeem(code)).error == (400, "invalid_grant")
        assert (await public.redeem(code, code_verifier="w" * 43)).error == (400, "invalid_grant")
        assert (await public.redeem(code)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://app.example"},
        {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"},
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_cannot_send_the_form(public: Application, headers: dict[str, str]) -> None:
    shown = await public.page()
    form = {"request": shown.sealed, "user": shown.users["jane"]}
    answer = await public.ask("POST", AUTHORIZE, form, **headers)
    assert (answer.status, answer.headers.hasHeader("Location")) == (403, False)
    assert shared(answer) == []
    if "app.example" in headers.get("Origin", ""):
        assert "--cors-origin" not in answer.text


@pytest_twisted.ensureDeferred
async def test_no_script_of_another_origin_can_read_the_page(public: Application) -> None:
    """A script that reads the request in the page could answer it in place of the user."""
    allowed = {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"}
    assert shared(await public.ask("GET", "/openapi.json", **allowed)) != []
    query = urlencode({"client_id": "page", "redirect_uri": REDIRECT, "response_type": "code"})
    for method in ("GET", "HEAD"):
        answer = await public.ask(method, f"{AUTHORIZE}?{query}", **allowed)
        assert (answer.status, shared(answer)) == (303, [])
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    preflight = await public.ask("OPTIONS", AUTHORIZE, **allowed, **asked)
    assert (preflight.status, shared(preflight)) == (403, [])
    oauth2, page = AUTHORIZE.rsplit("/", 1)
    spelled = [f"{oauth2}/authoriz%65", f"{oauth2}//{page}", f"{AUTHORIZE}/", f"{oauth2}/./{page}", f"{AUTHORIZE};"]
    for path in (*spelled, f"/{AUTHORIZE}", f"//{AUTHORIZE}", f"{AUTHORIZE}?", f"{AUTHORIZE}#"):
        for method in ("GET", "POST"):
            answer = await public.ask(method, path, {} if method == "POST" else None, **allowed)
            assert answer.status == 404 or (answer.status in (400, 403) and shared(answer) == []), path


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_can_lead_to_the_page(public: Application) -> None:
    query = urlencode({"client_id": "page", "redirect_uri": REDIRECT, "response_type": "code"})
    for headers in ({}, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}):
        answer = await public.ask("GET", f"{AUTHORIZE}?{query}", **headers)
        assert query_of(answer.header("Location"))["error"] == "invalid_request"


@pytest_twisted.ensureDeferred
async def test_an_application_on_an_allowed_origin_may_call(public: Application) -> None:
    origin = {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"}
    code = await public.code()
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, **public.client}
    wrong = await public.ask("POST", TOKEN, form, **origin)
    right = await public.ask("POST", TOKEN, {**form, "code_verifier": "v" * 43}, **origin)
    assert (wrong.status, right.status) == (400, 200)
    bearer = {"Authorization": f"Bearer {right.json['access_token']}"}
    answers: list[Answer] = [wrong, right]
    for path in (CURRENT, ME):
        asked = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "authorization"}
        preflight = await public.ask("OPTIONS", path, **origin, **asked)
        assert preflight.status == 204
        assert "Authorization" in preflight.header("Access-Control-Allow-Headers")
        answers.append(await public.ask("GET", path, **origin, **bearer))
        assert answers[-1].json["username"] == "jane"
    assert {each.header("Access-Control-Allow-Origin") for each in answers} == {"https://app.example"}
    assert (await public.ask("POST", TOKEN, form, Origin="https://evil.example")).status == 403
