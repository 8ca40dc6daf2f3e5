"""Issued bearer tokens and grants, on each kind of broker."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest
from attrs import evolve
from broker_fixtures import MemoryFixture

from twisted_cm.broker.redis.tokens import RedisTokens
from twisted_cm.broker.tokens import MemoryTokens
from twisted_cm.model.grants import Grant
from twisted_cm.model.tokens import IssuedToken, fingerprint

pytestmark = pytest.mark.beside_the_reactor


class Tokens:
    """The token stores of all members of a broker, which take turns."""

    def __init__(self, brokers: MemoryFixture) -> None:
        self._get = brokers.get
        members = brokers.members(brokers.make())
        made: list[Any] = [
            RedisTokens(each.node) if hasattr(each, "node") else MemoryTokens(brokers.clock.seconds) for each in members
        ]
        self._turn = cycle(made)

    def put(self, name: str, expires_at: float = 3600) -> IssuedToken:
        """Issue a token."""
        issued = IssuedToken(name, ("read", "write"), expires_at)
        self._get(next(self._turn).put(fingerprint(name), issued))
        return issued

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Call an operation of the next member."""
        return self._get(getattr(next(self._turn), operation)(*arguments))

    def get(self, name: str) -> IssuedToken | None:
        """Return a token if it is kept."""
        found: IssuedToken | None = self._get(next(self._turn).get(fingerprint(name)))
        return found

    def delete(self, name: str) -> None:
        """Remove a token."""
        assert self._get(next(self._turn).delete(fingerprint(name))) is None

    def kept(self, names: str) -> str:
        """Return which of some tokens are kept; each has a letter for a name."""
        return "".join(name for name in names if self.get(name) is not None)


