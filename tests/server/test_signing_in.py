"""Who signs in, and what an application gets, over a socket and on each kind of broker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, Harness, make_harness
from server.sign_in_steps import (
    AUTHORIZE,
    CHALLENGE,
    CURRENT,
    ME,
    REDIRECT,
    SIGN_IN_SEED,
    TOKEN,
    Application,
)
from twisted.internet.defer import Deferred

from twisted_cm.config.seed import parse_seed
from twisted_cm.model.users import user_id_of
from twisted_cm.service import SeedReloader


class Clock:
    """The time by which an emulator's tokens expire."""

    def __init__(self, *harnesses: Harness) -> None:
        self.now = 1_000_000.0
        for harness in harnesses:
            harness.service.credentials.now = lambda: self.now


# The whole way


@pytest_twisted.ensureDeferred
async def test_a_user_signs_in_and_is_shown_as_a_person(public: Application) -> None:
    shown = await public.page(scope="read offline_access")
    assert shown.status == 200
    assert list(shown.users) == ["jane", "jim"]
    assert "My page" in shown.text and "http://localhost:8080" in shown.text and "read, offline_access" in shown.text
    redirected = await public.choose(shown, "jane")
    assert (redirected.status, redirected.target) == (303, REDIRECT)
    assert (redirected.told.keys(), redirected.told["state"]) == ({"code", "state"}, "a state")
    answer = await public.redeem(redirected.told["code"])
    assert (answer.status, answer.header("Cache-Control")) == (200, "no-store")
    tokens = answer.json
    assert tokens.keys() == {"access_token", "refresh_token", "token_type", "expires_in", "scope"}
    assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("bearer", 100, "read offline_access")
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    current = (await public.ask("GET", CURRENT, **bearer)).json
    assert current == {
        "id": shown.users["jane"],
        "username": "jane",
        "givenName": "Jane",
        "familyName": "Doe",
        "email": "jane@example.com",
        "realm": "palantir-internal-realm",
        "organization": "ri.o",
        "status": "ACTIVE",
        "attributes": {},
    }
    me = (await public.ask("GET", ME, **bearer)).json
    assert me == {**current, "scopes": ["read", "offline_access"], "role": "admin"}


@pytest_twisted.ensureDeferred
async def test_what_a_user_submits_and_the_function_that_calls_back_are_the_users(public: Application) -> None:
    token = (await public.sign_in("jim", scope="read"))["access_token"]
    body = {"deployedAppRid": "ri.one", "queryType": "f"}
    bearer = {"Authorization": f"Bearer {token}"}
    assert (await public.harness.call("POST", f"{CONTOUR}/deployed-apps/jobs", body, **bearer))[0] == 200
    job = (await public.harness.module("GET", "/job"))[1]["computeModuleJobV1"]
    assert job["userId"] == "jim"
    current = (await public.ask("GET", CURRENT, Authorization=job["authHeader"])).json
    assert (current["id"], current["attributes"]) == ("1f0e9d8c-7b6a-4958-8476-655443322110", {"team": ["a", "b"]})
    assert (await public.ask("GET", ME, Authorization=job["authHeader"])).json["scopes"] == ["read"]


@pytest_twisted.ensureDeferred
async def test_a_runtime_with_the_name_of_a_user_is_not_this_user(public: Application) -> None:
    session = {"runtimeId": "jane", "deployedAppRid": "ri.jane"}
    token = (await public.harness.call("POST", RUNTIMES, session))[1]["moduleAuthToken"]
    module = {"Module_Auth_Token": token}
    await public.harness.call("POST", f"{RUNTIMES}/jane/jobs", {"queryType": "f"}, **module)
    job = (await public.harness.call("GET", f"{RUNTIMES}/jane/job", **module))[1]["computeModuleJobV1"]
    current = (await public.ask("GET", CURRENT, Authorization=job["authHeader"])).json
    assert (current["username"], "email" in current) == ("jane", False)


@pytest_twisted.ensureDeferred
async def test_of_two_who_redeem_a_code_at_once_one_gets_tokens(emulators: list[Harness], public: Application) -> None:
    code = await public.code()
    requests = [Deferred.fromCoroutine(Application(each).redeem(code)) for each in emulators]
    assert sorted([(await each).status for each in requests]) == [200, 400]


