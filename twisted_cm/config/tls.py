"""The certificates of the TLS listeners.

The Python SDK speaks only HTTPS, so every emulator needs a certificate. It is the user's own, or one that a local CA
signed; trustme makes both certificate and CA, and the state directory keeps them.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import trustme
from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtensionOID
from twisted.internet.ssl import CertificateOptions

from .state_dir import locked, make_private_directory, write_private

_PEM = Encoding.PEM
_CA, _CA_KEY, _LEAF = "ca.pem", "ca-key.pem", "server.pem"

#: The names that every leaf covers. Containers reach the machine they run on by the last one.
_NAMES = ("localhost", "127.0.0.1", "::1", "host.docker.internal")


class CertificateError(Exception):
    """A certificate cannot be made, kept or read; the message says what to do."""


@frozen
class ServerCertificate:
    """The certificate of a TLS listener.

    Attributes:
        pem: The private key, the certificate, and the certificates between it and its CA, in PEM.
        ca_certificate: The CA that clients verify it with, in PEM.
    """

    pem: bytes = field(repr=False)
    ca_certificate: str

    def options(self) -> CertificateOptions:
        """Return the context factory for a listener.

        Raises:
            CertificateError: The PEM has no usable key and certificate.
        """
        try:
            leaf, *between = x509.load_pem_x509_certificates(self.pem)
            key = load_pem_private_key(self.pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CertificateError(f"no usable key and certificate: {error}") from None
        if key.public_key() != leaf.public_key():
            raise CertificateError("no usable key and certificate: the key does not belong to the certificate")
        # pyOpenSSL accepts cryptography's objects since 24.3. Twisted's annotations still name pyOpenSSL's own classes.
        shown: dict[str, Any] = {"privateKey": key, "certificate": leaf, "extraCertChain": between}
        return CertificateOptions(**shown)


def user_certificate(certificate: Path, key: Path | None, ca: Path | None) -> ServerCertificate:
    """Read the user's own certificate.

    Args:
        certificate: A PEM file with the certificate, followed by those between it and its CA.
        key: The private key in PEM; ``None`` if it is in ``certificate``.
        ca: The CA that clients verify the certificate with, in PEM; ``None`` if the certificate is self-signed.

    Raises:
        CertificateError: A file cannot be read, or contains something else.
    """
    try:
        own = certificate.read_bytes()
        pem = own if key is None else key.read_bytes() + b"\n" + own
        trusted = (ca or certificate).read_bytes()
        authorities = x509.load_pem_x509_certificates(trusted)
    except OSError as error:
        raise CertificateError(f"{error.filename}: {error.strerror}; name a readable PEM file") from None
    except ValueError as error:
        raise CertificateError(f"{ca or certificate}: not a certificate in PEM: {error}") from None
    found = ServerCertificate(pem, b"".join(each.public_bytes(_PEM) for each in authorities).decode("ascii"))
    found.options()
    return found


def local_certificate(state_dir: Path, interface: str) -> ServerCertificate:
    """Return the certificate in the state directory; make one if there is none that fits.

    Args:
        interface: The address to listen on; the certificate covers it, too.

    Raises:
        CertificateError: The directory cannot be used.
    """
    names = set(_NAMES)
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", socket.gethostname()):
        names.add(socket.gethostname())
    if interface not in ("0.0.0.0", "::", ""):
        names.add(interface)
    try:
        make_private_directory(state_dir)
        with locked(state_dir):
            return _kept_certificate(state_dir, names)
    except OSError as error:
        raise CertificateError(
            f"{error.filename or state_dir}: {error.strerror}; choose another directory with --state-dir"
        ) from None
    except ValueError as error:
        raise CertificateError(f"{state_dir}: its certificates cannot be read ({error}); delete them") from None


def _kept_certificate(state_dir: Path, names: set[str]) -> ServerCertificate:
    if not (state_dir / _CA).exists():
        ca = trustme.CA(organization_name="twisted-cm", organization_unit_name="local development")
        write_private(state_dir / _CA_KEY, ca.private_key_pem.bytes())
        write_private(state_dir / _CA, ca.cert_pem.bytes())
    authority = (state_dir / _CA).read_bytes()
    leaf = state_dir / _LEAF
    if not leaf.exists() or not _good_for(leaf.read_bytes(), names, authority):
        ca = trustme.CA.from_pem(authority, (state_dir / _CA_KEY).read_bytes())
        write_private(leaf, ca.issue_cert(*sorted(names)).private_key_and_cert_chain_pem.bytes())
    return ServerCertificate(leaf.read_bytes(), authority.decode("ascii"))


def _good_for(pem: bytes, names: set[str], ca: bytes) -> bool:
    """Return whether this CA signed the leaf and the leaf covers all names."""
    leaf = x509.load_pem_x509_certificate(pem)
    try:
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    except Exception:
        return False
    alternatives = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(alternatives, x509.SubjectAlternativeName)
    covered = {str(name.value) for name in alternatives}
    return names <= covered
