"""Issued bearer tokens, on each kind of broker."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest
from broker_fixtures import MemoryFixture

from twisted_cm.broker.redis.tokens import RedisTokens
from twisted_cm.broker.tokens import MemoryTokens
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
    """Provide stores that keep three tokens together."""
    for module in ("broker.tokens", "broker.redis.tokens"):
        monkeypatch.setattr(f"twisted_cm.{module}.MOST_TOKENS", 3)
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
