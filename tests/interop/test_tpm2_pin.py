"""The tpm2 pin on a real (software) TPM, against Debian's clevis 19, both ways."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.secrets import revealed, secret
from support.swtpm import Swtpm
from support.tangd import Tangd
from support.vectors import load, named

from unlatch.bootstrap import jose, seal
from unlatch.bootstrap.open import recover_content_key
from unlatch.bootstrap.pins.hardware import Hardware
from unlatch.bootstrap.pins.http import PlainTransport
from unlatch.bootstrap.policy import PolicyError, Tpm2Rule, parse_any_policy
from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import (
    ConfigError,
    DamagedFileError,
    PolicyRefusedError,
    UnavailableError,
    UnlatchError,
)
from unlatch.memguard._native import jwe_open, jwe_seal
from unlatch.memguard.custodian import tpm_blobs as blobs
from unlatch.memguard.custodian.tss import Tpm

pytestmark = pytest.mark.interop

VECTORS = load("clevis_tpm2")["vectors"]
FUTURE = "pcr_digest = predicted value of PCR 16 after one extend"
CONFIGS: list[dict[str, Any]] = [
    {},
    {"key": "rsa"},
    {"key": "ecc384"},
    {"key": "rsa3072"},
    {"hash": "sha1"},
    {"hash": "sha384"},
    {"hash": "sha512", "key": "rsa"},
    {"pcr_ids": "7"},
    {"pcr_bank": "sha256", "pcr_ids": "7"},
    {"pcr_bank": "sha256", "pcr_ids": "17,0,16,0"},
    {"pcr_bank": "sha1", "pcr_ids": [0, 17]},
    {"pcr_bank": "sha384", "pcr_ids": ["4", "16"], "key": "rsa"},
    {"pcr_bank": "sha512", "pcr_ids": ["4,16"]},
    {"pcr_bank": "sha256", "pcr_ids": "0,1,2,3,4,5,6,7"},
    {"pcr_ids": ""},
]


@pytest.fixture(scope="module")
def old_tpm() -> Iterator[Swtpm]:
    """The TPM of the vectors; no test changes its PCRs."""
    with Swtpm.of_the_vectors() as tpm:
        yield tpm


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as running:
        yield running


@pytest.fixture(scope="module")
def shared_tpm() -> Iterator[Swtpm]:
    """For tests that leave PCRs alone."""
    with Swtpm() as running:
        yield running


def sealed(tpm: Swtpm, config: dict[str, Any] | str, plaintext: bytes = b"hi") -> bytes:
    text = config if isinstance(config, str) else json.dumps(config)
    target = seal.resolve(parse_any_policy(text), advertiser=PlainTransport(), accept=lambda *_: "first-use")
    return seal.encrypt(secret(plaintext), target, hardware=Hardware(tpm.tcti))


def opened(tpm: Swtpm, jwe: bytes) -> bytes:
    file = SealedFile.parse(jwe)
    key = recover_content_key(file, transport=PlainTransport(), hardware=Hardware(tpm.tcti))
    return revealed(jwe_open(file.compact, key))


def clevis(tpm: Swtpm, *arguments: str, data: bytes) -> bytes:
    """Run clevis, which leaks a session for every sealing with PCRs, and objects when it fails."""
    try:
        return tpm.run("clevis", *arguments, data=data)
    finally:
        tpm.run("tpm2_flushcontext", "-l")
        tpm.run("tpm2_flushcontext", "-t")


@pytest.mark.parametrize("vector", [one for one in named(VECTORS, "desc") if not one.id.startswith(FUTURE)])
def test_what_clevis_sealed_long_ago_opens(old_tpm: Swtpm, vector: dict[str, Any]) -> None:
    assert opened(old_tpm, vector["jwe"].encode()) == jose.decode(vector["plaintext_b64"].rstrip("="))
    assert old_tpm.leaks() == []


def test_predicted_value_opens_after_the_change_only() -> None:
    vector = next(one for one in VECTORS if one["desc"].startswith(FUTURE))
    with Swtpm.of_the_vectors() as tpm:
        with pytest.raises(PolicyRefusedError, match="PCRs sha256:16"):
            opened(tpm, vector["jwe"].encode())
        tpm.extend(16, "pcr16")

        assert opened(tpm, vector["jwe"].encode()) == b"future"


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in named(load("malformed_tpm2_input")["cases"], "case")
        if case.id not in ("TPM not reachable", "extra trailing newline")
    ],
)
def test_changed_files_are_refused_as_clevis_refuses_them(old_tpm: Swtpm, case: dict[str, Any]) -> None:
    with pytest.raises((DamagedFileError, PolicyRefusedError)):
        opened(old_tpm, case["input"].encode())
    assert old_tpm.leaks() == []


def test_trailing_newline_is_accepted(old_tpm: Swtpm) -> None:
    case = next(
        one for one in load("malformed_tpm2_input")["cases"] if one["case"] == "extra trailing newline"
    )

    assert opened(old_tpm, case["input"].encode()) == b"tpm"


@pytest.mark.parametrize("config", CONFIGS, ids=json.dumps)
def test_clevis_opens_what_we_seal(shared_tpm: Swtpm, config: dict[str, Any]) -> None:
    jwe = sealed(shared_tpm, config)

    assert shared_tpm.leaks() == []
    assert clevis(shared_tpm, "decrypt", data=jwe) == b"hi"
    assert opened(shared_tpm, jwe) == b"hi"


@pytest.mark.parametrize("config", CONFIGS, ids=json.dumps)
def test_we_open_what_clevis_seals(shared_tpm: Swtpm, config: dict[str, Any]) -> None:
    jwe = clevis(shared_tpm, "encrypt", "tpm2", json.dumps(config), data=b"hello")

    assert opened(shared_tpm, jwe) == b"hello"
    assert shared_tpm.leaks() == []


def test_wrong_hash_with_pcrs_is_read_but_never_written(shared_tpm: Swtpm) -> None:
    config = {"hash": "sha384", "pcr_bank": "sha256", "pcr_ids": "7"}
    with pytest.raises(PolicyError, match="together with pcr_ids"):
        sealed(shared_tpm, config)
    jwe = clevis(shared_tpm, "encrypt", "tpm2", json.dumps(config), data=b"hello")

    with pytest.raises(AssertionError):  # clevis's own bug
        clevis(shared_tpm, "decrypt", data=jwe)

    assert opened(shared_tpm, jwe) == b"hello"


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_changed_pcr_locks(tpm: Swtpm, bank: str) -> None:
    jwe = sealed(tpm, {"pcr_bank": bank, "pcr_ids": "7,16"})
    free = sealed(tpm, {})
    assert opened(tpm, jwe) == b"hi"

    tpm.extend(16, "new kernel", bank)

    with pytest.raises(PolicyRefusedError, match=f"PCRs {bank}:7,16 are as they were") as caught:
        opened(tpm, jwe)
    assert caught.value.exit_code == 13
    assert "kernel" in str(caught.value.hint)
    assert opened(tpm, free) == b"hi"
    assert tpm.leaks() == []


def test_reboot_into_the_same_state_opens(tpm: Swtpm) -> None:
    tpm.extend(7, "boot loader")
    jwe = sealed(tpm, {"pcr_bank": "sha256", "pcr_ids": "7"})
    tpm.restart()
    with pytest.raises(PolicyRefusedError):
        opened(tpm, jwe)

    tpm.extend(7, "boot loader")

    assert opened(tpm, jwe) == b"hi"


def test_many_pcrs_are_refused_because_clevis_could_not_open_them(shared_tpm: Swtpm) -> None:
    with pytest.raises(PolicyError, match="more than 8 PCRs"):
        sealed(shared_tpm, {"pcr_ids": "0,1,2,3,4,5,6,7,8"})


def test_another_tpm_does_not_open(tpm: Swtpm, shared_tpm: Swtpm) -> None:
    jwe = sealed(shared_tpm, {})

    with pytest.raises(DamagedFileError, match="does not know the sealed key"):
        opened(tpm, jwe)


def test_cleared_tpm_does_not_open(tpm: Swtpm) -> None:
    jwe = sealed(tpm, {})
    tpm.run("tpm2_clear", "-c", "p")

    with pytest.raises(DamagedFileError, match="does not know the sealed key"):
        opened(tpm, jwe)


def test_fifty_operations_leave_nothing_behind(shared_tpm: Swtpm) -> None:
    for _ in range(25):
        jwe = sealed(shared_tpm, {"pcr_bank": "sha256", "pcr_ids": "7"})
        assert opened(shared_tpm, jwe) == b"hi"

    assert shared_tpm.leaks() == []


def test_failures_leave_nothing_behind(shared_tpm: Swtpm) -> None:
    jwe = sealed(shared_tpm, {"pcr_bank": "sha256", "pcr_ids": "16"})
    header = json.loads(jose.decode(jwe.decode().split(".")[0]))
    header["clevis"]["tpm2"]["pcr_ids"] = "17"
    other = jose.encode(jose.write_json(header)).encode() + jwe[jwe.index(b".") :]

    for _ in range(6):
        with pytest.raises(PolicyRefusedError):
            opened(shared_tpm, other)

    assert shared_tpm.leaks() == []


def test_absent_tpm_may_be_tried_again(shared_tpm: Swtpm) -> None:
    jwe = sealed(shared_tpm, {})
    gone = Swtpm()
    gone.start()
    gone.stop()

    with pytest.raises(UnavailableError, match="the TPM does not answer"):
        opened(gone, jwe)


def test_full_tpm_says_who_may_help(tpm: Swtpm) -> None:
    jwe = sealed(tpm, {})
    for _ in range(3):
        tpm.run("tpm2_createprimary", "-C", "o", "-c", f"{tpm.folder}/x.ctx")

    with pytest.raises(UnavailableError, match="no room") as caught:
        opened(tpm, jwe)
    assert "tpm2_flushcontext" in str(caught.value.hint)


def test_bank_that_is_not_active_is_named(shared_tpm: Swtpm) -> None:
    with pytest.raises(UnlatchError) as caught:
        sealed(shared_tpm, {"pcr_bank": "sha256", "pcr_ids": "7", "pcr_digest": "AAAA"})
    assert "pcr_digest has 3 bytes, expected 32" in str(caught.value)


def test_inactive_bank_is_refused(tpm: Swtpm) -> None:
    tpm.run("tpm2_pcrallocate", "-P", "", "sha256:all+sha1:none+sha384:none+sha512:none")
    tpm.restart()

    with pytest.raises(ConfigError, match="sha1 bank has no PCR 7"):
        sealed(tpm, {"pcr_bank": "sha1", "pcr_ids": "7"})
    with Tpm(tpm.tcti) as connection:
        assert list(connection.banks()) == ["sha256"]


def test_tpm_and_a_person_are_both_needed(tpm: Swtpm, tangd: Tangd) -> None:
    policy = {
        "t": 2,
        "pins": {
            "tang": [{"url": tangd.url, "thp": tangd.thumbprint}],
            "tpm2": {"pcr_bank": "sha256", "pcr_ids": "7"},
        },
    }
    jwe = sealed(tpm, policy)
    assert opened(tpm, jwe) == b"hi"
    assert clevis(tpm, "decrypt", data=jwe) == b"hi"
    assert opened(tpm, clevis(tpm, "encrypt", "sss", json.dumps(policy), "-y", data=b"theirs")) == b"theirs"

    tpm.extend(7, "evil maid")
    with pytest.raises(PolicyRefusedError):
        opened(tpm, jwe)


def test_two_of_tpm_and_two_servers(tpm: Swtpm, tangd: Tangd) -> None:
    with Tangd() as other:
        servers = [{"url": one.url, "thp": one.thumbprint} for one in (tangd, other)]
        jwe = sealed(tpm, {"t": 2, "pins": {"tang": servers, "tpm2": {}}})

    assert opened(tpm, jwe) == b"hi"  # one server is gone: the TPM and the other suffice
    tpm.stop()
    with pytest.raises(UnavailableError):
        opened(tpm, jwe)


def test_two_shares_of_one_tpm_take_turns(shared_tpm: Swtpm) -> None:
    jwe = sealed(shared_tpm, {"t": 2, "pins": {"tpm2": [{}, {"key": "rsa"}]}})

    assert opened(shared_tpm, jwe) == b"hi"


def test_key_without_alg_as_the_rust_pin_writes_it_opens(shared_tpm: Swtpm) -> None:
    key = secret(bytes(range(32)))
    text = json.dumps({"kty": "oct", "k": jose.encode(bytes(range(32)))}).encode()
    with (
        Tpm(shared_tpm.tcti) as tpm,
        tpm.primary(blobs.primary_template("ecc", "sha256")) as parent,
        tpm.session(salt=parent, encrypt="commands") as session,
    ):
        template = blobs.sealed_template("sha256", b"")
        public, private = tpm.create_sealed(parent, template, secret(text), session=session)
    members = {
        "hash": "sha256",
        "key": "ecc",
        "jwk_pub": jose.encode(public),
        "jwk_priv": jose.encode(private),
    }
    jwe = jwe_seal(jose.write_json({"clevis": {"pin": "tpm2", "tpm2": members}}), secret(b"rust"), key)

    assert opened(shared_tpm, jwe) == b"rust"


def test_rule_is_what_the_header_then_says(shared_tpm: Swtpm) -> None:
    jwe = seal.encrypt(secret(b"x"), Tpm2Rule(pcrs=(11, 7)), hardware=Hardware(shared_tpm.tcti))

    header = SealedFile.parse(jwe).header["clevis"]

    assert isinstance(header, dict)
    assert header["tpm2"]["pcr_bank"] == "sha256"
    assert header["tpm2"]["pcr_ids"] == "11,7"
