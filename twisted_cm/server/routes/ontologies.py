"""The functions of modules as queries of ontologies (functions API, section 1)."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

from attrs import evolve, frozen

from ...model.paths import ONTOLOGIES
from ...model.queries import Ontology
from ...model.types import JSONValue
from ..auth import require_bearer
from ..calls.answers import execute, find_batch, read_batch, refuse_transaction
from ..calls.calls import Call, Calls, read_call
from ..context import Context
from ..parsing import query_parameter, required_text, text_field
from ..queries import errors
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest

#: How many query types are on a page, unless the request says otherwise, and at most.
PAGE, MOST_ON_PAGE = 100, 1000

_AFTER = b"after:"


@frozen
class OntologyRoutes:
    """The routes of the ontologies API."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        ontology = f"{ONTOLOGIES}/<id:ontology>"
        add_routes(
            app,
            [
                ("GET", ONTOLOGIES, self.list),
                ("GET", ontology, self.get),
                ("GET", f"{ontology}/queryTypes", self.list_query_types),
                ("GET", f"{ontology}/queryTypes/<id:api_name>", self.get_query_type),
                ("POST", f"{ontology}/queryTypes/getByRidBatch", self.get_query_types),
                ("POST", f"{ontology}/queries/<id:api_name>/execute", self.execute),
            ],
        )

    @property
    def _calls(self) -> Calls:
        return Calls(self.context, in_ontology=True)

    async def list(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /ontologies`` with all ontologies."""
        await require_bearer(self.context, request)
        return request.json({"data": [_describe(each) for each in self.context.catalog.ontologies]})

    async def get(self, request: EmulatorRequest, ontology: str) -> bytes:
        """Answer ``GET /ontologies/{ontology}`` with one of them."""
        await require_bearer(self.context, request)
        return request.json(_describe(self.context.catalog.ontology(ontology)))

    async def list_query_types(self, request: EmulatorRequest, ontology: str) -> bytes:
        """Answer ``GET …/queryTypes`` with a page of the queries of an ontology, by name."""
        await require_bearer(self.context, request)
        found = self.context.catalog.ontology(ontology)
        size, after = _page_size(request), _page_start(request)
        queries = [each for each in await self.context.catalog.all(found) if after is None or each.api_name > after]
        page: dict[str, JSONValue] = {"data": [each.describe(in_ontology=True) for each in queries[:size]]}
        if len(queries) > size:
            last = _AFTER + queries[size - 1].api_name.encode("utf-8", "surrogatepass")
            page["nextPageToken"] = urlsafe_b64encode(last).decode("ascii")
        return request.json(page)

    async def get_query_type(self, request: EmulatorRequest, ontology: str, api_name: str) -> bytes:
        """Answer ``GET …/queryTypes/{name}`` with what a query takes and returns."""
        await require_bearer(self.context, request)
        call = Call(b"", query_parameter(request, "version"), query_parameter(request, "branch"))
        query = await self._calls.find(api_name, call, self.context.catalog.ontology(ontology))
        return request.json(query.describe(in_ontology=True))

    async def get_query_types(self, request: EmulatorRequest, ontology: str) -> bytes:
        """Answer ``POST …/queryTypes/getByRidBatch`` with those queries of a list that there are."""
        await require_bearer(self.context, request)
        found = self.context.catalog.ontology(ontology)
        body = await request.read_json(self.context.limits.max_body)
        elements = read_batch(body.get("requests") if isinstance(body, dict) else body)
        wanted = [(required_text(each, "queryTypeRid"), text_field(each, "functionVersion")) for each in elements]
        queries = find_batch(await self.context.catalog.by_rids(found), wanted)
        return request.json({"data": [each.describe(in_ontology=True) for each in queries]})

    async def execute(self, request: EmulatorRequest, ontology: str, api_name: str) -> bytes:
        """Answer ``POST …/queries/{name}/execute``: run a function, park until it returns, and send its value."""
        principal = await require_bearer(self.context, request)
        found = self.context.catalog.ontology(ontology)
        call = await read_call(self.context, request)
        # This API has them in the query string.
        call = evolve(call, version=query_parameter(request, "version"), branch=query_parameter(request, "branch"))
        query = await self._calls.find(api_name, evolve(call, ontology=None), found)
        refuse_transaction(request, query)
        return await execute(self._calls, request, principal, query, call)


def _describe(ontology: Ontology) -> JSONValue:
    return {
        "apiName": ontology.api_name,
        "displayName": ontology.display_name,
        "description": ontology.description,
        "rid": ontology.rid,
    }


def _page_size(request: EmulatorRequest) -> int:
    size = query_parameter(request, "pageSize")
    if size is None:
        return PAGE
    if not (size.isascii() and size.isdigit() and len(size) < 10 and 1 <= int(size) <= MOST_ON_PAGE):
        raise errors.invalid_page_size(size, MOST_ON_PAGE)
    return int(size)


def _page_start(request: EmulatorRequest) -> str | None:
    """Return the name after which a page begins, or ``None`` for the first page."""
    token = query_parameter(request, "pageToken")
    if token is None:
        return None
    try:
        decoded = urlsafe_b64decode(token.encode("ascii"))
        if decoded.startswith(_AFTER):
            return decoded.removeprefix(_AFTER).decode("utf-8", "surrogatepass")
    except (binascii.Error, UnicodeError):
        pass
    raise errors.invalid_page_token(token)