@pytest_twisted.ensureDeferred
async def test_seeded_tokens_belong_to_users_and_clients_are_service_users(confidential: Application) -> None:
    current = (await confidential.ask("GET", CURRENT, Authorization="Bearer app-token")).json
    assert (current["username"], current["email"]) == ("jane", "jane@example.com")
    issued = await confidential.ask("POST", TOKEN, {"grant_type": "client_credentials", **confidential.client})
    assert "refresh_token" not in issued.json
    current = (await confidential.ask("GET", CURRENT, Authorization=f"Bearer {issued.json['access_token']}")).json
    assert current.keys() == {"id", "username", "realm", "status", "attributes"}
    assert current["username"] == "site"
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", current["id"])


@pytest_twisted.ensureDeferred
async def test_a_client_with_a_secret_needs_no_challenge_but_must_keep_to_one(confidential: Application) -> None:
    plain = {"code_challenge": None, "code_challenge_method": None}
    code = await confidential.code(**plain)
    assert (await confidential.redeem(code)).error == (400, "invalid_grant")
    assert (await confidential.redeem(code, code_verifier=None)).json["scope"] == "read write"
    code = await confidential.code()
    assert (await confidential.redeem(code, code_verifier=None)).error == (400, "invalid_grant")
    assert (await confidential.redeem(code, client_secret="wrong")).error == (401, "invalid_client")
    assert (await confidential.redeem(code, client_secret=None)).error == (401, "invalid_client")
    assert (await confidential.redeem(code)).status == 200


@pytest_twisted.ensureDeferred
async def test_the_nodes_of_a_redis_share_pages_codes_and_tokens(emulators: list[Harness], public: Application) -> None:
    first, second = emulators
    shown = await public.page(scope="offline_access")
    public.harness = second
    code = (await public.choose(shown, "jane")).told["code"]
    public.harness = first
    tokens = (await public.redeem(code)).json
    public.harness = second
    assert await public.owner(tokens["access_token"]) == "jane"
    refreshed = (await public.refresh(tokens["refresh_token"])).json
    public.harness = first
    assert await public.owner(refreshed["access_token"]) == "jane"
    assert (await public.redeem(code)).error == (400, "invalid_grant")
    public.harness = second
    assert await public.owner(refreshed["access_token"]) is None
    assert await public.owner(tokens["access_token"]) is None


# Requests that are refused

WITHOUT_REDIRECT: dict[str, dict[str, Any]] = {
    "no client": {"client_id": None},
    "unknown client": {"client_id": "none"},
    "two clients": {"client_id": ["page", "other"]},
    "no redirect": {"redirect_uri": None},
    "unknown redirect": {"redirect_uri": "http://evil.example/"},
    "longer redirect": {"redirect_uri": REDIRECT + "&more"},
    "other case": {"redirect_uri": REDIRECT.replace("callback", "Callback")},
    "two redirects": {"redirect_uri": [REDIRECT, "http://evil.example/"]},
    "too many fields": {"x": ["1"] * 100},
}


@pytest_twisted.ensureDeferred
async def test_a_client_or_redirect_that_is_not_known_is_never_redirected_to(public: Application) -> None:
    for name, changes in WITHOUT_REDIRECT.items():
        answer = await public.page(**changes)
        assert (answer.status, answer.headers.hasHeader("Location")) == (400, False), name
        assert "Cannot sign in" in answer.text and "<form" not in answer.text, name
    for query in ("", "?client_id=%ff", "?client_id=page&client_id"):
        answer = await public.ask("GET", AUTHORIZE + query)
        assert (answer.status, answer.headers.hasHeader("Location")) == (400, False), query


