"""Requests for services that the emulator does not serve, which are passed on to the servers that the seed names."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from ...model.proxies import Proxy
from .. import errors
from ..auth import require_bearer_beyond_loopback
from ..context import Context
from ..passing.headers import has_passed, headers_to_pass_back, headers_to_pass_on
from ..passing.streams import PassedAnswer
from ..routing import App
from ..transport.request import EmulatorRequest


@frozen
class ProxyRoutes:
    """The routes of the prefixes that the seed names, for every method."""

    context: Context
    proxies: Iterable[Proxy]

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        for proxy in self.proxies:
            self.context.upstream.prepare()
            for path in (proxy.prefix, f"{proxy.prefix}/<rest:rest>"):
                app.add(None, path, self._handler(proxy))

    def _handler(self, proxy: Proxy) -> Callable[..., Coroutine[Any, Any, None]]:
        async def handle(request: EmulatorRequest, rest: str = "") -> None:
            await self.pass_on(request, proxy)

        return handle

    async def pass_on(self, request: EmulatorRequest, proxy: Proxy) -> None:
        """Answer a request with what the server of a proxy answers to it."""
        if not (request.path + b"/").startswith(proxy.prefix.encode("ascii") + b"/"):
            # The search for routes passes over slashes at the beginning, which the server would get.
            raise errors.not_found("There is no such route. A path begins with one '/'.")
        await require_bearer_beyond_loopback(self.context, request)
        upstream = self.context.upstream
        sent = Headers({name.encode("ascii"): values for name, values in request.headers.items()})
        if has_passed(sent, upstream.pseudonym):
            raise errors.loop_detected(proxy.prefix)
        uri = _uri(request, proxy)
        headers = headers_to_pass_on(sent, proxy.all_headers, upstream.pseudonym)
        response = await upstream.send(request, proxy, uri, headers)
        _answer_head(request, response, proxy)
        answer = PassedAnswer(request)
        response.deliverBody(answer)
        if not await answer.ended:
            request.break_off()
            # This never fires, but is canceled when the connection closes.
            await Deferred()


def _uri(request: EmulatorRequest, proxy: Proxy) -> bytes:
    """Return the URI of a request at the server of a proxy.

    Raises:
        ApiError: 400 if the path would leave the prefix.
    """
    _, question_mark, query = request.uri.partition(b"?")
    if b"#" in request.uri or _goes_up(request.path):
        raise errors.invalid_request(
            f"The path has a segment '..' or the character '#', so it is not passed on. Send a path below"
            f" '{proxy.prefix}'."
        )
    return proxy.url.encode("ascii") + request.path + question_mark + query


def _goes_up(path: bytes) -> bool:
    """Return whether a server might read a segment of a path as ``..``, however it is encoded."""
    decoded = unquote_to_bytes(path)
    while decoded != path:
        path, decoded = decoded, unquote_to_bytes(decoded)
    # Some servers take a backslash for a slash, or cut off what follows a semicolon.
    return any(each.partition(b";")[0] == b".." for each in decoded.replace(b"\\", b"/").split(b"/"))


def _answer_head(request: EmulatorRequest, response: IResponse, proxy: Proxy) -> None:
    """Send the status and the headers of an answer at once. Its body may take long."""
    request.setResponseCode(response.code, response.phrase)
    for name, values in headers_to_pass_back(response.headers, proxy.all_headers).getAllRawHeaders():
        before = request.answer_headers.get(b"Vary", ()) if name.lower() == b"vary" else ()
        request.answer_headers[name] = [*before, *values]
    if response.length is not UNKNOWN_LENGTH and request.method != b"HEAD" and response.code not in NO_BODY_CODES:
        request.setHeader("Content-Length", str(response.length))
    request.write(b"")
