"""The way from a path to its route."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from twisted_cm.server.app import emulator_app, sidecar_app
from twisted_cm.server.dispatch import ANY_ID, Routes
from twisted_cm.server.routing import App
from twisted_cm.service import EmulatorService, Settings

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD")

#: What may stand for an id: itself, what stands for any, what is a word elsewhere, and what is no id at all.
IDS = ("foundry_job_1", ANY_ID, "status", "execute", "job", "a%2Fb", "%FF", "%00", "<id:job_id>", "", "a b", "..")


@pytest.fixture(scope="module", params=["main", "sidecar"])
def app(request: pytest.FixtureRequest) -> App:
    """All routes of one kind of listener."""
    service = EmulatorService(Clock(), Settings(listen=False))
    service.startService()
    return emulator_app(service.context) if request.param == "main" else sidecar_app(service.context, "r")


def outcome(search: Any, path: str, method: str) -> object:
    """Where a search leads, whether that is a route or not."""
    try:
        endpoint, arguments = search(path, method)
    except HTTPException as error:
        return type(error), getattr(error, "valid_methods", None)
    return endpoint, dict(arguments)


def plain(app: App) -> MapAdapter:
    """The search without a memory."""
    return app.url_map.bind("localhost")


def test_each_route_is_found_as_without_a_memory_twice(app: App) -> None:
    routes, found = Routes(app.url_map), 0
    for rule in app.url_map.iter_rules():
        names = [name for name in rule.arguments if f"<id:{name}>" in rule.rule]
        for ids, method in product(product(IDS, repeat=len(names)), METHODS):
            path = rule.rule
            for name, value in zip(names, ids, strict=True):
                path = path.replace(f"<id:{name}>", value)
            expected = outcome(plain(app).match, path, method)
            for _ in range(2):
                assert outcome(lambda path, method: routes.match(method, path), path, method) == expected
            found += isinstance(expected, tuple) and isinstance(expected[0], str)
    assert found > len(list(app.url_map.iter_rules()))


def test_any_path_leads_where_it_does_without_a_memory(app: App) -> None:
    routes = Routes(app.url_map)
    paths = sorted({rule.rule for rule in app.url_map.iter_rules()})
    words = st.sampled_from(sorted({*IDS, *(word for path in paths for word in path.split("/") if "<" not in word)}))

    @given(st.sampled_from(paths), words, words, st.integers(-1, 9), st.sampled_from(METHODS))
    def same(path: str, an_id: str, word: str, place: int, method: str) -> None:
        """The path of some route, with one word in another's place, or none."""
        parts = [an_id if "<" in part else part for part in path.split("/")]
        if 0 < place < len(parts):
            parts[place] = word
        path = "/".join(parts)
        remembered = outcome(lambda path, method: routes.match(method, path), path, method)
        assert remembered == outcome(plain(app).match, path, method)

    same()
