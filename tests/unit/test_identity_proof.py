"""What a host signs, how it is written, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from support.host_keys import HostKeyInMemory

from unlatch.bootstrap import jose
from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.bootstrap.identity.proof import (
    MAX_HEADER_BYTES,
    ORDER,
    Asking,
    HostKey,
    Identity,
    Proof,
    ProofError,
    PublicLine,
    check_challenge,
    in_words,
    is_enrolled,
    lowered,
)

KEY, OTHER = HostKeyInMemory(), HostKeyInMemory()
CLAIMS = Claims(workload="pay", host="web1", bundle_digest=base64url.digest(b"b")).encode()
ASKING = Asking("pay", base64url.digest(b"kid"), base64url.digest(b"point"), CLAIMS)
CHALLENGE = base64url.encode(bytes(range(72)))
THUMBPRINT = base64url.digest(b"some key")


def test_proof_is_written_read_and_verified_alike() -> None:
    header = KEY.prove(ASKING, CHALLENGE)
    proof = Proof.parse(header)
    proof.verify(ASKING)

    assert str(proof) == header
    assert proof.key == KEY.public
    assert len(header) <= MAX_HEADER_BYTES


def test_first_header_is_the_key_alone() -> None:
    proof = Proof.parse(str(Proof(KEY.public)))

    assert proof == Proof(KEY.public)
    with pytest.raises(ProofError, match="without a signature"):
        proof.verify(ASKING)


@pytest.mark.parametrize(
    "change",
    [
        {"workload": "other"}, {"kid": base64url.digest(b"x")}, {"point": base64url.digest(b"x")},
        {"claims": Claims(workload="pay", host="web1", bundle_digest=base64url.digest(b"c")).encode()},
        {"claims": Claims(workload="pay", host="web1", config_digest=base64url.digest(b"c")).encode()},
    ],
)  # fmt: skip
def test_proof_for_something_else_is_refused(change: dict[str, object]) -> None:
    proof = Proof.parse(KEY.prove(ASKING, CHALLENGE))
    with pytest.raises(ProofError, match="wrong"):
        proof.verify(dataclasses.replace(ASKING, **change))  # type: ignore[arg-type]


def test_proof_over_another_challenge_or_by_another_key_is_refused() -> None:
    proof = Proof.parse(KEY.prove(ASKING, CHALLENGE))
    for changed in (
        dataclasses.replace(proof, challenge=base64url.encode(bytes(72))),
        dataclasses.replace(proof, key=OTHER.public),
        dataclasses.replace(proof, signature=bytes(64)),
    ):
        with pytest.raises(ProofError):
            changed.verify(ASKING)


def test_proof_over_claims_that_cannot_be_read_is_refused() -> None:
    proof = Proof.parse(KEY.prove(ASKING, CHALLENGE))
    with pytest.raises(ProofError, match="cannot be read"):
        proof.verify(dataclasses.replace(ASKING, claims=b"{"))


def test_only_the_lower_value_of_s_counts() -> None:
    signature = KEY.sign(b"message")
    s = int.from_bytes(signature[32:], "big")
    higher = signature[:32] + (ORDER - s).to_bytes(32, "big")
    KEY.public.verify(signature, b"message")

    assert lowered(higher) == lowered(signature) == signature
    with pytest.raises(ProofError, match="one way"):
        KEY.public.verify(higher, b"message")


@pytest.mark.parametrize(
    "header",
    ["", ".", "..", "x", f"{KEY.public}.", f"{KEY.public}.{CHALLENGE}", f"{KEY.public}.{CHALLENGE}.x",
     f"{KEY.public}.{CHALLENGE}.{'A' * 86}.A", f"{KEY.public}.{'A' * 95}.{'A' * 86}", f"{KEY.public}.{CHALLENGE}.{'A' * 85}",
     f"{KEY.public}.{CHALLENGE}.{'!' * 86}", f" {KEY.public}", f"{KEY.public}\n", "A" * 1000],
)  # fmt: skip
def test_header_that_is_no_proof_is_refused(header: str) -> None:
    with pytest.raises(ProofError):
        Proof.parse(header)


@pytest.mark.parametrize(
    "point",
    [b"", bytes(65), b"\x04" + bytes(64), b"\x02" + bytes(32), KEY.public.point[:-1], b"\x04" + b"\xff" * 64],
)
def test_key_that_is_no_point_is_refused(point: bytes) -> None:
    with pytest.raises(ProofError):
        HostKey.parse(base64url.encode(point))


def test_key_of_a_jwk_has_its_thumbprint() -> None:
    x, y = (base64url.encode(KEY.public.point[at : at + 32]) for at in (1, 33))
    jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256"}

    assert HostKey.of_jwk(jwk) == KEY.public
    assert KEY.public.thumbprint == jose.thumbprint(jwk)
    for name, wrong in (("crv", "P-384"), ("x", "!"), ("x", y[:-2]), ("y", ""), ("y", x)):
        with pytest.raises(ProofError):
            HostKey.of_jwk(jwk | {name: wrong})


def test_public_line_is_written_and_read_alike() -> None:
    for line in (PublicLine("tpm", KEY.public, "web1"), PublicLine("file", KEY.public)):
        assert PublicLine.parse(str(line)) == line
        assert PublicLine.parse(f"{line}\n") == line


@pytest.mark.parametrize(
    "text",
    ["", "unlatch-host-v1", f"unlatch-host-v2 tpm {KEY.public}", f"unlatch-host-v1 hsm {KEY.public}",
     f"unlatch-host-v1 tpm {KEY.public} a b", f"unlatch-host-v1 tpm {KEY.public} \x1b", f"unlatch-host-v1 tpm {KEY.public}\n\n",
     f"unlatch-host-v1 tpm {'A' * 87}", f"unlatch-host-v1  tpm {KEY.public}"],
)  # fmt: skip
def test_line_that_is_no_host_key_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        PublicLine.parse(text)


@pytest.mark.parametrize(
    ("identity", "words", "enrolled"),
    [
        (Identity(THUMBPRINT, "web1", "tpm"), "TPM key web1", True),
        (Identity(THUMBPRINT, "web1", "file"), "file key web1", True),
        (Identity(THUMBPRINT), "new", False),
    ],
)
def test_identity_is_written_read_and_said(identity: Identity, words: str, enrolled: bool) -> None:
    assert Identity.parse(str(identity)) == identity
    assert in_words(str(identity)) == words
    assert is_enrolled(str(identity)) == enrolled


def test_nothing_proved_is_none() -> None:
    assert in_words(None) == "none"
    assert not is_enrolled(None)


@pytest.mark.parametrize(
    "text",
    ["", "none", "new", f"tpm {THUMBPRINT}", f"hsm web1 {THUMBPRINT}", f"tpm Web1 {THUMBPRINT}", f"new web1 {THUMBPRINT}",
     f"new {THUMBPRINT}\n", f"tpm web1 {THUMBPRINT[:-1]}", f"tpm  web1 {THUMBPRINT}"],
)  # fmt: skip
def test_text_that_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        Identity.parse(text)


@pytest.mark.parametrize("text", ["", "A" * 95, "A" * 97, "!" * 96, "A" * 95 + "\n"])
def test_text_that_is_no_challenge_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        check_challenge(text)
