"""The tokens that a request carries."""

from __future__ import annotations

from .transport.request import EmulatorRequest


def presented_token(request: EmulatorRequest) -> str | None:
    """The bearer token that a request carries."""
    scheme, _, token = (request.header("Authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