REDIRECTED: list[tuple[str, dict[str, Any], str]] = [
    ("page", {"response_type": None}, "invalid_request"),
    ("page", {"response_type": "token"}, "unsupported_response_type"),
    ("page", {"response_type": ["code", "code"]}, "invalid_request"),
    ("page", {"scope": 'a "b"'}, "invalid_scope"),
    ("page", {"scope": "a  b"}, "invalid_scope"),
    ("page", {"scope": "\N{SNOWMAN}\r\n"}, "invalid_scope"),
    ("site", {"scope": "read admin"}, "invalid_scope"),
    ("page", {"code_challenge": None}, "invalid_request"),
    ("page", {"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
    ("page", {"code_challenge": ""}, "invalid_request"),
    ("page", {"code_challenge": CHALLENGE + "="}, "invalid_request"),
    ("page", {"code_challenge_method": None}, "invalid_request"),
    ("page", {"code_challenge_method": "plain"}, "invalid_request"),
    ("site", {"code_challenge_method": "plain"}, "invalid_request"),
    ("site", {"code_challenge": None}, "invalid_request"),
    ("machine", {}, "unauthorized_client"),
]


@pytest_twisted.ensureDeferred
async def test_other_mistakes_are_told_to_the_application(emulators: list[Harness]) -> None:
    for client, changes, error in REDIRECTED:
        answer = await Application(emulators[0], client).page(**changes)
        assert (answer.status, answer.target) == (303, REDIRECT), changes
        told = answer.told
        assert (told["error"], told["state"]) == (error, "a state"), changes
        assert re.fullmatch(r"[ !#-\[\]-~]+", told["error_description"]), changes
    answer = await Application(emulators[0]).page(state=["a", "b"])
    assert (answer.told["error"], "state" in answer.told) == ("invalid_request", False)


@pytest_twisted.ensureDeferred
async def test_a_user_may_cancel(public: Application) -> None:
    shown = await public.page(state=None)
    answer = await public.ask("POST", AUTHORIZE, {"request": shown.sealed, "cancel": "yes"})
    assert (answer.status, answer.target) == (303, REDIRECT)
    assert (answer.told["error"], answer.told.keys()) == ("access_denied", {"error", "error_description"})


@pytest_twisted.ensureDeferred
async def test_a_redirect_may_have_a_scheme_of_the_applications_own(public: Application) -> None:
    shown = await public.page(redirect_uri="my.app:/done")
    assert "form-action 'self' my.app:;" in shown.header("Content-Security-Policy")
    redirected = await public.choose(shown, "jane")
    assert redirected.header("Location").startswith("my.app:/done?code=")
    tokens = await public.redeem(redirected.told["code"], redirect_uri="my.app:/done")
    assert tokens.status == 200


@pytest_twisted.ensureDeferred
async def test_errors_of_the_token_route_are_standard(public: Application, confidential: Application) -> None:
    code = await public.code(scope="read offline_access")
    other = Application(public.harness, "other")
    refresh = {"grant_type": "refresh_token", "refresh_token": "x"}
    cases: list[tuple[Application, dict[str, Any], int, str]] = [
        (public, {"code": None}, 400, "invalid_request"),
        (public, {"code": ""}, 400, "invalid_request"),
        (public, {"redirect_uri": None}, 400, "invalid_request"),
        (public, {"redirect_uri": "my.app:/done"}, 400, "invalid_grant"),
        (public, {"code": "x"}, 400, "invalid_grant"),
        (public, {"code": code[:-1] + ("1" if code[-1] == "0" else "0")}, 400, "invalid_grant"),
        (public, {"code_verifier": None}, 400, "invalid_grant"),
        (public, {"code_verifier": ""}, 400, "invalid_grant"),
        (public, {"code_verifier": "w" * 43}, 400, "invalid_grant"),
        (public, {"code_verifier": CHALLENGE}, 400, "invalid_grant"),
        (public, {"code_verifier": "\N{SNOWMAN}" * 43}, 400, "invalid_grant"),
        (public, {"client_secret": "secret"}, 401, "invalid_client"),
        (public, {"client_id": None}, 401, "invalid_client"),
        (other, {}, 400, "invalid_grant"),
        (confidential, {}, 400, "invalid_grant"),
        (public, {"grant_type": "client_credentials"}, 400, "unauthorized_client"),
        (public, {"grant_type": "password"}, 400, "unsupported_grant_type"),
        (public, {"grant_type": "refresh_token"}, 400, "invalid_request"),
        (public, refresh, 400, "invalid_grant"),
        (public, {**refresh, "refresh_token": code}, 400, "invalid_grant"),
        (Application(public.harness, "brief"), refresh, 400, "unauthorized_client"),
        (Application(public.harness, "machine", "s"), {}, 400, "unauthorized_client"),
    ]
    for application, changes, status, error in cases:
        assert (await application.redeem(code, **changes)).error == (status, error), changes
    # None of them has used up the code.
    tokens = (await public.redeem(code)).json
    token = tokens["refresh_token"]
    assert (await public.refresh(token, scope="read write")).error == (400, "invalid_scope")
    assert (await public.refresh(token, scope="a\\")).error == (400, "invalid_scope")
    assert (await other.refresh(token)).error == (400, "invalid_grant")
    assert (await public.refresh(token)).status == 200


# Codes and tokens


@pytest_twisted.ensureDeferred
async def test_a_code_is_used_once_and_a_second_use_ends_the_tokens(public: Application) -> None:
    code = await public.code(scope="offline_access")
    tokens = (await public.redeem(code)).json
    bystander = (await public.sign_in())["access_token"]
    # Only who could have got the tokens can end them.
    assert (await public.redeem(code, code_verifier="w" * 43)).error == (400, "invalid_grant")
    assert await public.owner(tokens["access_token"]) == "jane"
    assert (await public.redeem(code)).error == (400, "invalid_grant")
    assert await public.owner(tokens["access_token"]) is None
    assert (await public.refresh(tokens["refresh_token"])).error == (400, "invalid_grant")
    assert await public.owner(bystander) == "jane"


@pytest_twisted.ensureDeferred
async def test_pages_codes_and_tokens_expire(emulators: list[Harness], public: Application) -> None:
    clock = Clock(*emulators)
    shown = await public.page(scope="offline_access")
    clock.now += 599
    first, second = [(await public.choose(shown, "jane")).told["code"] for _ in range(2)]
    clock.now += 1
    old = await public.choose(shown, "jane")
    assert (old.status, old.headers.hasHeader("Location")) == (400, False)
    assert "too old" in old.text
    clock.now += 58
    tokens = (await public.redeem(first)).json
    clock.now += 1
    assert (await public.redeem(second)).error == (400, "invalid_grant")
    clock.now += 98
    assert await public.owner(tokens["access_token"]) == "jane"
    clock.now += 1
    assert await public.owner(tokens["access_token"]) is None
    clock.now += 30 * 24 * 3600 - 101
    tokens = (await public.refresh(tokens["refresh_token"])).json
    # Each refresh token lasts as long as the first one.
    clock.now += 30 * 24 * 3600 - 1
    tokens = (await public.refresh(tokens["refresh_token"])).json
    clock.now += 30 * 24 * 3600
    assert (await public.refresh(tokens["refresh_token"])).error == (400, "invalid_grant")


@pytest_twisted.ensureDeferred
async def test_each_refresh_token_is_used_once(public: Application) -> None:
    first = await public.sign_in(scope="read write offline_access")
    second = (await public.refresh(first["refresh_token"], scope="read")).json
    assert second["scope"] == "read"
    assert second["refresh_token"] != first["refresh_token"]
    assert await public.owner(second["access_token"]) == "jane"
    # The narrower scope was that of one access token.
    third = (await public.refresh(second["refresh_token"])).json
    assert third["scope"] == "read write offline_access"
    assert (await public.refresh(second["refresh_token"])).error == (400, "invalid_grant")


@pytest.mark.parametrize("by", ["refresh", "revoke"])
@pytest_twisted.ensureDeferred
async def test_a_refresh_token_that_comes_again_ends_all_tokens_of_its_sign_in(
    emulators: list[Harness], public: Application, by: str
) -> None:
    first, bystander = [await public.sign_in(scope="offline_access") for _ in range(2)]
    second = (await public.refresh(first["refresh_token"])).json
    third = (await public.refresh(second["refresh_token"])).json
    tokens = [each["access_token"] for each in (first, second, third)]
    assert [await public.owner(each) for each in tokens] == ["jane"] * 3
    # Who has only a part of a token, or another client, ends nothing.
    parts = first["refresh_token"].split("_")
    for number in range(2, len(parts)):
        other = "".join("1" if each == "0" else "0" for each in parts[number])
        forged = "_".join([*parts[:number], other, *parts[number + 1 :]])
        assert (await public.refresh(forged)).error == (400, "invalid_grant")
        assert (await public.revoke(forged)).status == 200
    stranger = Application(public.harness, "other")
    assert (await stranger.refresh(first["refresh_token"])).error == (400, "invalid_grant")
    assert [await public.owner(each) for each in tokens] == ["jane"] * 3
    public.harness = emulators[1]
    await getattr(public, by)(first["refresh_token"])
    public.harness = emulators[0]
    assert [await public.owner(each) for each in tokens] == [None] * 3
    assert (await public.refresh(third["refresh_token"])).error == (400, "invalid_grant")
    assert await public.owner(bystander["access_token"]) == "jane"


@pytest_twisted.ensureDeferred
async def test_a_grant_without_a_refresh_token_is_kept_as_long_as_its_token(public: Application) -> None:
    clock = Clock(public.harness)
    code = await public.code()
    token = (await public.redeem(code)).json["access_token"]
    (grant_id,) = re.findall("[0-9a-f]{32}(?=_)", code)
    store = public.harness.service.credentials.issued
    grant = await store.get_grant(grant_id)
    assert (grant.expires_at, await public.owner(token)) == (clock.now + 100, "jane")


@pytest_twisted.ensureDeferred
async def test_a_refresh_token_has_to_be_granted(emulators: list[Harness], confidential: Application) -> None:
    assert "refresh_token" not in await confidential.sign_in(scope="read")
    assert "refresh_token" not in await confidential.sign_in()
    # A client that may have only some scopes may have this one.
    assert "refresh_token" in await confidential.sign_in(scope="read offline_access")
    assert "refresh_token" not in await Application(emulators[0], "brief").sign_in(scope="offline_access")


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
@pytest_twisted.ensureDeferred
async def test_to_revoke_either_token_ends_both(public: Application, kind: str) -> None:
    tokens = await public.sign_in(scope="offline_access")
    bystander = await public.sign_in(scope="offline_access")
    forged = tokens["refresh_token"][:-48] + "0" * 48
    assert (await public.revoke(forged)).status == 200
    assert (await Application(public.harness, "other").revoke(tokens[kind])).status == 200
    assert await public.owner(tokens["access_token"]) == "jane"
    for _ in range(2):
        assert (await public.revoke(tokens[kind])).status == 200
    assert await public.owner(tokens["access_token"]) is None
    assert (await public.refresh(tokens["refresh_token"])).error == (400, "invalid_grant")
    assert await public.owner(bystander["access_token"]) == "jane"
    assert (await public.refresh(bystander["refresh_token"])).status == 200


@pytest_twisted.ensureDeferred
async def test_codes_and_refresh_tokens_are_kept_as_fingerprints(public: Application) -> None:
    code = await public.code(scope="offline_access")
    tokens = (await public.redeem(code)).json
    store = public.harness.service.credentials.issued
    kept = repr(vars(store).values())
    assert "jane" in kept or not hasattr(store, "_grants")
    for secret in (code, tokens["refresh_token"], tokens["access_token"]):
        assert secret.rpartition("_")[2] not in kept


@pytest.mark.parametrize("removed", ["users", "oauth_clients"])
@pytest_twisted.ensureDeferred
async def test_tokens_end_with_the_entry_in_the_seed(emulators: list[Harness], tmp_path: Path, removed: str) -> None:
    harness = emulators[0]
    public = Application(harness)
    tokens = await public.sign_in(scope="offline_access")
    code = await public.code()
    shown = await public.page()
    file = tmp_path / "seed.yaml"
    name = "client_id: page" if removed == "oauth_clients" else "username: jane"
    file.write_text(SIGN_IN_SEED.replace(name, name + "-2"))
    await SeedReloader(None, harness.service, file).reload()
    assert await public.owner(tokens["access_token"]) is None
    expected = (401, "invalid_client") if removed == "oauth_clients" else (400, "invalid_grant")
    assert (await public.refresh(tokens["refresh_token"])).error == expected
    assert (await public.redeem(code)).error == expected
    answer = await public.choose(shown, "jane")
    assert (answer.status, answer.headers.hasHeader("Location")) == (400, False)


@pytest_twisted.ensureDeferred
async def test_no_token_of_an_inactive_user_is_valid(public: Application) -> None:
    harness = public.harness
    current, seeded = (await public.sign_in("jane"))["access_token"], "app-token"
    body = {"deployedAppRid": "ri.one", "queryType": "f"}
    submitted = await harness.call("POST", f"{CONTOUR}/deployed-apps/jobs", body, Authorization=f"Bearer {seeded}")
    assert submitted[0] == 200
    of_job = (await harness.module("GET", "/job"))[1]["computeModuleJobV1"]["temporaryCredentialsAuthToken"]
    tokens = (current, seeded, of_job)
    assert [await public.owner(each) for each in tokens] == ["jane"] * 3
    inactive = SIGN_IN_SEED.replace("username: jane,", "username: jane, active: false,")
    for seed, owner in ((inactive, None), (SIGN_IN_SEED, "jane")):
        await harness.service.reseed(parse_seed(seed))
        assert [await public.owner(each) for each in tokens] == [owner] * 3
        for path in (ME, RUNTIMES):
            status = (await public.ask("GET", path, Authorization=f"Bearer {seeded}")).status
            assert status == (401 if owner is None else 200)


@pytest_twisted.ensureDeferred
async def test_the_admin_token_is_valid_whatever_users_there_are() -> None:
    harness = make_harness("foundry: {users: [{username: admin, active: false}]}", admin_token="boss")
    try:
        answer = await Application(harness).ask("GET", CURRENT, Authorization="Bearer boss")
        assert (answer.status, answer.json["status"]) == (200, "DELETED")
    finally:
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()


# Who is there


@pytest_twisted.ensureDeferred
async def test_without_users_the_development_user_signs_in() -> None:
    seed = f"foundry: {{oauth_clients: [{{client_id: page, redirect_uris: ['{REDIRECT}']}}]}}"
    harness = make_harness(seed)
    try:
        public = Application(harness)
        shown = await public.page()
        assert (list(shown.users), "password" in shown.text) == (["admin"], False)
        tokens = await public.sign_in("admin")
        assert await public.owner(tokens["access_token"]) == "admin"
        await harness.service.reseed(parse_seed(SIGN_IN_SEED))
        assert await public.owner(tokens["access_token"]) is None
        await harness.service.reseed(parse_seed(SIGN_IN_SEED.replace("jane", "x").replace("jim", "x")))
        assert list((await public.page()).users) == ["x"]
    finally:
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()


@pytest_twisted.ensureDeferred
async def test_beyond_loopback_signing_in_takes_the_admin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    harness = make_harness(SIGN_IN_SEED, admin_token="boss")
    try:
        public = Application(harness)
        asked = await public.page(scope="offline_access")
        assert 'type="password"' in asked.text and "My page" in asked.text
        mistakes: list[dict[str, str]] = [
            {},
            {"admin_token": ""},
            {"admin_token": "wrong"},
            {"admin_token": "app-token"},
        ]
        jane = user_id_of("jane")
        for form in mistakes:
            for choice in ({}, {"user": jane}):
                refused = await public.send(asked, **form, **choice)
                assert (refused.status, refused.headers.hasHeader("Location")) == (403, False)
                assert refused.users == {}
                assert "app-token" not in refused.text
        for answer in (asked, refused):
            assert not re.search("jane|Doe|jim|joe", answer.text)
        shown = await public.send(asked, admin_token="boss")
        assert (shown.status, list(shown.users)) == (200, ["jane", "jim"])
        assert "boss" not in shown.text and 'type="password"' not in shown.text
        # The request in the second page says that the admin token was given. Nobody can make up such a request.
        assert (await public.send(asked, user=jane)).status == 403
        forged = f"{shown.sealed.partition('.')[0]}.{asked.sealed.partition('.')[2]}"
        assert (await public.ask("POST", AUTHORIZE, {"request": forged, "user": jane})).status == 400
        code = (await public.choose(shown, "jane")).told["code"]
        token = (await public.redeem(code)).json["access_token"]
        me = await public.ask("GET", ME, Authorization=f"Bearer {token}")
        assert (me.json["username"], me.json["role"]) == ("jane", "application")
        clock = Clock(harness)
        asked = await public.page()
        clock.now += 599
        shown = await public.send(asked, admin_token="boss")
        clock.now += 599
        assert (await public.choose(shown, "jane")).status == 303
        clock.now += 1
        assert (await public.choose(shown, "jane")).status == 400
        for page in (await public.page(), await public.send(await public.page(), admin_token="boss")):
            assert (await public.send(page, cancel="yes")).told["error"] == "access_denied"
    finally:
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()
