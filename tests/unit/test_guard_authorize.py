"""Secrets that authorise requests without leaving guard: HMAC, AWS Signature Version 4, JWT."""

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS
from support.guard_client import (
    ControlFault,
    GuardClient,
    RefusedByGuard,
    WorkerClient,
    bundle,
    private_key_secret,
    running_guard,
    seal,
    token_secret,
)
from support.pki import PrivateKey, new_key

KEY = os.urandom(32)
PSP, S3 = "https://api.psp.example:443", "https://bucket.s3.eu-central-1.amazonaws.com:443"
RAW = {"header": "X-Signature", "scheme": "raw"}
BEARER = {"header": "Authorization", "scheme": "bearer"}
AUTHORIZATION = {"header": "Authorization", "scheme": "raw"}
HMAC_SECRET, AWS_SECRET = "hmac-secret-of-the-test", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
HMAC = {
    "kind": "hmac",
    "hash": "sha256",
    "encoding": "base64",
    "prefix": "v1=",
    "over": ["time", "method", "path", "query", "body"],
    "time_header": "X-Time",
}
SIGV4 = {"kind": "sigv4", "access_key": "AKIDEXAMPLE", "region": "eu-central-1", "service": "s3"}
JWT_KEYS: dict[str, PrivateKey] = {
    "ES256": new_key("p256"),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "RS256": new_key("rsa"),
}
UNKNOWN, NOT_FOR_THIS_SOCKET, CALLER, OUTSIDE = 2, 3, 6, 7


def use(upstream: str, place: dict[str, str], **members: Any) -> dict[str, Any]:
    base = {"upstream": upstream, "paths": ["/v1/*"], "place": place, "callers": ["10.2.0.0/16"]}
    return base | members


def jwt_use(**members: Any) -> dict[str, Any]:
    jwt = {"issuer": "me", "audience": "https://token.example", "subject": "robot", "key_id": "k1"}
    jwt |= {"claims": {"scope": "read"}, "for": use(PSP, BEARER)} | members
    return {"names": ["pay.example"], "roles": ["jwt"], "jwt": jwt}


SECRETS = {
    "hmac": token_secret(HMAC_SECRET, use(PSP, RAW, sign=HMAC)),
    "aws": token_secret(AWS_SECRET, use(S3, AUTHORIZATION, sign=SIGV4)),
    "plain": token_secret("plain", use(PSP, BEARER)),
} | {name: private_key_secret(key, jwt_use()) for name, key in JWT_KEYS.items()}


def route(number: int, secret: str) -> dict[str, Any]:
    upstream = S3 if secret == "aws" else PSP
    place = {"hmac": RAW, "aws": AUTHORIZATION}.get(secret, BEARER)
    base = {"id": number, "where": f"routes[{number}]", "secret": secret, "upstream": upstream, "ca": None}
    return base | {"place": place, "callers": ["10.2.0.0/16"]}


ROUTES = {name: number for number, name in enumerate(SECRETS, 1)}
CONFIGURATION = {"certificates": [], "inject": [route(number, name) for name, number in ROUTES.items()]}


@pytest.fixture(scope="module")
def guard() -> Iterator[GuardClient]:
    with running_guard() as guard:
        guard.load(seal(bundle(SECRETS), KEY), KEY)
        guard.configure(CONFIGURATION)
        yield guard


@pytest.fixture(scope="module")
def egress(guard: GuardClient) -> Iterator[WorkerClient]:
    worker = guard.egress()
    yield worker
    worker.socket.close()


def test_egress_is_told_what_to_ask_for_on_each_route(guard: GuardClient) -> None:
    routes = guard.configure(CONFIGURATION)["routes"]

    assert [one["ask"] for one in routes] == ["authorize", "authorize", "token", *["authorize"] * 5]


def test_hmac_covers_the_lines_of_the_sealed_rules(egress: WorkerClient) -> None:
    body = hashlib.sha256(b"body").digest()

    headers = egress.authorize(ROUTES["hmac"], query="a=b", body=body)

    assert abs(int(headers["x-time"]) - time.time()) < 5
    text = "\n".join([headers["x-time"], "POST", "/v1/charges", "a=b", body.hex()])
    code = hmac.digest(HMAC_SECRET.encode(), text.encode(), "sha256")
    assert headers["x-signature"] == "v1=" + base64.b64encode(code).decode()


