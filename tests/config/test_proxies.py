"""The part of a seed that says which requests are passed on."""

from __future__ import annotations

import json
import re
from textwrap import dedent

import pytest
from conftest import ROOT

from twisted_cm.config.seed import parse_seed
from twisted_cm.config.seed_file import InvalidSeed
from twisted_cm.model.paths import OWN_SEGMENTS
from twisted_cm.model.proxies import Proxy

LIKE_THIS = "must be an http or https URL with a host, such as https://streams.example:8443"


def test_a_target_is_a_url_or_says_more() -> None:
    seed = parse_seed(
        'foundry: {proxy: {/a: "https://h:8443/", /b/c.d: {url: "http://[::1]:80/base/", all_headers: true}}}'
    )
    assert seed.proxies == (Proxy("/a", "https://h:8443"), Proxy("/b/c.d", "http://[::1]:80/base", True))
    assert parse_seed("foundry: {proxy: }").proxies == ()


def test_the_example_of_the_reference_is_valid() -> None:
    text = (ROOT / "docs/reference/seed.rst").read_text("utf-8").partition("_seed-proxy:")[2]
    example = text.partition(".. code-block:: yaml\n")[2].partition("\nWith this seed")[0]
    assert parse_seed(dedent(example)).proxies == (
        Proxy("/stream-proxy", "https://streams.example:8443"),
        Proxy("/my-service", "http://127.0.0.1:8080/base", True),
    )
    segments = set(re.findall(r"``([^`]+)``", text.partition("answers itself:")[2].partition("Of two")[0]))
    assert segments == OWN_SEGMENTS


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("stream", "a prefix must begin with '/'"),
        ("", "a prefix must begin with '/'"),
        ("/a/../b", "a prefix must not contain '.' or '..' as a segment"),
        ("/.", "a prefix must not contain '.' or '..' as a segment"),
        *((each, "a prefix must be like '/stream-proxy'") for each in ("/", "/a/", "/a//b", "/%2e%2e", "/<a>", "/ä")),
        ("/multipass", "the emulator answers paths below '/multipass' itself; choose another prefix"),
        ("/_emulate/x", "the emulator answers paths below '/_emulate' itself; choose another prefix"),
        ("/api/v2/datasets", "the emulator answers paths below '/api' itself; choose another prefix"),
        ("/healthz", "the emulator answers paths below '/healthz' itself; choose another prefix"),
        (
            "/contour-backend-multiplexer/other",
            "the emulator answers paths below '/contour-backend-multiplexer' itself",
        ),
    ],
)
def test_a_prefix_that_cannot_be_passed_on(prefix: str, says: str) -> None:
    with pytest.raises(InvalidSeed) as caught:
        parse_seed("foundry:\n  proxy:\n    " + json.dumps(prefix, ensure_ascii=False) + ": http://h")
    (problem,) = caught.value.problems
    assert problem.startswith(f"line 3: foundry.proxy.{prefix}: {says}")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        *((each, LIKE_THIS) for each in ("h:80", "ftp://h", "//h", "http://", "http:///x", "https://:1", "http://h:0")),
        *((each, LIKE_THIS) for each in ("http://h:99999", "http://h:x", "http://h x", "http://h\\x", "http://ä", "")),
        ("http://user:hush@h", "must not contain a user or a password; name the server alone, such as https://"),
        ("http://hush@h", "must not contain a user or a password; name the server alone, such as https://"),
        ("http://h/?hush", "must not contain a query or a fragment"),
        ("http://h/#hush", "must not contain a query or a fragment"),
        ("http://h/../a", "must not contain '.' or '..' as a segment"),
    ],
)
@pytest.mark.parametrize("more", [False, True])
def test_a_target_that_cannot_be_used(url: str, says: str, more: bool) -> None:
    target = {"url": url} if more else url
    with pytest.raises(InvalidSeed) as caught:
        parse_seed(json.dumps({"foundry": {"proxy": {"/a": target}}}, ensure_ascii=False, indent=1), is_json=True)
    (problem,) = caught.value.problems
    where = "line 5: foundry.proxy./a.url" if more else "line 4: foundry.proxy./a"
    assert problem.startswith(f"{where}: {says}")
    assert "hush" not in problem


def test_all_mistakes_are_reported_with_those_of_the_rest() -> None:
    with pytest.raises(InvalidSeed) as caught:
        parse_seed(
            "foundry:\n  port: x\n  proxy:\n    /a: 1\n    /b: {urll: http://h}\n    c: {url: x, all_headers: 1}"
        )
    assert caught.value.problems == [
        "line 2: foundry.port: must be of type integer, not string",
        "line 4: foundry.proxy./a: must be of type string or object, not integer",
        "line 5: foundry.proxy./b.urll: unknown key; did you mean 'url'?",
        "line 5: foundry.proxy./b: 'url' is missing",
        "line 6: foundry.proxy.c.all_headers: must be of type boolean, not integer",
        f"line 6: foundry.proxy.c.url: {LIKE_THIS}",
        "line 6: foundry.proxy.c: a prefix must begin with '/'",
    ]
    for wrong in ("[]", "{foundry: []}", "{foundry: {proxy: [/a]}}", "{foundry: {proxy: x}}"):
        with pytest.raises(InvalidSeed):
            parse_seed(wrong)
