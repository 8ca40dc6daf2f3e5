"""Who may use which route."""

from __future__ import annotations

import re

import pytest
import pytest_twisted
from conftest import RUNTIMES, Harness, make_harness
from every_route import PRESENTED, ROUTES, SIDECAR_ROUTES, ask, prepare, running, state

from twisted_cm.config.seed import parse_seed


def served(harness: Harness, site: int) -> set[str]:
    """Return the routes of a running listener."""
    rules = harness.sites()[site].answerer.app.url_map.iter_rules()
    return {f"{method} {re.sub('<id:', '<', rule.rule)}" for rule in rules for method in rule.methods - {"HEAD"}}


@pytest_twisted.ensureDeferred
async def test_the_tables_hold_every_route() -> None:
    async with running() as harness:
        assert served(harness, 0) == set(ROUTES)
        assert served(harness, 1) == set(SIDECAR_ROUTES)
        assert len(harness.sites()) == 2


@pytest.mark.parametrize("guarded", [False, True], ids=["loopback", "guarded"])
@pytest_twisted.ensureDeferred
async def test_every_route_knows_who_may_use_it(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: not guarded)
    monkeypatch.setattr("twisted_cm.server.refused_polls.HOLD", 0)
    async with running(admin_token="boss" if guarded else None) as harness:
        credentials = harness.service.credentials
        now = [1000.0]
        credentials.now = lambda: now[0]
        issued, expired = [await credentials.issue(credentials.client(name, "secret"), ()) for name in ("app", "brief")]
        assert await credentials.principal(expired) is not None
        now[0] += 1
        presented = {
            **PRESENTED,
            "issued": {"Authorization": f"Bearer {issued}"},
            "expired": {"Authorization": f"Bearer {expired}"},
        }
        for route, (guard, body, right) in {**ROUTES, **SIDECAR_ROUTES}.items():
            ids: dict[str, str] = {}
            for name, headers in presented.items():
                ids = ids or await prepare(harness, route)
                before = state(harness)
                status, answer = await ask(harness, route, body, ids, **headers)
                expected = guard.status(name, guarded, right)
                assert status == expected, (route, name, answer)
                if expected in (401, 403):
                    assert state(harness) == before, (route, name)
                    error = {"invalid_token", "invalid_module_auth_token", "invalid_client"}
                    assert answer["error"] in (error if expected == 401 else {"forbidden"}), (route, name)
                else:
                    ids = {}


@pytest.mark.parametrize("guarded", [False, True], ids=["loopback", "guarded"])
@pytest_twisted.ensureDeferred
async def test_the_development_token_is_valid_on_loopback_only(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: not guarded)
    harness = make_harness("", admin_token="boss" if guarded else None)
    try:
        for path in (RUNTIMES, f"{RUNTIMES.rpartition('/')[0]}/jobs", "/metrics", "/multipass/api/me"):
            status = (await harness.call("GET", path, Authorization="Bearer test_token_admin"))[0]
            assert status == (401 if guarded else 200), path
        # A new seed without tokens does not bring it back.
        await harness.service.reseed(parse_seed("tokens: {t: }"))
        await harness.service.reseed(parse_seed(""))
        status = (await harness.call("GET", RUNTIMES, Authorization="Bearer test_token_admin"))[0]
        assert status == (401 if guarded else 200)
    finally:
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()
