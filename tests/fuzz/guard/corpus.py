"""Write a site (bundle and configuration) and seeds for each target: corpus.py SITE CORPUS."""

import base64
import json
import struct
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ORIGIN = "https://api.psp.example:443"
CALLERS = ["10.2.0.0/16", {"ca": "A" * 43, "san": "shop"}, {"uid": 1000}]
PLACE = {"header": "Authorization", "scheme": "bearer"}
SEALED = {"upstream": ORIGIN, "methods": ["POST"], "paths": ["/v1/*"], "place": PLACE, "callers": CALLERS}
ROUTE = {"id": 1, "where": "r", "secret": "psp", "ca": None} | SEALED
ROUTES = ["psp", "mac", "aws", "jwt"]
HMAC = {"kind": "hmac", "hash": "sha512", "encoding": "hex", "over": ["time", "method", "path", "query"]}
SIGV4 = {"kind": "sigv4", "access_key": "AKID", "region": "eu-central-1", "service": "s3"}
JWT = {"issuer": "me", "audience": "you", "for": SEALED}
KEYS = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}
SCHEMES = {"p256": 0x0403, "p384": 0x0503, "p521": 0x0603, "ed25519": 0x0807, "rsa": 0x0804}


def encoded(key: object, encoding: serialization.Encoding, form: serialization.PrivateFormat) -> bytes:
    """A private key without a pass phrase."""
    return key.private_bytes(encoding, form, serialization.NoEncryption())  # type: ignore[attr-defined]


