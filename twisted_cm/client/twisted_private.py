"""What the client uses of Twisted's private modules. Nothing else in ``twisted_cm.client`` imports one.

``RequestNotSent`` is what a request fails with if its connection was lost before the first byte was written, so that
it is safe to send the request again. ``twisted.web.client`` exports the other failures of a request, but not this one.
"""

from __future__ import annotations

from twisted.web._newclient import RequestNotSent

__all__ = ["RequestNotSent"]
