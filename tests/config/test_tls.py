"""The certificates of TLS listeners."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from twisted_cm.config.tls import CertificateError, local_certificate, user_certificate


def test_a_local_certificate_is_made_once_and_kept(tmp_path: Path) -> None:
    first = local_certificate(tmp_path / "state", "127.0.0.1")
    assert local_certificate(tmp_path / "state", "127.0.0.1") == first
    other = local_certificate(tmp_path / "state", "127.0.0.9")
    assert (other.ca_certificate, other.pem == first.pem) == (first.ca_certificate, False)


def test_the_users_own_certificate_is_taken(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    taken = user_certificate(tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    assert taken.ca_certificate.encode() == authority.cert_pem.bytes()
    taken.options()
    with pytest.raises(CertificateError, match="no usable key"):
        user_certificate(tmp_path / "chain.pem", None, tmp_path / "ca.pem")
    with pytest.raises(CertificateError, match="name a readable PEM file"):
        user_certificate(tmp_path / "none.pem", None, None)
    with pytest.raises(CertificateError, match="not a certificate"):
        user_certificate(tmp_path / "key.pem", None, None)


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateError, match="--state-dir"):
        local_certificate(tmp_path / "file" / "state", "127.0.0.1")
