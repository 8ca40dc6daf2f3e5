"""Where an emulator is reached."""

from __future__ import annotations

from attrs import frozen


@frozen
class Addresses:
    """
    Where the emulator is reached.

    @ivar http: base URL of the plain listener, or L{None}.
    @ivar https: base URL of the TLS listener, or L{None}.
    @ivar ca_certificate: the CA that signed the TLS listener's certificate, in PEM, or L{None}.
    @ivar base_url: what session URIs are built on, where the user fixed it.
    """

    http: str | None = None
    https: str | None = None
    ca_certificate: str | None = None
    base_url: str | None = None
