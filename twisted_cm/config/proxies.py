"""The part of a seed that says which requests are passed on to other servers: ``foundry.proxy``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..model.paths import OWN_SEGMENTS
from ..model.proxies import Proxy
from .seed_path import SeedPath

#: One or more segments, of the characters that a path may have without percent-encoding (RFC 3986, section 3.3).
_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")

#: The characters that a URL may have. A backslash is none of them.
_URL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/\[\]?#-]+")


def read_proxies(foundry: Mapping[str, Any]) -> tuple[Proxy, ...]:
    """Return the proxies of a seed's ``foundry`` section, which has no mistake."""
    found = []
    for prefix, target in (foundry.get("proxy") or {}).items():
        said: Mapping[str, Any] = {"url": target} if isinstance(target, str) else target
        found.append(Proxy(prefix, said["url"].rstrip("/"), said.get("all_headers", False)))
    return tuple(found)


def mistakes_in_proxies(document: Any) -> Iterator[tuple[SeedPath, str]]:
    """Find what the JSON Schema of seeds does not: the path of each mistake, and what is wrong there.

    Args:
        document: The value of the whole seed, of any form. What breaks the JSON Schema is passed over.
    """
    foundry = document.get("foundry") if isinstance(document, dict) else None
    section = foundry.get("proxy") if isinstance(foundry, dict) else None
    for prefix, target in section.items() if isinstance(section, dict) else ():
        path: SeedPath = ("foundry", "proxy", prefix)
        mistake = _mistake_in_prefix(prefix)
        if mistake is not None:
            yield path, mistake
        url_path = path if isinstance(target, str) else (*path, "url")
        url = target.get("url") if isinstance(target, dict) else target
        mistake = _mistake_in_url(url) if isinstance(url, str) else None
        if mistake is not None:
            yield url_path, mistake


def _mistake_in_prefix(prefix: str) -> str | None:
    if not prefix.startswith("/"):
        return "a prefix must begin with '/'"
    segments = prefix.split("/")[1:]
    if any(each in (".", "..") for each in segments):
        return "a prefix must not contain '.' or '..' as a segment"
    if _PREFIX.fullmatch(prefix) is None:
        return (
            "a prefix must be like '/stream-proxy': segments that are not empty, no '/' at the end, and no characters"
            " that a URL encodes"
        )
    if segments[0] in OWN_SEGMENTS:
        return f"the emulator answers paths below '/{segments[0]}' itself; choose another prefix"
    return None


def _mistake_in_url(url: str) -> str | None:
    # Messages about a seed go to the log, and the URL may hold a password.
    example = "such as https://streams.example:8443"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or _URL.fullmatch(url) is None:
        return f"must be an http or https URL with a host, {example}"
    if "@" in parts.netloc:
        return f"must not contain a user or a password; name the server alone, {example}"
    if "?" in url or "#" in url:
        return f"must not contain a query or a fragment, {example}"
    if any(each in (".", "..") for each in parts.path.split("/")):
        return "must not contain '.' or '..' as a segment"
    return None
