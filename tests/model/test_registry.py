"""Runtimes and the deployed apps bound to them."""

from __future__ import annotations

import pytest

from twisted_cm.model.registry import Registry, SessionRequest
from twisted_cm.model.runtimes import Binding, FunctionSchema, Runtime


def make(*bindings: Binding, **tokens: str) -> Registry:
    """Return a registry with runtimes, by id with their tokens, and bindings."""
    registry = Registry()
    for runtime_id, token in tokens.items():
        registry.add(Runtime(runtime_id, token))
    for binding in bindings:
        registry.bind(binding)
    return registry


def tokens(registry: Registry) -> dict[str, str]:
    """Return the token of each runtime."""
    return {runtime_id: runtime.module_auth_token for runtime_id, runtime in registry.runtimes.items()}


A, A_DEV = Binding("ri.a", "master", "r", "A"), Binding("ri.a", "dev", "r")
B = Binding("ri.b", "master", "r")


def test_bindings_are_kept_in_the_order_they_were_made() -> None:
    registry = make(B, A, A_DEV, r="t", s="u")
    assert registry.bindings_of("r") == [B, A, A_DEV]
    assert (registry.bindings_of("s"), registry.bindings_of("none")) == ([], [])
    assert sorted(registry.bindings(), key=str) == sorted([A, A_DEV, B], key=str)


def test_another_runtime_takes_a_binding_over() -> None:
    registry = make(A, A_DEV, B, r="t", s="u")
    taken = Binding("ri.a", "master", "s")
    registry.bind(taken)
    assert (registry.bindings_of("r"), registry.bindings_of("s")) == ([A_DEV, B], [taken])
    # What was taken over is not removed with the runtime that had it.
    registry.unbind(A)
    registry.unbind_runtime("r")
    assert registry.bindings() == [taken]
    registry.unbind(taken)
    assert (registry.bindings(), registry.bindings_of("s")) == ([], [])
    registry.unbind(taken)
    assert registry.resolve("ri.a", None) is None


def test_a_removed_runtime_takes_its_bindings_with_it() -> None:
    other = Binding("ri.a", "other", "s")
    registry = make(A, other, B, r="t", s="u")
    registry.remove("r")
    assert (tokens(registry), registry.bindings()) == ({"s": "u"}, [other])
    with pytest.raises(KeyError):
        registry.remove("r")


def test_a_deployed_app_resolves_to_what_is_active() -> None:
    off, on = Binding("ri.a", "off", "r", active=False), Binding("ri.a", "on", "s")
    registry = make(off, on, Binding("ri.off", "master", "r", active=False), r="t", s="u")
    assert registry.resolve("ri.a", None) == registry.resolve("ri.a", "on") == on
    for rid, branch in (("ri.a", "off"), ("ri.a", "none"), ("ri.off", None), ("ri.none", None), ("ri.none", "on")):
        assert registry.resolve(rid, branch) is None


def test_a_copy_has_the_same_runtimes_as_new() -> None:
    registry = make(A, r="t")
    registry.put_schemas("r", [FunctionSchema("f", {})], 5)
    registry.runtimes["r"].connected = True
    copy = registry.copy()
    copied = copy.runtimes["r"]
    assert (copied.module_auth_token, copied.connected, copied.schemas) == ("t", False, None)
    assert copy.bindings() == [A]
    copy.remove("r")
    assert (tokens(registry), registry.bindings()) == ({"r": "t"}, [A])


def test_generated_tokens_are_the_same_each_time() -> None:
    registry, generated = make(r="", s="own"), {}
    first = tokens(registry.with_generated_tokens(generated))
    assert first["r"].startswith("foundry_module_auth_")
    assert first == {"r": generated["r"], "s": "own"}
    assert tokens(registry.with_generated_tokens(generated)) == first
    assert tokens(registry.with_generated_tokens({})) != first


def test_a_change_of_the_seed_changes_what_differs() -> None:
    moved, added = Binding("ri.b", "master", "new"), Binding("ri.new", "master", "r")
    old = make(A, A_DEV, B, r="t", gone="g", changed="c", ended="e")
    new = make(A, moved, added, r="t", changed="c2", new="n", ended="e")
    registry = old.copy()
    mine = Binding("ri.mine", "master", "mine")
    registry.add(Runtime("mine", "m"))
    registry.bind(mine)
    registry.remove("ended")
    assert registry.dropped_by_seed(old, new) == ["gone", "changed"]
    kept = registry.runtimes["r"]
    # A runtime that was deleted meanwhile comes back with the seed.
    assert registry.apply_seed_change(old, new) == ["changed", "new", "ended"]
    assert tokens(registry) == {"r": "t", "mine": "m", "changed": "c2", "new": "n", "ended": "e"}
    assert registry.runtimes["r"] is kept
    assert registry.bindings_of("r") == [A, added]
    assert (registry.bindings_of("new"), registry.bindings_of("mine")) == ([moved], [mine])


def test_a_change_of_the_seed_leaves_what_a_session_took_over() -> None:
    old, new = make(A, B, r="t"), make(B, r="t")
    registry = old.copy()
    for rid in ("ri.a", "ri.b"):
        SessionRequest("mine", rid, keep_bindings=True).apply(registry)
    registry.apply_seed_change(old, new)
    assert [each.deployed_app_rid for each in registry.bindings_of("mine")] == ["ri.a", "ri.b"]
    assert registry.bindings_of("r") == []


def test_a_session_has_a_token_and_the_bindings_it_asks_for() -> None:
    registry = make(A, B, r="t")
    opened = SessionRequest("r", "ri.new", keep_bindings=True).apply(registry)
    assert registry.runtimes["r"] is opened
    assert opened.module_auth_token.startswith("foundry_module_auth_")
    assert registry.bindings_of("r") == [A, B, Binding("ri.new", "master", "r")]
    again = SessionRequest("r", "ri.new", "dev", "New").apply(registry)
    assert again.module_auth_token != opened.module_auth_token
    assert registry.bindings_of("r") == [Binding("ri.new", "dev", "r", "New")]
    SessionRequest("r").apply(registry)
    assert registry.bindings() == []


def test_schemas_are_recorded_with_their_time() -> None:
    registry = make(r="t")
    runtime = registry.runtimes["r"]
    assert (runtime.schemas, runtime.last_schema_post_at) == (None, None)
    registry.put_schemas("r", [], 1)
    assert (runtime.schemas, runtime.last_schema_post_at) == ({}, 1)
    registry.put_schemas("r", [FunctionSchema("f", 1), FunctionSchema("g", 2)], 2)
    registry.put_schemas("r", [FunctionSchema("f", 3)], 3)
    # Each report is a whole one.
    assert runtime.schemas == {"f": FunctionSchema("f", 3, (), 3)}
    assert runtime.last_schema_post_at == 3
