"""The parts of a seed that say who may sign in, and where: ``foundry.users`` and ``foundry.oauth_clients``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..model.tokens import TOKEN_LIFETIME, GrantType, OAuthClient
from ..model.users import DEFAULT_REALM, DEVELOPMENT_USER, User, user_id_of
from .seed_path import SeedPath

#: The characters that a URI may have.
_URI = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/\[\]?#-]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):.+")

#: Schemes that make a browser run or show what stands in the URI, or open a file.
_UNSAFE_SCHEMES = frozenset({"about", "blob", "data", "file", "filesystem", "javascript", "vbscript", "view-source"})


def read_user(item: Mapping[str, Any]) -> User:
    """Return a user of a seed that has no mistake."""
    username = item["username"]
    return User(
        username,
        item["id"].lower() if "id" in item else user_id_of(username),
        item.get("display_name") or "",
        item.get("given_name"),
        item.get("family_name"),
        item.get("email"),
        item.get("realm", DEFAULT_REALM),
        item.get("organization_rid"),
        {name: tuple(values) for name, values in item.get("attributes", {}).items()},
        item.get("principal_type", "human") == "human",
        item.get("active", True),
    )


def read_client(item: Mapping[str, Any]) -> OAuthClient:
    """Return an OAuth client of a seed that has no mistake."""
    scopes = item.get("scopes", item.get("allowed_scopes") or None)
    return OAuthClient(
        item["client_id"],
        item.get("client_secret"),
        None if scopes is None else tuple(scopes),
        item.get("token_lifetime", TOKEN_LIFETIME),
        item.get("name", ""),
        tuple(item.get("redirect_uris", ())),
        tuple(map(GrantType, item["grant_types"])) if "grant_types" in item else tuple(GrantType),
    )


def mistakes_in_identities(document: Any) -> Iterator[tuple[SeedPath, str]]:
    """Find what the JSON Schema of seeds does not: the path of each mistake, and what is wrong there.

    Args:
        document: The value of the whole seed, of any form. What breaks the JSON Schema is passed over.
    """
    usernames: dict[str, str] = {}
    for path, user in _items(document, "users"):
        username, user_id = user.get("username"), user.get("id")
        if isinstance(username, str):
            user_id = user_id.lower() if isinstance(user_id, str) else user_id_of(username)
            if usernames.setdefault(user_id, username) != username:
                yield (*path, "id"), f"the user '{usernames[user_id]}' has the same id; choose another one"
    for path, client in _items(document, "oauth_clients"):
        mistake = _mistake_in_client_id(client.get("client_id"), usernames.values())
        if mistake is not None:
            yield (*path, "client_id"), mistake
        if "scopes" in client and "allowed_scopes" in client:
            yield (*path, "allowed_scopes"), "'scopes' says the same; name one of the two"
        uris = client.get("redirect_uris")
        for number, uri in enumerate(uris if isinstance(uris, list) else ()):
            mistake = _mistake_in_redirect_uri(uri) if isinstance(uri, str) else None
            if mistake is not None:
                yield (*path, "redirect_uris", number), mistake


def _items(document: Any, section: str) -> Iterator[tuple[SeedPath, dict[str, Any]]]:
    """Return the objects of a list under ``foundry``, each with its path."""
    foundry = document.get("foundry") if isinstance(document, dict) else None
    items = foundry.get(section) if isinstance(foundry, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield ("foundry", section, index), item


def _mistake_in_client_id(client_id: Any, usernames: Collection[str]) -> str | None:
    # What a client submits has its name only. So do the token of that job and the keys of its submissions.
    if client_id in usernames:
        return (
            f"the user '{client_id}' has the same name, and jobs tell the two only by their names; choose another one"
        )
    if not usernames and client_id == DEVELOPMENT_USER.username:
        return (
            f"the user '{client_id}', who is there because the seed has no 'users', has the same name; choose another"
            " one"
        )
    return None


def _mistake_in_redirect_uri(uri: str) -> str | None:
    example = "such as http://localhost:8080/auth/callback"
    try:
        parts = urlsplit(uri)
        web = parts.scheme in ("http", "https")
        known = _SCHEME.fullmatch(uri) is not None and (not web or (bool(parts.hostname) and parts.port != 0))
    except ValueError:
        known = False
    if not known or _URI.fullmatch(uri) is None:
        return f"must be an absolute URL, {example}"
    if "#" in uri:
        return f"must not contain a fragment, {example}"
    if parts.scheme in _UNSAFE_SCHEMES:
        return f"must be an http or https URL, {example}, or have a scheme of the application's own"
    if web and "@" in parts.netloc:
        return f"must not contain a user or a password, {example}"
    return None
