"""Guard, a custodian and SoftHSM: keys that never leave the token, opened by a PIN out of the sealed file."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from support.custodian import CUSTODIAN
from support.guard_client import (
    ECDSA_P256,
    PSS_SHA256,
    GuardClient,
    RefusedByGuard,
    WorkerClient,
    base64url,
    bundle,
    certificate_verify,
    private_key_secret,
    running_guard,
    seal,
    spki,
)
from support.pki import PrivateKey, new_key, pem
from support.softhsm import MODULE, PIN, SoftHsm

from unlatch.memguard.custodian.launch import launch
from unlatch.memguard.custodian.plan import Options, plan

pytestmark = pytest.mark.interop

SEALING_KEY = os.urandom(32)
EC, RSA, SOFT = new_key("p256"), new_key("rsa"), new_key("p256")
KEYS: dict[str, PrivateKey] = {
    f"pkcs11:token=prod;object={name};type=private?module-path={MODULE}": key
    for name, key in (("ec", EC), ("rsa", RSA))
}
EC_NAME, RSA_NAME = KEYS
EC_ID, RSA_ID, SOFT_ID = 0x8000, 0x8001, 1


class Site:
    """A guard and the configuration of its custodian."""

    def __init__(self, guard: GuardClient, hsm: SoftHsm) -> None:
        self.guard = guard
        read = (str(hsm.folder),)
        options = {str(MODULE): Options(read=read, write=read)}
        (self.config,), _ = plan({name: name.encode() for name in KEYS}, options=options)

    async def start(self) -> Process:
        process, connection = await launch(self.config)
        keys = [{"id": key["id"], "name": key["name"]} for key in self.config["keys"]]
        content = {"id": 0, "hardware": self.config["token"], "keys": keys, "pin": "pin"}
        with connection:
            self.guard.ask(CUSTODIAN, content, [connection.fileno()])
        return process

    def load(self, pin: str) -> None:
        secrets = {
            "soft": private_key_secret(SOFT, {"names": ["a.example"]}),
            "pin": {"kind": "pin", "value": pin, "use": {"hardware": self.config["token"]}},
        }
        self.guard.load(seal(bundle(secrets), SEALING_KEY), SEALING_KEY)

    def configure(self) -> dict[str, Any]:
        certificates = [
            {"where": "w", "key": name, "spki": base64url(spki(key)), "names": ["a.example"]}
            for name, key in [*KEYS.items(), ("soft", SOFT)]
        ]
        return self.guard.configure({"certificates": certificates, "inject": []})

    def state(self) -> str:
        return str(self.guard.status()["custodians"][0]["state"])

    async def wait_for(self, state: str) -> None:
        end = time.monotonic() + 20
        while self.state() != state:
            assert time.monotonic() < end, self.guard.status()["custodians"]
            await asyncio.sleep(0.05)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Site]:
    with SoftHsm() as hsm, running_guard() as guard:
        monkeypatch.setenv("SOFTHSM2_CONF", str(hsm.config))
        hsm.add_token("prod")
        for number, (name, key) in enumerate((("ec", EC), ("rsa", RSA)), start=1):
            (tmp_path / "key").write_bytes(pem(key))
            hsm.import_key("prod", tmp_path / "key", name, f"{number:02x}")
        yield Site(guard, hsm)


def trouble_in(answer: dict[str, Any]) -> list[str]:
    """The warnings but those that no rules are sealed for a key, which these tests leave out."""
    return [one for one in answer["warnings"] if "no sealed rules" not in one]


def check_signatures(edge: WorkerClient) -> None:
    message = certificate_verify()
    signature = edge.sign(EC_ID, ECDSA_P256, message)
    assert isinstance(EC, ec.EllipticCurvePrivateKey)
    EC.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))
    assert isinstance(RSA, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    RSA.public_key().verify(edge.sign(RSA_ID, PSS_SHA256, message), message, pss, hashes.SHA256())


def test_token_signs_after_the_load_and_heals_without_a_person(site: Site) -> None:
    async def scenario() -> None:
        first = await site.start()
        await site.wait_for("need-pin")
        site.load(PIN)
        await site.wait_for("ready")
        answer = site.configure()
        assert {one["name"]: one["algorithm"] for one in answer["keys"]} == {
            "soft": "ecdsa-p256", EC_NAME: "ecdsa-p256", RSA_NAME: "rsa-2048",
        }  # fmt: skip
        assert trouble_in(answer) == []
        edge = site.guard.edge()
        for _ in range(10):
            check_signatures(edge)

        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        await site.wait_for("lost")
        with pytest.raises(RefusedByGuard) as raised:
            edge.sign(EC_ID, ECDSA_P256, certificate_verify())
        assert raised.value.code == 13
        edge.sign(SOFT_ID, ECDSA_P256, certificate_verify())

        second = await site.start()
        await site.wait_for("ready")
        check_signatures(edge)
        keys = site.guard.status()["custodians"][0]["keys"]
        assert [key["signatures"] for key in keys] == [11, 11]
        assert all(0 < key["p50_ms"] <= key["p99_ms"] for key in keys)
        assert site.guard.status()["trapped_calls"] == {}

        site.guard.drop()  # closes the token
        assert await asyncio.wait_for(second.wait(), 10) == 0
        edge.socket.close()

    asyncio.run(scenario())


def test_wrong_pin_is_tried_once(site: Site) -> None:
    async def scenario() -> None:
        site.load("000000")
        first = await site.start()
        await site.wait_for("pin-wrong")
        assert "not reachable yet" in trouble_in(site.configure())[0]
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        second = await site.start()
        await site.wait_for("pin-wrong")
        assert site.guard.status()["custodians"][0]["reason"] == "the sealed PIN was refused"
        site.guard.drop()
        assert await asyncio.wait_for(second.wait(), 10) == 0

    asyncio.run(scenario())