@pytest.fixture
def tokens(brokers: MemoryFixture, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    """Provide stores that keep three tokens and three grants together."""
    for module in ("broker.tokens", "broker.redis.tokens"):
        monkeypatch.setattr(f"twisted_cm.{module}.MOST_TOKENS", 3)
        monkeypatch.setattr(f"twisted_cm.{module}.MOST_GRANTS", 3)
    return Tokens(brokers)


def test_a_token_is_kept_as_it_was_issued_until_it_is_deleted(tokens: Tokens) -> None:
    issued = tokens.put("a", 1.5)
    assert tokens.get("a") == tokens.get("a") == issued
    tokens.delete("b")
    assert tokens.kept("ab") == "a"
    tokens.delete("a")
    tokens.delete("a")
    assert tokens.kept("ab") == ""


def test_beyond_the_limit_the_oldest_tokens_end(tokens: Tokens) -> None:
    for name in "cab":
        tokens.put(name)
    assert tokens.kept("abc") == "abc"
    tokens.put("d")
    assert tokens.kept("abcd") == "abd"
    tokens.put("e")
    assert tokens.kept("abcde") == "bde"


def test_a_deleted_token_leaves_its_place_to_another(tokens: Tokens) -> None:
    for name in "abc":
        tokens.put(name)
    tokens.delete("b")
    tokens.put("d")
    assert tokens.kept("abcd") == "acd"
    tokens.put("e")
    assert tokens.kept("abcde") == "cde"


@pytest.mark.parametrize("brokers", ["memory"], indirect=True)
def test_expired_tokens_make_room_first(tokens: Tokens, brokers: MemoryFixture) -> None:
    """On Redis they end with the oldest ones."""
    tokens.put("a", expires_at=100)
    tokens.put("b", expires_at=10)
    tokens.put("c", expires_at=11)
    brokers.advance(10)
    tokens.put("d")
    assert tokens.kept("abcd") == "acd"
    brokers.advance(1)
    assert tokens.kept("abcd") == "acd"
    tokens.put("e")
    assert tokens.kept("abcde") == "ade"


#: Half a surrogate pair, which a JSON seed may have, and what looks like an id of a grant.
NAME = 'a\ud800"grant_id":"ff'
GRANT = Grant("client", NAME, ("read", "offline_access"), "http://localhost/", "challenge", 60.5)
CODE, FIRST, SECOND, OTHER = (fingerprint(each) for each in ("code", "first", "second", "other"))


def test_a_code_is_redeemed_once_and_a_second_time_ends_the_grant(tokens: Tokens) -> None:
    tokens.ask("put_grant", "aa", GRANT, CODE)
    assert tokens.ask("get_grant", "aa") == tokens.ask("get_grant", "aa") == GRANT
    assert tokens.ask("get_grant", "bb") is None
    assert tokens.ask("redeem", "aa", OTHER, FIRST, 100) is False
    assert tokens.ask("redeem", "bb", CODE, FIRST, 100) is False
    assert tokens.ask("redeem", "aa", CODE, FIRST, 100.5) is True
    assert tokens.ask("get_grant", "aa") == evolve(GRANT, expires_at=100.5)
    assert tokens.ask("redeem", "aa", OTHER, SECOND, 200) is False
    assert tokens.ask("get_grant", "aa") is not None
    assert tokens.ask("redeem", "aa", CODE, SECOND, 200) is False
    assert tokens.ask("get_grant", "aa") is None
    assert tokens.ask("rotate", "aa", FIRST, SECOND, 200) is False


def test_each_refresh_token_is_used_once(tokens: Tokens) -> None:
    tokens.ask("put_grant", "aa", GRANT, CODE)
    # There is none yet.
    assert tokens.ask("rotate", "aa", FIRST, SECOND, 200) is False
    assert tokens.ask("redeem", "aa", CODE, FIRST, 100) is True
    assert tokens.ask("rotate", "aa", OTHER, SECOND, 200) is False
    assert tokens.ask("rotate", "aa", FIRST, SECOND, 200.25) is True
    assert tokens.ask("get_grant", "aa").expires_at == 200.25
    assert tokens.ask("rotate", "aa", FIRST, OTHER, 300) is False
    assert tokens.ask("rotate", "aa", SECOND, OTHER, 300) is True


def test_a_grant_may_have_no_refresh_token(tokens: Tokens) -> None:
    tokens.ask("put_grant", "aa", GRANT, CODE)
    assert tokens.ask("redeem", "aa", CODE, None, 100) is True
    assert tokens.ask("rotate", "aa", FIRST, SECOND, 200) is False


def test_a_token_ends_with_its_grant(tokens: Tokens) -> None:
    for grant_id in ("aa", "bb"):
        tokens.ask("put_grant", grant_id, GRANT, CODE)
        tokens.ask("put", fingerprint(grant_id), IssuedToken(NAME, ("read",), 3600, NAME, grant_id))
    tokens.put("a")
    assert tokens.get("aa") == tokens.get("aa") == IssuedToken(NAME, ("read",), 3600, NAME, "aa")
    tokens.ask("end_grant", "aa")
    tokens.ask("end_grant", "aa")
    assert [tokens.get(name) is not None for name in ("aa", "bb", "a")] == [False, True, True]


@pytest.mark.parametrize("brokers", ["redis", "nodes"], indirect=True)
def test_redis_forgets_a_grant_after_its_end(tokens: Tokens, brokers: Any) -> None:
    def lifetime() -> int:
        return int(brokers.server.command("PTTL", "twisted-cm:0:grant:aa")[1:])

    tokens.ask("put_grant", "aa", GRANT, CODE)
    assert 60_500 < lifetime() <= 70_500
    tokens.ask("redeem", "aa", CODE, FIRST, 100)
    assert 100_000 < lifetime() <= 110_000
    tokens.ask("rotate", "aa", FIRST, SECOND, 200)
    assert 200_000 < lifetime() <= 210_000


class Granted:
    """Grants, each of which has a letter for its id."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def put(self, grant_id: str, expires_at: float) -> None:
        self._tokens.ask("put_grant", grant_id, evolve(GRANT, expires_at=expires_at), CODE)

    def redeem(self, grant_id: str, expires_at: float) -> None:
        self.put(grant_id, 60)
        assert self._tokens.ask("redeem", grant_id, CODE, FIRST, expires_at) is True

    def kept(self) -> str:
        return "".join(each for each in "abcdef" if self._tokens.ask("get_grant", each) is not None)


def test_beyond_the_limit_the_codes_that_expire_first_end(tokens: Tokens, brokers: MemoryFixture) -> None:
    granted = Granted(tokens)
    for grant_id, expires_at in (("a", 100), ("b", 10), ("c", 60)):
        granted.put(grant_id, expires_at)
    assert granted.kept() == "abc"
    brokers.advance(5)
    granted.put("d", 50)
    assert granted.kept() == "acd"
    granted.put("e", 40)
    assert granted.kept() == "ace"
    tokens.ask("end_grant", "c")
    granted.put("f", 100)
    assert granted.kept() == "aef"


def test_codes_that_nobody_redeems_end_no_grant_that_somebody_uses(tokens: Tokens) -> None:
    granted = Granted(tokens)
    granted.redeem("a", 30)
    for grant_id in "bcde":
        granted.put(grant_id, 60)
    assert granted.kept() == "acde"


def test_beyond_the_limit_the_redeemed_grants_that_expire_first_end(tokens: Tokens) -> None:
    granted = Granted(tokens)
    for grant_id, expires_at in (("a", 100), ("b", 200), ("c", 300)):
        granted.redeem(grant_id, expires_at)
    assert tokens.ask("rotate", "a", FIRST, SECOND, 400) is True
    granted.redeem("d", 250)
    assert granted.kept() == "acd"
    # A code that is used a second time makes room.
    assert tokens.ask("redeem", "c", CODE, OTHER, 300) is False
    granted.redeem("e", 500)
    assert granted.kept() == "ade"


@pytest.mark.parametrize("brokers", ["redis", "nodes"], indirect=True)
def test_redis_keeps_nothing_of_grants_that_are_over(tokens: Tokens, brokers: Any) -> None:
    def entries() -> list[int]:
        sets = ("grants:codes", "grants:redeemed")
        return [int(brokers.server.command("ZCARD", f"twisted-cm:0:{each}")[1:]) for each in sets]

    granted = Granted(tokens)
    granted.redeem("a", 10)
    granted.put("b", 10)
    assert entries() == [1, 1]
    brokers.advance(11)
    granted.put("c", 100)
    granted.redeem("d", 100)
    assert entries() == [1, 1]
    for grant_id in "cd":
        tokens.ask("end_grant", grant_id)
    assert entries() == [0, 0]
