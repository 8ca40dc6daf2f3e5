"""How the headers of a request are read."""

from __future__ import annotations

import pytest
import pytest_twisted
from conftest import RUNTIMES, SEED, Harness, make_harness
from twisted.internet import reactor

ME = "/multipass/api/me"


@pytest.mark.parametrize(
    ("preference", "applied"),
    [
        ("wait=0", ["wait=0"]),
        ("WAIT=0", ["wait=0"]),
        ('wait="0"', ["wait=0"]),
        ("respond-async, wait = 0; x=y", ["wait=0"]),
        ("wait=0, wait=60", ["wait=0"]),
        ("wait=soon, wait=0", ["wait=0"]),
        ('x="a, wait=60", wait=0', ["wait=0"]),
        ("=60, wait=0", ["wait=0"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_preferred_wait_is_applied(harness: Harness, preference: str, applied: list[str]) -> None:
    sent = {"Module_Auth_Token": "token-one", "Prefer": preference}
    status, _, headers = await harness.call("GET", f"{RUNTIMES}/one/job", **sent)
    assert (status, headers.getRawHeaders("Preference-Applied")) == (204, applied)


@pytest.mark.parametrize(("preferred", "applied"), [("59", "59"), ("61", "60"), ("999999999", "60")])
@pytest_twisted.ensureDeferred
async def test_a_preferred_wait_has_a_cap(harness: Harness, preferred: str, applied: str) -> None:
    # The poll finds a job, so that the test does not wait as long.
    await harness.module("POST", "/jobs", {"queryType": "f"})
    sent = {"Module_Auth_Token": "token-one", "Prefer": f"wait={preferred}"}
    status, _, headers = await harness.call("GET", f"{RUNTIMES}/one/job", **sent)
    assert (status, headers.getRawHeaders("Preference-Applied")) == (200, [f"wait={applied}"])


@pytest_twisted.ensureDeferred
async def test_a_poll_that_prefers_to_wait_longer_ends_at_the_cap(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.server.parsing.LONGEST_POLL", 0.0)
    sent = {"Module_Auth_Token": "token-one", "Prefer": "wait=25"}
    began = reactor.seconds()
    status, _, headers = await harness.call("GET", f"{RUNTIMES}/one/job", **sent)
    assert (status, headers.getRawHeaders("Preference-Applied")) == (204, ["wait=0"])
    assert reactor.seconds() - began < 20


@pytest.mark.parametrize("preference", ["", "wait", "wait=", "wait=-1", "wait=1e3", "wait=99999999999", '"', 'wait="1'])
@pytest_twisted.ensureDeferred
async def test_an_invalid_wait_is_ignored(harness: Harness, preference: str) -> None:
    _, job, _ = await harness.module("POST", "/jobs", {"queryType": "f"})
    path = f"/contour-backend-multiplexer/api/module-group-multiplexer/jobs/{job['job_id']}/status"
    status, answer, headers = await harness.call("GET", path, Authorization="Bearer app-token", Prefer=preference)
    assert (status, answer["type"], headers.hasHeader("Preference-Applied")) == (200, "queued", False)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer =", "Bearer =x", 'Bearer "', "Basic", "Basic ü", "Basic !", "Digest a=b", "=", ","]
)
@pytest_twisted.ensureDeferred
async def test_an_authorization_that_is_no_bearer_token_is_refused(harness: Harness, header: str) -> None:
    for path in (ME, f"{RUNTIMES}/one"):
        status, answer, _ = await harness.call("GET", path, Authorization=header)
        assert (status, answer["error"]) == (401, "invalid_token")


@pytest.mark.parametrize("token", ["a", "a==", "a=b", "a=b,c=d", "a,b", '"a"', 'a="b', "ü"])
@pytest_twisted.ensureDeferred
async def test_a_seeded_token_may_have_any_characters(token: str) -> None:
    emulator = make_harness(SEED.replace("app-token", f"'{token}'"))
    try:
        for scheme in ("Bearer", "bearer", "BEARER "):
            status, answer, _ = await emulator.call("GET", ME, Authorization=f"{scheme} {token}")
            assert (status, answer["username"]) == (200, "jane")
    finally:
        await emulator.pool.closeCachedConnections()
        await emulator.service.stopService()