def base64url(data: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hour() -> int:
    """The current epoch of sealed tickets."""
    return int(time.time()) // 3600


def spki(key: object) -> str:
    """As a configuration names a certificate's key."""
    return base64url(der(key))


def der(key: object) -> bytes:
    """A key's SubjectPublicKeyInfo."""
    public = key.public_key()  # type: ignore[attr-defined]
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(public.public_bytes(serialization.Encoding.DER, form))


def field(data: bytes) -> bytes:
    """A field of the protocol."""
    return struct.pack(">H", len(data)) + data


def datagram(operation: int, key: int, payload: bytes) -> bytes:
    """A message of the protocol."""
    return struct.pack(">BBHII", 1, operation, key, 7, len(payload)) + payload


def bundle() -> bytes:
    """Every kind of key, with rules, and a token with and one without."""
    use = {"names": ["pay.example", "*.shop.example"], "roles": ["server", "csr"]}
    pem = serialization.Encoding.PEM
    secrets = {
        name: {
            "kind": "private-key",
            "use": use,
            "pem": encoded(key, pem, serialization.PrivateFormat.PKCS8).decode(),
        }
        for name, key in KEYS.items()
    }
    secrets["psp"] = {"kind": "token", "value": "tok-1", "use": SEALED}
    secrets["free"] = {"kind": "token", "value": "tok-2"}
    secrets["mac"] = {"kind": "token", "value": "key-1", "use": SEALED | {"sign": HMAC}}
    secrets["aws"] = {"kind": "token", "value": "key-2", "use": SEALED | {"sign": SIGV4}}
    secrets["jwt"] = secrets["p256"] | {"use": {"roles": ["jwt"], "jwt": JWT}}
    secrets["fleet"] = {
        "kind": "ticket-secret",
        "epoch": hour() - 9,
        "chain": "A" * 43,
        "use": {"mode": "per-node"},
    }
    content = {"unlatch": 1, "set": "A" * 43, "recipient": {}, "sealers": [], "secrets": secrets}
    return json.dumps(content).encode()


def configuration() -> bytes:
    """All keys and one route."""
    claims = [
        {"where": name, "key": name, "spki": spki(key), "names": ["pay.example"]}
        for name, key in KEYS.items()
    ]
    routes = [ROUTE | {"id": number, "secret": name} for number, name in enumerate(ROUTES, 1)]
    tickets = {"where": "t", "secret": "fleet"}
    content = {"certificates": claims, "inject": routes, "unbound": True, "tickets": tickets}
    return json.dumps(content).encode()


def messages() -> list[bytes]:
    """What TLS servers sign, and what they must not."""
    found = []
    for side in (b"server", b"client"):
        found += [
            b" " * 64 + b"TLS 1.3, " + side + b" CertificateVerify\0" + b"h" * size for size in (32, 48)
        ]
    for name, group in (("p256", 23), ("p384", 24), ("p521", 25)):
        point = (
            KEYS[name]
            .public_key()
            .public_bytes(  # type: ignore[attr-defined]
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
        )
        found.append(b"r" * 64 + struct.pack(">BHB", 3, group, len(point)) + point)
    found.append(b"r" * 64 + struct.pack(">BHB", 3, 29, 32) + b"x" * 32)
    return found


def told() -> list[bytes]:
    """What a custodian says: ready, its keys and counters, then a signature or a refusal; each behind its length."""

    def said(operation: int, key: int, request_id: int, payload: object) -> bytes:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        message = struct.pack(">BBHII", 1, operation, key, request_id, len(data)) + data
        return struct.pack(">H", len(message)) + message

    described = {
        "found": [{"id": 1, "spki": der(KEYS["p256"]).hex()}],
        "missing": [{"id": 1, "reason": "no"}],
    }
    times = described | {"keys": {"1": {"p50_ms": 1, "p99_ms": 2.5}}}
    ready = said(0x33, 0, 0, {"state": "ready", "reason": ""})
    lost = said(0x33, 0, 0, {"state": "lost", "reason": "gone"})
    found = ready + said(0xB0, 0, 1, described) + said(0xB2, 0, 2, times)
    return [
        ready,
        lost + ready,
        found,
        *(ready + said(0xB0, 0, number, described) + lost for number in (1, 2)),
        *(found + said(0x81, 1, number, b"signature") for number in (2, 3, 4)),
        *(found + said(0xFF, 1, number, bytes([code])) for number in (3, 4) for code in (8, 11, 12)),
    ]


def seeds() -> dict[str, list[bytes]]:
    """Target by target."""
    sign = [
        datagram(0x01, number, struct.pack(">H", SCHEMES[name]) + message)
        for number, name in enumerate(KEYS, 1)
        for message in messages()
    ]
    request = b"".join(map(field, (b"POST", ORIGIN.encode(), b"/v1/charges")))
    by_address = b"\0" + field(b"10.2.3.4")
    by_all = b"\3" + field(b"") + field(b"\0" * 32) + b"\0\1" + field(b"shop") + struct.pack(">I", 1000)
    rule_lines = [
        ROUTE | {"paths": ["/v1/x"]},
        ROUTE | {"callers": ["10.2.3.0/24"]},
        ROUTE | {"methods": None},
    ]
    tail = f"\nPOST\n{ORIGIN}\n/v1/charges\n10.2.3.4"
    names = json.dumps({"names": ["*.shop.example", "192.0.2.1"], "roles": ["server"]})
    formats = [(serialization.Encoding.PEM, b"key.pem"), (serialization.Encoding.DER, b"key.der")]
    return {
        "worker": [
            *sign,
            datagram(0x02, 0, b""),
            *(datagram(0x10, 1, request + caller) for caller in (by_address, by_all)),
            *(
                datagram(0x11, number, request + field(b"a=b&c=%2F") + body + headers + by_address)
                for number, _ in enumerate(ROUTES, 1)
                for body in (b"\0", b"\1" + b"h" * 32)
                for headers in (b"\0\0", b"\0\1" + field(b"x-amz-acl") + field(b"private"))
            ),
            datagram(0x03, 0, b"n" * 16 + struct.pack(">Q", hour()) + b"i" * 12 + field(b"aad") + b"t" * 40),
        ],
        "custodian": told(),
        "control": [
            configuration(),
            b'{"key": "p256"}',
            b'{"role": "edge", "node": "a", "keys": [1], "rate": 20}',
            b'{"role": "egress"}',
        ],
        "context": messages(),
        "rules": [
            *(f"{json.dumps(SEALED)}\n{json.dumps(route)}{tail}".encode() for route in rule_lines),
            f"{names}\na.shop.example,192.0.2.1{tail}".encode(),
        ],
        "key": [
            *(
                encoded(key, encoding, serialization.PrivateFormat.PKCS8)
                for key in KEYS.values()
                for encoding, _ in formats
            ),
            *(
                encoded(
                    KEYS[name], serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
                )
                for name in ("p256", "rsa")
            ),
        ],
    }


def main() -> None:
    """Fill both folders."""
    site, corpus = Path(sys.argv[1]), Path(sys.argv[2])
    (site / "bundle").write_bytes(bundle())
    (site / "configuration").write_bytes(configuration())
    for target, found in seeds().items():
        (corpus / target).mkdir()
        for number, seed in enumerate(found):
            (corpus / target / str(number)).write_bytes(seed)


if __name__ == "__main__":
    main()
