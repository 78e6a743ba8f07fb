"""Tang's protocol at the gate: paths, bodies and points, with tangd's statuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.gate.protocol import (
    CURVES,
    MAX_BODY_BYTES,
    MAX_URL_BYTES,
    Route,
    StatusError,
    read_point,
    read_recovery,
    route,
)

FACTORY = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def random_point(curve: str = "P-521") -> dict[str, Any]:
    numbers = ec.generate_private_key(FACTORY[curve]).public_key().public_numbers()
    size = CURVES[curve].size
    x, y = (base64url.encode(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
    return {"crv": curve, "kty": "EC", "x": x, "y": y}


EXCHANGE = random_point() | {"alg": "ECMR", "key_ops": ["deriveKey"]}
KID = jose.thumbprint(EXCHANGE)
SIGNING = frozenset({base64url.digest(b"signing")})


def status_of(method: str, path: str) -> int:
    with pytest.raises(StatusError) as caught:
        route(method, path)
    return caught.value.status


def status_of_body(body: bytes, *, kid: str = KID) -> int:
    with pytest.raises(StatusError) as caught:
        read_recovery(body, kid=kid, exchange={KID: EXCHANGE}, signing=SIGNING)
    return caught.value.status


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/s/pay/adv", Route("advertisement", "pay", "")), ("GET", "/s/pay//adv//", Route("advertisement", "pay", "")),
        ("GET", "/s/pay/adv/abc_-9", Route("advertisement", "pay", "abc_-9")),
        ("POST", "/s/pay/rec/abc", Route("recovery", "pay", "abc")), ("POST", "/s/pay//rec//abc", Route("recovery", "pay", "abc")),
        ("GET", "/s/pay/wait/abc", Route("wait", "pay", "abc")), ("GET", "/r/7QK2", Route("card", "", "7QK2")),
        ("GET", "/adv", Route("gate", "", "")), ("GET", "/s/a.b_c-9/adv", Route("advertisement", "a.b_c-9", "")),
    ],
)  # fmt: skip
def test_path_leads_to_its_route(method: str, path: str, found: Route) -> None:
    assert route(method, path) == found


@pytest.mark.parametrize(
    "path",
    [
        "/", "/health", "/s/pay", "/s/pay/", "/s/pay/rec", "/s/pay/rec/", "/s/pay/adv?x=1", "/s/pay/adv/a.b", "/s/../adv",
        "/s/%70ay/adv", "http://h/s/pay/adv", "/s/PAY/adv", "/s//adv", "/s/pay/adv\n", "/s/pay/rec/abc\n", "/s/pay/rec/a b",
        "/s/" + "p" * 65 + "/adv", "/r/", "/r/7QK2/", "//s/pay/adv", "/rec/abc",
    ],
)  # fmt: skip
def test_other_paths_are_404(path: str) -> None:
    assert status_of("GET", path) == 404


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "POST", "get"])
def test_known_path_with_another_method_is_405(method: str) -> None:
    assert status_of(method, "/s/pay/adv") == 405
    assert status_of("GET", "/s/pay/rec/abc") == 405


def test_long_path_is_414() -> None:
    longest = "/s/pay/adv/" + "A" * (MAX_URL_BYTES - len("/s/pay/adv/"))

    assert route("GET", longest).rest.startswith("AAA")
    assert status_of("GET", longest + "A") == 414


@pytest.mark.parametrize("curve", CURVES)
def test_point_on_its_curve_is_read(curve: str) -> None:
    point = random_point(curve)

    assert read_point(point).thumbprint == jose.thumbprint(point)


@pytest.mark.parametrize("curve", CURVES)
def test_generator_lies_on_its_curve(curve: str) -> None:
    """The constants are the standard's: cryptography's own base point is on them."""
    numbers = ec.derive_private_key(1, FACTORY[curve]).public_key().public_numbers()
    size = CURVES[curve].size
    x, y = (base64url.encode(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))

    assert json.loads(read_point({"crv": curve, "x": x, "y": y}).jwk)["kty"] == "EC"


def test_canonical_point_drops_members_that_do_not_count() -> None:
    point = random_point()
    more = point | {"alg": "ECMR", "key_ops": ["deriveKey"], "kid": "x", "more": 1}

    assert read_point(more) == read_point(point)


@pytest.mark.parametrize("curve", CURVES)
def test_point_off_its_curve_at_infinity_or_out_of_range_is_400(curve: str) -> None:
    point, size, prime = random_point(curve), CURVES[curve].size, CURVES[curve].prime
    y = int.from_bytes(base64url.decode(point["y"]), "big")
    texts = [
        base64url.encode(((y + 1) % prime).to_bytes(size, "big")), base64url.encode(bytes(size)), "",
        base64url.encode(b"\0" + y.to_bytes(size, "big")), base64url.encode(y.to_bytes(size, "big")[1:]), "!!", 7, None, ["x"],
    ]  # fmt: skip
    if curve == "P-521":
        texts.append(
            base64url.encode((y + prime).to_bytes(size, "big"))
        )  # y and y + p are one number modulo p
    for text in texts:
        with pytest.raises(StatusError, match="400"):
            read_point(point | {"y": text})
    with pytest.raises(StatusError, match="400"):
        read_point(point | dict.fromkeys(("x", "y"), base64url.encode(bytes(size))))


def test_request_gives_the_keys_own_thumbprint() -> None:
    point = random_point()
    kid, found = read_recovery(
        json.dumps(point).encode(), kid="short", exchange={"short": EXCHANGE}, signing=SIGNING
    )

    assert (kid, found.thumbprint) == (KID, jose.thumbprint(point))


@pytest.mark.parametrize(
    "extra", [{"alg": "ECMR"}, {"key_ops": ["deriveKey"]}, {"key_ops": ["deriveKey", "sign"], "use": "sig"}, {"more": {"a": []}}]
)  # fmt: skip
def test_request_with_members_that_allow_it_is_taken(extra: dict[str, Any]) -> None:
    body = json.dumps(random_point() | extra).encode()

    assert read_recovery(body, kid=KID, exchange={KID: EXCHANGE}, signing=SIGNING)[0] == KID


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ({"key_ops": []}, 403), ({"key_ops": ["sign"]}, 403), ({"key_ops": "deriveKey"}, 403), ({"use": "enc"}, 403),
        ({"kty": "RSA"}, 400), ({"kty": None}, 400), ({"alg": "ECDH"}, 400), ({"alg": 1}, 400), ({"alg": None}, 400),
        ({"d": "AAAA"}, 400), ({"crv": "P-256"}, 400), ({"crv": None}, 400), ({"x": None}, 400),
    ],
)  # fmt: skip
def test_request_that_may_not_be_answered_gets_tangds_status(extra: dict[str, Any], status: int) -> None:
    assert status_of_body(json.dumps(random_point() | extra).encode()) == status


@pytest.mark.parametrize(
    "body", [b"", b"foo", b"[]", b"null", b"{}", b"\xff", b'{"kty":"EC","kty":"EC"}', b"[" * 2000]
)
def test_body_that_is_no_object_is_400(body: bytes) -> None:
    assert status_of_body(body) == 400


def test_body_over_4_kib_is_413() -> None:
    assert status_of_body(b" " * (MAX_BODY_BYTES + 1)) == 413


def test_unknown_kid_is_404_and_the_signing_keys_is_403() -> None:
    body = json.dumps(random_point()).encode()

    assert status_of_body(body, kid="unknown") == 404
    assert status_of_body(body, kid=next(iter(SIGNING))) == 403


def test_point_of_another_curve_than_the_key_is_400() -> None:
    assert status_of_body(json.dumps(random_point("P-256")).encode()) == 400
