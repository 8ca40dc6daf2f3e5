"""The URLs at which clients reach an emulator."""

from __future__ import annotations

from attrs import frozen


@frozen
class Addresses:
    """The URLs at which clients reach an emulator.

    Attributes:
        http: The base URL of the plain listener, or ``None`` if there is none.
        https: The base URL of the TLS listener, or ``None`` if there is none.
        ca_certificate: The CA that signed the TLS listener's certificate, in PEM, or ``None``.
        base_url: The base of session URIs, if the user configured one.
    """

    http: str | None = None
    https: str | None = None
    ca_certificate: str | None = None
    base_url: str | None = None
