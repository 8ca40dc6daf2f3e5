"""The parts of a seed by which applications find functions: API names, and ontologies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..model.queries import ConstantQuery, NamedQuery, Ontology, ontology_rid
from ..model.runtimes import DEFAULT_BRANCH
from .seed_path import SeedPath


def read_named_queries(modules: Mapping[str, Any]) -> list[NamedQuery]:
    """Return the API names of a seed's ``compute_modules`` section."""
    return [
        NamedQuery(item["api_name"], item["deployed_app_rid"], item.get("branch", DEFAULT_BRANCH), item["function"])
        for item in modules.get("queries", [])
    ]


def read_ontologies(foundry: Mapping[str, Any]) -> list[Ontology]:
    """Return the ontologies of a seed's ``foundry`` section, with their constant queries."""
    return [
        Ontology(
            item.get("rid") or ontology_rid(item["api_name"]),
            item["api_name"],
            item.get("display_name", item["api_name"]),
            item.get("description", ""),
            tuple(ConstantQuery(each["api_name"], each["result"]) for each in item.get("queries", [])),
        )
        for item in foundry.get("ontologies") or []
    ]


def unbound_queries(modules: Mapping[str, Any]) -> Iterator[tuple[SeedPath, str]]:
    """Yield where API names lead to deployed apps that the seed does not have, and what to say of each."""
    apps = {(item["deployed_app_rid"], item.get("branch", DEFAULT_BRANCH)) for item in modules.get("deployed_apps", [])}
    for index, item in enumerate(read_named_queries(modules)):
        if (item.deployed_app_rid, item.branch) not in apps:
            app = f"'{item.deployed_app_rid}' on branch '{item.branch}'"
            yield (
                ("foundry", "compute_modules", "queries", index),
                f"no deployed app {app} is in the seed; the query is there once a module binds it",
            )
