"""Which query a name or a resource identifier leads to (functions API, section 1)."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from ...broker.interface import IBroker, NotBound
from ...model.queries import (
    DEFAULT_ONTOLOGY,
    ConstantQuery,
    NamedQuery,
    Ontology,
    PostedFunction,
    constant_rid,
    function_rid,
    short_name,
)
from ...model.runtimes import Binding, FunctionSchema
from ...model.types import JSONValue
from ..json_body import to_json
from . import errors
from .signature import UNKNOWN, Signature, describe, signature_of, signature_of_constant

#: The most signatures that are kept.
_MOST_SIGNATURES = 1000


@frozen
class Target:
    """The function that a query runs.

    Attributes:
        binding: The deployed app through which it was found, if its runtime serves any.
        schema: Its schema; ``None`` if its runtime has posted none.
    """

    runtime_id: str
    function: str
    binding: Binding | None
    schema: FunctionSchema | None


@frozen
class Query:
    """A query that was found.

    Attributes:
        api_name: The name under which it was found.
        rid: Its resource identifier.
        signature: What it takes and returns.
        target: What it runs; ``None`` if its result is constant.
        constant: Its constant result as JSON, or ``None``.
    """

    api_name: str
    rid: str
    signature: Signature
    target: Target | None = None
    constant: bytes | None = None

    def describe(self, in_ontology: bool) -> dict[str, JSONValue]:
        """Return what the functions API or the ontologies API says of it."""
        return describe(self.signature, self.api_name, self.rid, in_ontology)


class Catalog:
    """The queries of one emulator: the functions of all its runtimes, and what the seed says of them."""

    def __init__(self, broker: IBroker, named: Sequence[NamedQuery] = (), ontologies: Sequence[Ontology] = ()) -> None:
        self._broker = broker
        self._signatures: dict[tuple[str, str], tuple[FunctionSchema, Signature]] = {}
        self.replace(named, ontologies)

    def replace(self, named: Sequence[NamedQuery], ontologies: Sequence[Ontology]) -> None:
        """Take the API names and the ontologies of another seed in place of the former ones."""
        self._named = {each.api_name: each for each in named}
        self.ontologies = tuple(ontologies) or (DEFAULT_ONTOLOGY,)

    def ontology(self, name: str) -> Ontology:
        """Return the ontology with a resource identifier or an API name.

        Raises:
            ApiError: 404 if there is none.
        """
        for each in self.ontologies:
            if name in (each.rid, each.api_name):
                return each
        raise errors.ontology_not_found(name, [each.api_name for each in self.ontologies])

    async def find(self, api_name: str, ontology: Ontology | None, in_ontology: bool, branch: str | None) -> Query:
        """Return the query with a name.

        Args:
            api_name: An API name of the seed, the name of a function that one active runtime has, or the long form
                ``com.<namespace>.computemodules.<name>`` of either.
            ontology: The ontology to look in; ``None`` for all.
            in_ontology: Whether errors are to be those of the ontologies API.
            branch: The branch of the deployed app; ``None`` for that of the seed, or for any.

        Raises:
            ApiError: 404 if there is no such query, or several.
        """
        for each in self.ontologies if ontology is None else (ontology,):
            for constant in each.queries:
                if constant.api_name == api_name:
                    return _constant(each, constant)
        function = short_name(api_name)
        named = self._named.get(api_name) or self._named.get(function)
        if named is not None:
            return await self._find_named(api_name, named, in_ontology, branch)
        posted = [each for each in await self._broker.functions(function) if _is_active(each, None)]
        found = [each for each in posted if branch is None or _is_active(each, branch)]
        if len(found) > 1:
            raise errors.ambiguous_query(api_name, in_ontology, [each.runtime_id for each in found])
        if found:
            return self._query(api_name, found[0], branch)
        if posted and branch is not None:
            raise errors.branch_not_found(branch)
        raise errors.query_not_found(
            api_name, in_ontology, "A function is there once its runtime has posted its schemas. Check the name."
        )

    async def _find_named(self, api_name: str, named: NamedQuery, in_ontology: bool, branch: str | None) -> Query:
        try:
            binding = await self._broker.resolve(named.deployed_app_rid, branch or named.branch)
        except NotBound:
            if branch not in (None, named.branch):
                raise errors.branch_not_found(branch or "") from None
            app = f"'{named.deployed_app_rid}' on branch '{named.branch}'"
            raise errors.query_not_found(
                api_name,
                in_ontology,
                f"Its name is in the seed, for a function of {app}, but no active runtime serves that.",
            ) from None
        found = await self._broker.functions(named.function, binding.runtime_id)
        if found:
            return self._query(api_name, found[0], binding.branch, binding)
        if (await self._broker.runtime(binding.runtime_id)).schemas is not None:
            where = f"runtime '{binding.runtime_id}'"
            raise errors.query_not_found(
                api_name, in_ontology, f"Its name is in the seed, but {where} has no function '{named.function}'."
            )
        # Its modules may start with the first job.
        target = Target(binding.runtime_id, named.function, binding, None)
        return Query(api_name, function_rid(binding.runtime_id, named.function), UNKNOWN, target)

    def _query(
        self, api_name: str, posted: PostedFunction, branch: str | None, binding: Binding | None = None
    ) -> Query:
        if binding is None:
            active = (each for each in posted.bindings if each.active and branch in (None, each.branch))
            binding = next(active, None)
        name = posted.schema.function_name
        target = Target(posted.runtime_id, name, binding, posted.schema)
        return Query(api_name, posted.rid, self.signature(posted.runtime_id, posted.schema), target)

    def signature(self, runtime_id: str, schema: FunctionSchema) -> Signature:
        """Return the signature of a function, made once for each report of its runtime."""
        key = (runtime_id, schema.function_name)
        known = self._signatures.get(key)
        if known is not None and known[0] == schema:
            return known[1]
        made = signature_of(schema.payload, schema.issues)
        if len(self._signatures) >= _MOST_SIGNATURES:
            self._signatures.clear()
        self._signatures[key] = (schema, made)
        return made

    async def all(self, ontology: Ontology | None = None) -> list[Query]:
        """Return the queries that can be found by name, sorted by name: those of one ontology, or of all."""
        found: dict[str, Query] = {}
        by_name: dict[str, list[PostedFunction]] = {}
        by_target: dict[tuple[str, str], PostedFunction] = {}
        for snapshot in await self._broker.snapshots():
            runtime_id = snapshot.runtime.runtime_id
            for schema in (snapshot.runtime.schemas or {}).values():
                posted = PostedFunction(runtime_id, tuple(snapshot.bindings), schema)
                by_target[runtime_id, schema.function_name] = posted
                if _is_active(posted, None):
                    by_name.setdefault(schema.function_name, []).append(posted)
        apps = {
            (each.deployed_app_rid, each.branch): (each, posted.runtime_id)
            for posted in by_target.values()
            for each in posted.bindings
            if each.active
        }
        named = set()
        for each in self._named.values():
            binding, runtime_id = apps.get((each.deployed_app_rid, each.branch), (None, ""))
            function = by_target.get((runtime_id, each.function))
            if function is not None:
                named.add((runtime_id, each.function))
                found[each.api_name] = self._query(each.api_name, function, each.branch, binding)
        for name, functions in by_name.items():
            if len(functions) == 1 and (functions[0].runtime_id, name) not in named:
                found.setdefault(name, self._query(name, functions[0], None))
        for each_ontology in self.ontologies if ontology is None else (ontology,):
            for constant in each_ontology.queries:
                found[constant.api_name] = _constant(each_ontology, constant)
        return [found[name] for name in sorted(found)]

    async def by_rids(self, ontology: Ontology | None = None) -> dict[str, Query]:
        """Return the queries of :meth:`all` by their resource identifiers."""
        return {each.rid: each for each in await self.all(ontology)}


def _constant(ontology: Ontology, constant: ConstantQuery) -> Query:
    signature, rid = signature_of_constant(constant.result), constant_rid(ontology, constant)
    return Query(constant.api_name, rid, signature, constant=to_json(constant.result))


def _is_active(posted: PostedFunction, branch: str | None) -> bool:
    """Return whether a runtime serves an active deployed app on a branch, or on any; or none at all."""
    if branch is None and not posted.bindings:
        return True
    return any(each.active and branch in (None, each.branch) for each in posted.bindings)
