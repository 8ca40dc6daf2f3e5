"""Test what the client uses of Twisted's private modules: each name exists and means what the client assumes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import _newclient
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

import twisted_cm.client
from twisted_cm.client import CannotConnect, EmulatorControl, twisted_private


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class LostConnections:
    """Makes connections that are lost before a request can use them."""

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = self
        return endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        protocol = protocolFactory.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.connectionLost(Failure(ConnectionDone()))
        return succeed(protocol)


@pytest_twisted.ensureDeferred
async def test_request_not_sent() -> None:
    assert hasattr(_newclient, "RequestNotSent")
    assert twisted_private.RequestNotSent is _newclient.RequestNotSent
    agent = Agent.usingEndpointFactory(reactor, LostConnections())
    with pytest.raises(twisted_private.RequestNotSent):
        await agent.request(b"GET", b"http://localhost/")
    async with EmulatorControl("http://localhost", agent=agent, retries=None) as control:
        with pytest.raises(CannotConnect):
            await control.info()


def test_every_private_name_has_a_test_here() -> None:
    assert twisted_private.__all__ == ["RequestNotSent"]


def test_no_other_module_of_the_client_imports_private_names_of_twisted() -> None:
    for file in Path(twisted_cm.client.__file__).parent.glob("*.py"):
        found = []
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found += [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found += [f"{node.module}.{each.name}" for each in node.names]
        private = [name for name in found if name.startswith(("twisted.", "treq.")) and "._" in name]
        assert not private or file.name == "twisted_private.py", (file, private)
