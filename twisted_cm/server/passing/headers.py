"""Which headers are passed on to another server, and which of its answer are passed back."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.web.http_headers import Headers

#: The headers that concern one connection (RFC 9110, section 7.6.1), in lower case.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: The headers that every server gets. None of them says who the caller is.
HARMLESS = frozenset({b"accept", b"accept-encoding", b"content-type", b"range", b"user-agent"})

#: The headers that are written anew: of a request, and of an answer.
_REWRITTEN = frozenset({b"content-length", b"expect", b"host", b"via"})


def headers_to_pass_on(headers: Headers, all_headers: bool, pseudonym: bytes) -> Headers:
    """Return the headers of a request for another server.

    Args:
        headers: The headers that the caller sent.
        all_headers: Whether the server gets all that are not for one connection, and not only the harmless ones.
        pseudonym: The name of this emulator in ``Via`` (RFC 9110, section 7.6.3).
    """
    dropped = HOP_BY_HOP | _REWRITTEN | nominated(headers.getRawHeaders(b"Connection", ()))
    passed = Headers()
    for name, values in headers.getAllRawHeaders():
        plain = name.lower()
        if plain not in dropped and (all_headers or plain in HARMLESS or plain.startswith(b"if-")):
            passed.setRawHeaders(name, values)
    passed.setRawHeaders(b"Via", [*headers.getRawHeaders(b"Via", ()), b"1.1 " + pseudonym])
    return passed


def has_passed(headers: Headers, pseudonym: bytes) -> bool:
    """Return whether ``Via`` says that a request was passed on by this emulator before."""
    return any(pseudonym in each.split() for line in headers.getRawHeaders(b"Via", ()) for each in line.split(b","))


def headers_to_pass_back(headers: Headers, all_headers: bool) -> Headers:
    """Return the headers of an answer for the caller.

    The emulator itself says which web pages may read its answers, so the server's ``Access-Control-`` headers are
    dropped.

    Args:
        headers: The headers that the server sent.
        all_headers: Whether the server may set cookies.
    """
    dropped = HOP_BY_HOP | nominated(headers.getRawHeaders(b"Connection", ()))
    passed = Headers()
    for name, values in headers.getAllRawHeaders():
        plain = name.lower()
        if plain in dropped or plain.startswith(b"access-control-") or (plain == b"set-cookie" and not all_headers):
            continue
        passed.setRawHeaders(name, values)
    return passed


def nominated(values: Iterable[bytes]) -> frozenset[bytes]:
    """Return the headers that the values of ``Connection`` name, in lower case."""
    return frozenset(name.strip().lower() for value in values for name in value.split(b","))
