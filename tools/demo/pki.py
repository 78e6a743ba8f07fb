"""Test certificates for the demo: one authority, two server certificates. TEST ONLY, made anew at each run."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Authority:
    """A test certificate authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, common_name: str) -> Authority:
        """A new authority, valid for a day."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _dated(name, name, key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    def write(self, path: Path) -> None:
        """The authority's certificate as PEM."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, names: list[str], public_key: ec.EllipticCurvePublicKey) -> bytes:
        """A chain (PEM) for these names and this key."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        builder = (
            _dated(subject, self.certificate.subject, public_key)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        leaf = builder.sign(self.key, hashes.SHA256())
        return leaf.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM)

    def issue_for_request(self, request: bytes) -> bytes:
        """A chain (PEM) for a certificate request (PEM), with the request's own names."""
        wanted = x509.load_pem_x509_csr(request)
        names = wanted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = wanted.public_key()
        assert wanted.is_signature_valid
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return self.issue(names.get_values_for_type(x509.DNSName), key)


def new_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A P-256 key and its PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _dated(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
    )
