"""Seal the benchmark's key as guard opens it: seal_site.py CHAIN KEY SITE."""

import base64
import json
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def base64url(data: bytes) -> str:
    """RFC 7515's base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main() -> None:
    """A compact JWE with alg dir, its content key, the chain and its public key in one JSON file."""
    chain, key_file, site = map(Path, sys.argv[1:])
    key, iv = os.urandom(32), os.urandom(12)
    header = base64url(b'{"alg":"dir","enc":"A256GCM"}')
    box = AESGCM(key).encrypt(iv, key_file.read_bytes(), header.encode())
    public = x509.load_pem_x509_certificate(chain.read_bytes()).public_key()
    content = {
        "sealed": ".".join((header, "", base64url(iv), base64url(box[:-16]), base64url(box[-16:]))),
        "key": key.hex(),
        "chain": chain.read_text(),
        "spki": base64url(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    }
    site.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
