"""The names under which applications call functions, and the ontologies that have them (functions API, section 1)."""

from __future__ import annotations

import json
from uuid import NAMESPACE_URL, UUID, uuid5

from attrs import field, frozen

from .runtimes import Binding, FunctionSchema
from .types import JSONValue

#: The version of each query. Foundry gives functions of compute modules no other one.
VERSION = "0.0.0"

#: What stands between namespace and name in the long form of a name.
_LONG_FORM = ".computemodules."


@frozen
class NamedQuery:
    """An API name that the seed gives to a function of a deployed app.

    Attributes:
        branch: The branch of the deployed app.
        function: The function's name, as the runtime registers it.
    """

    api_name: str
    deployed_app_rid: str
    branch: str
    function: str


@frozen
class ConstantQuery:
    """A query of the seed that always has the same result."""

    api_name: str
    result: JSONValue = field(hash=False)


@frozen
class Ontology:
    """An ontology. The functions of all modules are in each ontology.

    Attributes:
        queries: Those that are in this ontology alone.
    """

    rid: str
    api_name: str
    display_name: str
    description: str = ""
    queries: tuple[ConstantQuery, ...] = ()


#: The ontology of a seed that has none.
DEFAULT_ONTOLOGY = Ontology(
    "ri.ontology.main.ontology.local", "local", "Local", "The functions of the modules of this emulator."
)


@frozen
class PostedFunction:
    """A function that a runtime has posted.

    Attributes:
        bindings: The deployed apps that the runtime serves, on their branches.
    """

    runtime_id: str
    bindings: tuple[Binding, ...]
    schema: FunctionSchema

    @property
    def rid(self) -> str:
        """Its resource identifier, which stays the same."""
        return function_rid(self.runtime_id, self.schema.function_name)


def function_rid(runtime_id: str, function: str) -> str:
    """Return the resource identifier of a function of a runtime."""
    return f"ri.function-registry.main.function.{_uuid(runtime_id, function)}"


def constant_rid(ontology: Ontology, constant: ConstantQuery) -> str:
    """Return the resource identifier of a constant query."""
    return f"ri.function-registry.main.function.{_uuid('constant', ontology.rid, constant.api_name)}"


def ontology_rid(api_name: str) -> str:
    """Return the resource identifier of an ontology to which the seed gives none."""
    return f"ri.ontology.main.ontology.{_uuid(api_name)}"


def short_name(api_name: str) -> str:
    """Return the name of a function without ``com.<namespace>.computemodules.`` before it."""
    if api_name.startswith("com.") and _LONG_FORM in api_name:
        return api_name.rpartition(_LONG_FORM)[2]
    return api_name


def _uuid(*names: str) -> UUID:
    # As JSON, names with slashes stay apart, and half a surrogate pair can be written.
    return uuid5(NAMESPACE_URL, json.dumps(names))
