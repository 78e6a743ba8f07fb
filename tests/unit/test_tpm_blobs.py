"""TPM structures and policy digests against what tpm2-tools and clevis wrote."""

from typing import Any

import pytest
from support.vectors import load, named

from unlatch.bootstrap import jose
from unlatch.memguard.custodian import tpm_blobs as blobs

VECTORS = load("clevis_tpm2")
WITH_PCRS = [
    vector
    for vector in VECTORS["vectors"]
    if "pcr_ids" in vector["header"]["clevis"]["tpm2"] and "pcr_digest" not in vector["config"]
]


def at_reset(bank: str, index: int) -> bytes:
    """A PCR's value after power-on: 17 to 22 are all ones."""
    return (b"\xff" if 17 <= index <= 22 else b"\0") * blobs.digest_size(bank)


@pytest.mark.parametrize("name", VECTORS["primary_public_TPM2B"])
def test_primary_template_is_that_of_tpm2_tools(name: str) -> None:
    key, hash_name = name.split("/")
    unique = 4 if key == "ecc" else 2
    made = jose.decode(VECTORS["primary_public_TPM2B"][name])

    template = blobs.primary_template(key, hash_name)[2:-unique]

    assert made[2:].startswith(template)


@pytest.mark.parametrize("vector", named(WITH_PCRS, "desc"))
def test_policy_and_sealed_template_are_those_of_clevis(vector: dict[str, Any]) -> None:
    header = vector["header"]["clevis"]["tpm2"]
    bank, indices = header["pcr_bank"], [int(one) for one in header["pcr_ids"].split(",")]
    values = b"".join(at_reset(bank, index) for index in sorted(set(indices)))

    policy = blobs.after_pcrs(blobs.empty_policy(header["hash"]), header["hash"], bank, indices, values)

    template = blobs.sealed_template(header["hash"], policy)
    assert jose.decode(header["jwk_pub"])[2:].startswith(template[2:-2])


def test_order_and_repetition_of_pcrs_do_not_matter() -> None:
    assert blobs.pcr_selection("sha256", [7, 0, 7]) == blobs.pcr_selection("sha256", [0, 7])
    assert blobs.pcr_selection("sha256", [0, 7]) == bytes.fromhex("00000001000b03810000")
    assert blobs.pcr_selection("sha1", [23]) == bytes.fromhex("00000001000403000080")


def test_unknown_names_are_refused() -> None:
    for key, hash_name in [("ed25519", "sha256"), ("ecc", "md5")]:
        with pytest.raises(KeyError):
            blobs.primary_template(key, hash_name)


def test_authorized_policy_depends_on_key_and_reference() -> None:
    digests = {
        blobs.authorized("sha256", name, reference) for name in (b"a", b"b") for reference in (b"", b"x")
    }

    assert len(digests) == 4
