"""Write a corpus of messages that are right, or nearly so, for each target: corpus.py DIRECTORY."""

import json
import struct
import sys
from pathlib import Path

HEADS = [
    "GET / HTTP/1.1\r\nHost: pay.example\r\n\r\n",
    "GET /psp/v1/%63x?a=b;c HTTP/1.1\r\nHost: x:8443\r\nAuthorization: Bearer x\r\nX-Forwarded-For: y\r\n\r\n",
    "POST /psp/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\n",
    "PUT /a/../b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close, X-Own\r\nX-Own: 1\r\n\r\nhello",
    "GET http://x?q HTTP/1.1\r\nHost: x\r\nContent_Length: 1\r\nUpgrade: h2c\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nHost: [::1]:443\r\nConnection: keep-alive\r\n\r\n",
    "HEAD /psp/%2e%2e//;%2f HTTP/1.1\r\nHost: x\r\nProxy: y\r\n\r\n",
]
BODIES = [
    "5\r\nhello\r\n0\r\n\r\n",
    'A;n="v"\r\n0123456789\r\n00\r\nDigest: x\r\nB: c\r\n\r\nGET /',
    "1\r\na\r\nfffffffffffffff\r\n",
]
RESPONSES = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\nhello",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: tok-1234\r\n\r\nHTTP/1.1 204 No\r\nX: Bearer tok-1234\r\n\r\n",
    "HTTP/1.1 200 tok-1234\r\nTransfer-Encoding: chunked\r\nAuthorization: y\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\n\nuntil the end tok-1234 tok-12",
    "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\na tok-1234 b",
    "HTTP/1.1 304 X\r\nContent-Length: 3\r\n\r\n",
]
EDGE = {
    "role": "edge", "workers": 1, "node": "n", "guard": [5], "egress": 7,
    "listeners": [{"name": "a", "sockets": [8], "certificates": [{"chain": "P", "key": 1, "algorithm": "rsa"}], "client_ca": None}],
    "routes": [{"listener": None, "host": "*.x", "path": "/p/*", "upstream": "u", "strip_prefix": "/p", "inject": {"id": 1, "header": "A"}}],
    "upstreams": {"u": {"servers": ["a:1"], "tls": None}}, "timeouts_ms": {"idle": 1}, "limits": {"headers": 5}, "access_log": False,
}  # fmt: skip
ORDERS = [{"do": "reload"}, {"do": "drain", "seconds": 30}, {"do": "status"}, {"do": "egress"}, EDGE]


def field(data: bytes) -> bytes:
    """A length of two bytes, and the data."""
    return struct.pack(">H", len(data)) + data


def datagram(operation: int, key: int, payload: bytes) -> bytes:
    """Section 1 of docs/protocol.md."""
    return struct.pack(">BBHII", 1, operation, key, 7, len(payload)) + payload


CALLERS = [
    b"\x00" + field(b"10.0.0.1"),
    b"\x01"
    + field(b"2001:db8::1")
    + field(b"d" * 32)
    + struct.pack(">H", 2)
    + field(b"shop")
    + field(b"x.example"),
    b"\x02" + field(b"") + struct.pack(">I", 1000),
]
MESSAGES = [
    datagram(0x01, 1, b"\x08\x04" + b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"h" * 32),
    datagram(0x81, 1, b"signature"),
    datagram(0x02, 0, b""),
    datagram(0x82, 0, struct.pack(">QI", 7, 60) + b"k" * 64),
    *(
        datagram(0x10, 1, field(b"POST") + field(b"https://x:443") + field(b"/v1") + caller)
        for caller in CALLERS
    ),
    datagram(0x90, 1, b"tok-1234"),
    datagram(0xFF, 0, b"\x06"),
]


def preface(caller: bytes) -> bytes:
    """Section 3 of docs/protocol.md."""
    body = b"\x01\x00\x01" + caller
    return struct.pack(">I", len(body)) + body


def main() -> None:
    """One folder for each target."""
    seeds = {
        "request": [head.encode() for head in HEADS],
        "chunked": [b"\x03" + body.encode() for body in BODIES],
        "response": [bytes([how, 20]) + one.encode() for how in (0, 1, 2, 4) for one in RESPONSES],
        "message": MESSAGES + [json.dumps(one).encode() for one in ORDERS],
        "preface": [preface(caller) for caller in CALLERS],
    }
    for name, found in seeds.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        for number, seed in enumerate(found):
            (folder / str(number)).write_bytes(seed)


if __name__ == "__main__":
    main()
