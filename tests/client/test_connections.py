"""Test connections: TLS verification, and reuse."""

from __future__ import annotations

import pytest
import pytest_twisted
import trustme
from client_helpers import application, until
from conftest import Harness

from twisted_cm.client import EmulatorControl, UntrustedServer


@pytest_twisted.ensureDeferred
async def test_a_server_is_verified_with_the_ca_or_the_systems(harness: Harness) -> None:
    addresses = harness.service.addresses
    other = trustme.CA().cert_pem.bytes().decode()
    for ca in (None, other):
        async with EmulatorControl(addresses.https, ca_certificate=ca) as control:
            with pytest.raises(UntrustedServer, match="certificate"):
                await control.info()
    async with EmulatorControl(addresses.https, ca_certificate=other + addresses.ca_certificate) as control:
        assert (await control.info()).https == addresses.https


@pytest_twisted.ensureDeferred
async def test_connections_are_kept_for_the_next_request(harness: Harness) -> None:
    channels = harness.sites()[0].channels
    async with application(harness) as modules:
        handle = await modules.submit("ri.one", "f")
        (kept,) = channels
        await modules.status(handle)
        await modules.cancel(handle)
        assert channels == {kept}
    await until(lambda: not channels)