def sigv4(headers: dict[str, str], extra: dict[str, str], canonical_query: str) -> str:
    """The signature, computed a second time from AWS's description."""
    stamp = headers["x-amz-date"]
    signed = extra | {
        "host": "bucket.s3.eu-central-1.amazonaws.com",
        "x-amz-date": stamp,
        "x-amz-content-sha256": headers["x-amz-content-sha256"],
    }
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = f"PUT\n/v1/a%20b\n{canonical_query}\n{lines}\n{names}\n{headers['x-amz-content-sha256']}"
    scope = f"{stamp[:8]}/eu-central-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + AWS_SECRET.encode()
    for part in (stamp[:8], "eu-central-1", "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={signature}"


@pytest.mark.parametrize("body", [None, hashlib.sha256(b"body").digest()])
def test_aws_signature_is_what_its_description_gives(egress: WorkerClient, body: bytes | None) -> None:
    headers = egress.authorize(
        ROUTES["aws"],
        "PUT",
        S3,
        "/v1/a%20b",
        query="b=2&a=%2f",
        body=body,
        headers=[("x-amz-acl", "private"), ("content-type", "text/plain")],
    )

    stamp = time.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    assert abs(time.mktime(stamp) - time.timezone - time.time()) < 5
    assert headers["x-amz-content-sha256"] == (body.hex() if body else "UNSIGNED-PAYLOAD")
    extra = {"x-amz-acl": "private", "content-type": "text/plain"}
    assert headers["authorization"] == sigv4(headers, extra, "a=%2F&b=2")


@pytest.mark.parametrize("query", ["X-Amz-Signature=1", "a=b+c", "a=%"])
def test_presigned_and_unclear_queries_are_not_signed(egress: WorkerClient, query: str) -> None:
    with pytest.raises(RefusedByGuard) as refused:
        egress.authorize(ROUTES["aws"], "GET", S3, "/v1/a", query=query)

    assert refused.value.code == OUTSIDE


@pytest.mark.parametrize("algorithm", JWT_KEYS)
def test_jwt_says_what_was_sealed_and_lives_five_minutes(egress: WorkerClient, algorithm: str) -> None:
    headers = egress.authorize(ROUTES[algorithm])
    token = headers["authorization"].removeprefix("Bearer ")
    public = JWT_KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    verifier = JWS()
    verifier.deserialize(token)
    verifier.verify(JWK.from_pem(public), alg=algorithm)

    assert json.loads(verifier.objects["protected"]) == {"alg": algorithm, "typ": "JWT", "kid": "k1"}
    claims = json.loads(verifier.payload)
    assert (claims["exp"] - claims["iat"], abs(claims["iat"] - time.time()) < 5) == (300, True)
    assert {name: claims[name] for name in ("iss", "sub", "aud", "scope")} == {
        "iss": "me",
        "sub": "robot",
        "aud": "https://token.example",
        "scope": "read",
    }
    assert token != egress.authorize(ROUTES[algorithm])["authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda egress: egress.token(ROUTES["hmac"]), OUTSIDE),
        (lambda egress: egress.token(ROUTES["aws"], upstream=S3), OUTSIDE),
        (lambda egress: egress.token(ROUTES["ES256"]), OUTSIDE),
        (lambda egress: egress.authorize(ROUTES["plain"]), OUTSIDE),
        (lambda egress: egress.authorize(ROUTES["ES256"], path="/v2/x"), OUTSIDE),
        (lambda egress: egress.authorize(ROUTES["ES256"], upstream=S3), OUTSIDE),
        (lambda egress: egress.authorize(ROUTES["hmac"]), OUTSIDE),
        (lambda egress: egress.authorize(99), UNKNOWN),
    ],
    ids=range(8),
)
def test_what_lies_outside_is_refused(guard: GuardClient, egress: WorkerClient, ask: Any, code: int) -> None:
    with pytest.raises(RefusedByGuard) as refused:
        ask(egress)

    assert refused.value.code == code


def test_edge_cannot_ask(guard: GuardClient) -> None:
    edge = guard.edge()
    with pytest.raises(RefusedByGuard) as refused:
        edge.authorize(ROUTES["ES256"])

    assert refused.value.code == NOT_FOR_THIS_SOCKET
    edge.socket.close()


def test_route_wider_than_the_sealed_jwt_is_refused(guard: GuardClient) -> None:
    wider = route(1, "ES256") | {"callers": ["anyone"]}
    with pytest.raises(ControlFault, match="callers") as refused:
        guard.configure({"certificates": [], "inject": [wider]})

    assert refused.value.kind == "rules"


@pytest.mark.parametrize(
    "secret",
    [
        private_key_secret(JWT_KEYS["ES256"], jwt_use(seconds=301)),
        private_key_secret(JWT_KEYS["ES256"], jwt_use(claims={"exp": "1"})),
        private_key_secret(JWT_KEYS["ES256"], {"roles": ["jwt"], "jwt": {"issuer": "me", "audience": "you"}}),
        token_secret("t", use(PSP, RAW, sign={"kind": "hmac"})),
        token_secret("t", use(PSP, RAW, sign=SIGV4 | {"presign": True})),
    ],
    ids=range(5),
)
def test_rules_that_are_unclear_do_not_load(secret: dict[str, Any]) -> None:
    with running_guard() as guard, pytest.raises(ControlFault, match="sealed rules") as refused:
        guard.load(seal(bundle({"a": secret}), KEY), KEY)

    assert refused.value.kind == "payload"


def test_key_without_the_role_makes_no_jwt() -> None:
    rules = jwt_use() | {"roles": ["server"]}
    with running_guard() as guard:
        guard.load(seal(bundle({"ES256": private_key_secret(JWT_KEYS["ES256"], rules)}), KEY), KEY)
        with pytest.raises(ControlFault, match="no token named"):
            guard.configure({"certificates": [], "inject": [route(1, "ES256")]})
