"""A token's PIN does not stay in a custodian's memory; the same scan finds it where python-pkcs11 logged in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.custodian_process import Custodian, tls13
from support.softhsm import MODULE, SoftHsm

from unlatch.memguard import scan
from unlatch.memguard.posture import environment

pytestmark = [pytest.mark.memory, pytest.mark.interop]

LONG_PIN = "Kq7-vR2mX9-TZp4wL8-hB3nY6-cD5fJ1-sG0aQeUi"
SIGNATURES = 1000

ORDINARY = """
import sys, pkcs11
token = pkcs11.lib(sys.argv[1]).get_token(token_label="prod")
pin = sys.stdin.readline().strip()
session = token.open(user_pin=pin)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def hsm() -> Iterator[SoftHsm]:
    if os.getuid() != 0:
        pytest.fail("reading the memory of non-dumpable processes needs root")
    with SoftHsm() as tokens:
        tokens.add_token("prod", pin=LONG_PIN)
        tokens.tool(
            "prod",
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--label",
            "site",
            "--id",
            "01",
            pin=LONG_PIN,
        )
        yield tokens


def hits(pid: int) -> int:
    report = scan.scan(pid, scan.Index(scan.forms(LONG_PIN.encode())))
    assert report.bytes_read > 1 << 20
    return report.hits


def test_pin_is_found_where_it_is_kept(hsm: SoftHsm) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORDINARY, str(MODULE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=hsm.environment,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(LONG_PIN + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"

        assert hits(process.pid) > 0
        process.kill()


def test_pin_is_gone_after_the_login_and_after_many_signatures(hsm: SoftHsm) -> None:
    keys = [{"id": 1, "name": "site", "uri": "pkcs11:token=prod;object=site;type=private"}]
    config = {"kind": "pkcs11", "module": str(MODULE), "token": "pkcs11:token=prod", "keys": keys}
    with Custodian(config, {"SOFTHSM2_CONF": str(hsm.config)}) as custodian:
        custodian.wait_for("need-pin")
        custodian.give_pin(LONG_PIN)
        custodian.wait_for("ready")
        assert hits(custodian.process.pid) == 0
        for at in range(SIGNATURES):
            custodian.sign(1, 0x0403, tls13(str(at)))

        assert hits(custodian.process.pid) == 0


def test_wrong_pin_is_gone_too(hsm: SoftHsm) -> None:
    config = {"kind": "pkcs11", "module": str(MODULE), "token": "pkcs11:token=prod", "keys": []}
    with Custodian(config, {"SOFTHSM2_CONF": str(hsm.config)}) as custodian:
        custodian.wait_for("need-pin")
        with pytest.raises(Exception, match="PIN_WRONG"):
            custodian.give_pin(LONG_PIN[::-1] + "x")
        report = scan.scan(custodian.process.pid, scan.Index(scan.forms((LONG_PIN[::-1] + "x").encode())))

        assert report.hits == 0


def test_pin_of_a_sealed_file_is_gone_with_the_hard_environment(hsm: SoftHsm) -> None:
    """The pkcs11 pin: from a file over locked memory into the module."""
    code = """
import sys
from unlatch.memguard.custodian.cryptoki import Module
from unlatch.memguard.custodian.page import copied
from unlatch.memguard.custodian.uri import TokenUri
from unlatch.memguard._native import Secret
pin = Secret.read_line_fd(0, 100)
module = Module(sys.argv[1])
session = module.token(TokenUri(token="prod")).open()
with copied(pin) as page:
    module.login(session, page, len(pin))
pin.wipe()
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(MODULE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment.hard(hsm.environment),
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(LONG_PIN + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"

        assert hits(process.pid) == 0
        process.kill()
