"""Requests that upstreams accept because guard signed them: HMAC, AWS signatures, JWTs, client certificates."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from jwcrypto.jwk import JWK
from jwcrypto.jwt import JWT
from support.egress_site import (
    AWS_SECRET,
    HMAC_SECRET,
    LIMIT,
    LOGINS,
    EgressSite,
    ask,
    guard_counts,
    seal_egress_site,
)
from support.product import Proxy
from support.recorder import BODY
from support.sigv4_check import check
from support.tangd import Tangd

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EgressSite, Proxy]]:
    with Tangd() as tangd:
        site = seal_egress_site(tmp_path_factory.mktemp("egress"), tangd.url, tangd.thumbprint)
        with Proxy(site.folder, site.config) as proxy:
            proxy.wait_for_event("serving")
            yield site, proxy
        site.close()


@pytest.fixture
def site(served: tuple[EgressSite, Proxy]) -> EgressSite:
    served[0].psp.seen.clear()
    served[0].login.seen.clear()
    return served[0]


@pytest.fixture
def proxy(served: tuple[EgressSite, Proxy]) -> Proxy:
    return served[1]


def test_upstream_accepts_the_hmac(site: EgressSite, proxy: Proxy) -> None:
    forged = {"X-Signature": "v1=forged", "X-Time": "1", "x_signature": "v1=forged"}
    assert ask(site, proxy, "/hook/v1/charge?a=b", method="POST", body=b"{}", headers=forged) == (200, BODY)

    (seen,) = site.psp.seen
    moment = seen.value("x-time")
    text = "\n".join([moment, "POST", "/v1/charge", "a=b", hashlib.sha256(b"{}").hexdigest()])
    code = hmac.digest(HMAC_SECRET.encode(), text.encode(), "sha256").hex()
    assert seen.value("x-signature") == f"v1={code}"
    assert abs(int(moment) - time.time()) < 10
    assert seen.body == b"{}"


@pytest.mark.parametrize("body", [b"", b"x" * LIMIT])
def test_whole_body_is_covered_up_to_the_limit(site: EgressSite, proxy: Proxy, body: bytes) -> None:
    assert ask(site, proxy, "/hook/v1/charge", method="POST", body=body)[0] == 200

    (seen,) = site.psp.seen
    text = "\n".join([seen.value("x-time"), "POST", "/v1/charge", "", hashlib.sha256(body).hexdigest()])
    code = hmac.digest(HMAC_SECRET.encode(), text.encode(), "sha256").hex()
    assert (seen.value("x-signature"), seen.body) == (f"v1={code}", body)


@pytest.mark.parametrize("service", ["s3", "api"])
def test_upstream_accepts_the_aws_signature(site: EgressSite, proxy: Proxy, service: str) -> None:
    headers = {"x-amz-meta-owner": " a  b ", "X-Amz-Date": "20150830T123600Z", "Authorization": "AWS4 forged"}
    headers |= {"X-Amz-Security-Token": "forged", "X-Amz-Content-Sha256": "forged"}
    target = f"/{service}/v1/a%20b/c?list-type=2&prefix=x%2Fy&empty"
    assert ask(site, proxy, target, method="PUT", body=b"object", headers=headers) == (200, BODY)

    (seen,) = site.psp.seen
    facts = check(seen, AWS_SECRET)
    assert (facts["access"], facts["region"]) == ("AKIDEXAMPLE", "eu-central-1")
    assert facts["names"] == "host;x-amz-content-sha256;x-amz-date;x-amz-meta-owner"
    assert seen.value("x-amz-content-sha256") == hashlib.sha256(b"object").hexdigest()
    assert seen.values("x-amz-security-token") == []


def test_body_that_s3_would_hold_back_too_long_streams_unsigned(site: EgressSite, proxy: Proxy) -> None:
    body = os.urandom(4 * LIMIT)
    assert ask(site, proxy, "/s3/v1/large", method="PUT", body=body)[0] == 200

    (seen,) = site.psp.seen
    check(seen, AWS_SECRET)
    assert (seen.value("x-amz-content-sha256"), seen.body) == ("UNSIGNED-PAYLOAD", body)


def test_upstream_accepts_the_jwt(site: EgressSite, proxy: Proxy) -> None:
    forged = {"Authorization": "Bearer forged"}
    assert ask(site, proxy, "/robot/v1/items", headers=forged)[0] == 200
    assert ask(site, proxy, "/robot/v1/items")[0] == 200

    tokens = [seen.value("authorization").removeprefix("Bearer ") for seen in site.psp.seen]
    key = JWK.from_pem(site.certificate("robot"))
    claims = [json.loads(JWT(jwt=token, key=key, algs=["ES256"]).claims) for token in tokens]
    assert [(one["iss"], one["sub"], one["aud"], one["scope"]) for one in claims] == [
        ("shop", "robot", "https://localhost", "read")
    ] * 2
    assert all(one["exp"] - one["iat"] == 300 and abs(one["iat"] - time.time()) < 10 for one in claims)
    assert claims[0]["jti"] != claims[1]["jti"]


@pytest.mark.parametrize(
    ("target", "method", "size", "status"),
    [
        ("/hook/v2/charge", "GET", 0, 403),
        ("/hook/v1/charge", "DELETE", 0, 403),
        ("/hook/v1/charge", "POST", LIMIT + 1, 413),
        ("/hook/v1/..%2fv2", "GET", 0, 400),
        ("/robot/v2/items", "GET", 0, 403),
        ("/far/v1", "GET", 0, 403),
        ("/s3/v1/a?X-Amz-Signature=abc", "GET", 0, 403),
        ("/s3/v1/a?x%2damz-expires=5", "GET", 0, 403),
        ("/s3/v1/a?b=c+d", "GET", 0, 403),
        ("/api/v1/a", "PUT", LIMIT + 1, 413),
    ],
)
def test_request_outside_the_rules_is_not_signed(
    site: EgressSite, proxy: Proxy, target: str, method: str, size: int, status: int
) -> None:
    before = guard_counts(proxy)
    assert ask(site, proxy, target, method=method, body=b"x" * size or None)[0] == status

    after = guard_counts(proxy)
    assert {name: count for name, count in after.items() if name != "tls"} == {
        name: count for name, count in before.items() if name != "tls"
    }
    assert site.psp.seen == []


def test_signatures_are_counted(site: EgressSite, proxy: Proxy) -> None:
    before = guard_counts(proxy)
    for target in ("/hook/v1/x", "/s3/x", "/api/x", "/robot/v1/x"):
        assert ask(site, proxy, target)[0] == 200

    after = guard_counts(proxy)
    assert {name: after[name] - before[name] for name in ("hook", "s3", "api", "robot")} == dict.fromkeys(
        ("hook", "s3", "api", "robot"), 1
    )


EDITS = {
    "another upstream": ("tls: {name: localhost, ca: ca.pem}}", "tls: {name: evil, ca: ca.pem}}"),
    "another header": (
        "header: X-Signature, scheme: raw, secret: hook",
        "header: X-Other, scheme: raw, secret: hook",
    ),
    "another scheme": ("scheme: raw, secret: hook", "scheme: bearer, secret: hook"),
    "wider path": ("secret: hook,", 'secret: hook, paths: ["/*"],'),
    "wider method": ("secret: hook,", "secret: hook, methods: [DELETE],"),
    "anyone": ('secret: robot, callers: ["127.0.0.0/8"]', "secret: robot, callers: [anyone]"),
    "a server's key as a token": ("secret: robot,", "secret: tls,"),
    "a server's key as a client's": ('key: "sealed:p256"', 'key: "sealed:tls"'),
    "another key for the client's chain": (
        'chain: p256.pem, key: "sealed:p256"',
        'chain: rsa.pem, key: "sealed:p256"',
    ),
    "a client's key for a listener": (
        '{chain: tls.pem, key: "sealed:tls"}',
        '{chain: p256.pem, key: "sealed:p256"}',
    ),
    "no such ticket secret": ("workers: 1", "workers: 1\ntickets: {secret: hook}"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_wider_configuration_is_refused_at_reload(site: EgressSite, proxy: Proxy, edit: str) -> None:
    old, new = EDITS[edit]
    before = proxy.config.read_text()
    assert old in before
    proxy.config.write_text(before.replace(old, new, 1))
    try:
        result = proxy.command("reload")
    finally:
        proxy.config.write_text(before)

    assert result.returncode == 21, result.stderr
    assert ask(site, proxy, "/hook/v1/x") == (200, BODY)


def test_wider_configuration_is_refused_at_start(site: EgressSite) -> None:
    old, new = EDITS["a server's key as a client's"]
    with Proxy(site.folder, site.config.replace(old, new).replace("admin.sock", "b.sock"), name="b") as proxy:
        assert proxy.wait_for_end() == 21
        assert "role client" in proxy.text() or "does not belong" in proxy.text()


@pytest.mark.parametrize("kind", LOGINS)
def test_upstream_that_wants_a_client_certificate_gets_it(site: EgressSite, proxy: Proxy, kind: str) -> None:
    answer = ask(
        site, proxy, f"/login-{kind}/v1/me", method="POST", body=b"hi", headers={"Range": "bytes=0-1"}
    )

    assert answer == (200, BODY)
    (seen,) = site.login.seen
    assert (seen.target, seen.body, seen.peer) == ("/v1/me", b"hi", f"{kind}.login")
    assert seen.value("range") == "bytes=0-1"
    assert guard_counts(proxy)[kind] >= 1


def test_client_certificate_route_reads_paths_in_one_way_only(site: EgressSite, proxy: Proxy) -> None:
    assert ask(site, proxy, "/login-p256/v1/..%2fadmin")[0] == 400
    assert site.login.seen == []


def test_dead_guard_signs_nothing_and_a_new_one_does_again(site: EgressSite, proxy: Proxy) -> None:
    os.kill(proxy.pid("guard"), signal.SIGKILL)
    proxy.wait_for_event("guard died")
    proxy.wait_for_event("serving", count=2)

    assert ask(site, proxy, "/hook/v1/x") == (200, BODY)
    assert ask(site, proxy, "/login-rsa/v1/x") == (200, BODY)
