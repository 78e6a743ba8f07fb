"""`unlatch doctor` over a real site, its gate, its TPM and its token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.gate import Gate
from support.hardware_site import HardwareSite
from support.opened_by_key import seal_keyed
from support.product import UNLATCH, environment, unlatch
from support.sealed_site import Site
from support.softhsm import MODULE, SoftHsm
from support.swtpm import Swtpm
from support.tangd import Tangd

from unlatch.bootstrap import jose

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

WEAKER = Path(__file__).parents[1] / "support" / "weaker_host.py"


def examine(
    folder: Path, *arguments: str, extra: dict[str, str] | None = None
) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [*UNLATCH, "doctor", "--json", *arguments], cwd=folder, env=environment(folder) | (extra or {}),
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 22, 23), done.stderr.decode()
    report = json.loads(done.stdout)
    levels = [one["level"] for one in report["findings"]]
    assert (report["failures"], report["warnings"]) == (levels.count("failure"), levels.count("warning"))
    assert done.returncode == (22 if "failure" in levels else 23 if "warning" in levels else 0)
    return done.returncode, report["findings"]


def said(findings: list[dict[str, Any]], words: str) -> dict[str, Any]:
    (found,) = (one for one in findings if words in f"{one['where']}: {one['what']}")
    return found


def test_site_and_its_gate_are_examined_without_ringing_anybody(gate: Gate, gated: Site) -> None:
    (gated.folder / "unlatch.yaml").write_text(gated.config.replace("@port@", "1").replace("@health@", "2"))
    code, findings = examine(gated.folder, "-c", "unlatch.yaml")
    failures = [one for one in findings if one["level"] == "failure"]

    assert (code, failures) == (23, [])
    assert said(findings, "one way in")["level"] == "warning"
    assert said(findings, "knows the key")["where"] == gate.workload_url()
    assert said(findings, "its clock and ours agree")["level"] == "ok"
    assert said(findings, "guard: self-test passed")["level"] == "ok"
    assert said(findings, "guard is ")["level"] == "ok"
    assert gate.pending() == []


def test_gate_that_is_down_is_a_failure_unless_offline(gate: Gate, gated: Site) -> None:
    gate.stop()
    code, findings = examine(gated.folder, "pay.jwe")
    offline, others = examine(gated.folder, "--offline", "pay.jwe")

    assert (code, offline) == (22, 23)
    assert said(findings, "does not answer")["where"] == gate.workload_url()
    assert not any(one["where"] == gate.workload_url() for one in others)


def test_broken_configuration_and_file_are_failures_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "unlatch.yaml").write_text("listeners: [")
    (tmp_path / "bad.jwe").write_text("no file")
    code, findings = examine(tmp_path, "-c", "unlatch.yaml", "bad.jwe", "none.jwe")
    failed = [one["where"] for one in findings if one["level"] == "failure"]

    assert code == 22
    assert failed == ["unlatch.yaml", "bad.jwe", "none.jwe"]


def test_weaker_host_is_told_as_weaker(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, WEAKER, "--deny", "old-container", "--memlock", "65536", *UNLATCH, "doctor"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, timeout=60, check=False, text=True,
    )  # fmt: skip
    warned = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("warning")]

    assert done.returncode == 23, done.stderr
    assert {"memfd_secret:", "keyring:", "limit"} <= set(warned)
    assert done.stdout.count("next: ") == len(warned)


def test_file_of_strangers_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    seal_keyed(tmp_path, token="t" * 8 + "12345")
    head, _, rest = (tmp_path / "pay.jwe").read_bytes().partition(b".")
    header: Any = jose.read_json(jose.decode(head.decode()))
    header["unlatch"]["unbound"] = ["\x1b[2Jpsp"]
    (tmp_path / "pay.jwe").write_bytes(jose.encode(jose.write_json(header)).encode() + b"." + rest)
    shown = unlatch("doctor", "--offline", "pay.jwe", cwd=tmp_path)

    assert b"\x1b" not in shown.stdout
    assert b"psp" in shown.stdout


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as running:
        yield running


def seal(folder: Path, extra: dict[str, str], *target: str) -> None:
    (folder / "token").write_text("tok-12345678")
    done = subprocess.run(
        [*UNLATCH, "seal", *target, "--token", "psp=@token", "--unbound", "--out", "pay.jwe"],
        cwd=folder, env=environment(folder) | extra, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def test_tpm_is_asked_where_a_file_needs_it(tmp_path: Path, tpm: Swtpm) -> None:
    extra = {"UNLATCH_TCTI": tpm.tcti}
    seal(tmp_path, extra, "--tpm", "--pcrs", "7")
    _, findings = examine(tmp_path, "pay.jwe", extra=extra)
    code, without = examine(tmp_path, "pay.jwe", extra={"UNLATCH_TCTI": "swtpm:host=127.0.0.1,port=1"})

    assert said(findings, "TPM:")["level"] == "ok"
    assert "keeps the PCRs" in said(findings, "TPM:")["what"]
    assert code == 22
    assert said(without, "TPM:")["level"] == "failure"


def test_token_is_asked_where_a_file_needs_it(tmp_path: Path) -> None:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        tokens.make_key("prod", "rsa:2048", "seal")
        extra = {"SOFTHSM2_CONF": str(tokens.config)}
        seal(tmp_path, extra, "--pkcs11", f"pkcs11:token=prod;object=seal?module-path={MODULE}")
        _, findings = examine(tmp_path, "pay.jwe", extra=extra)
        (tmp_path / "empty").mkdir()
        config = tmp_path / "softhsm.conf"
        config.write_text(f"directories.tokendir = {tmp_path}/empty\n")
        code, without = examine(tmp_path, "pay.jwe", extra={"SOFTHSM2_CONF": str(config)})

    assert "token prod is there" in said(findings, "pkcs11:")["what"]
    assert code == 22
    assert "no token fits" in said(without, "pkcs11:")["what"]


def test_hardware_of_a_configuration_is_asked(tmp_path: Path, tpm: Swtpm, tangd: Tangd) -> None:
    with SoftHsm() as tokens:
        tokens.add_token("prod")
        site = HardwareSite(tmp_path, tokens, "--to", tangd.url, "--thp", tangd.thumbprint)
        site.add_tpm_key(tpm.tcti)
        (tmp_path / "unlatch.yaml").write_text(site.config(1).replace("@port@", "2").replace("@health@", "3"))
        _, findings = examine(tmp_path, "-c", "unlatch.yaml", extra=site.extra)
        (tmp_path / "empty").mkdir()
        tokens.config.write_text(f"directories.tokendir = {tmp_path}/empty\n")
        tpm.stop()
        code, without = examine(tmp_path, "-c", "unlatch.yaml", extra=site.extra)
        _, unasked = examine(tmp_path, "--offline", "-c", "unlatch.yaml", extra=site.extra)

    assert said(findings, "the TPM of file:tpm.key answers")["level"] == "ok"
    for name in ("p256", "rsa"):
        assert said(findings, f"is there for {site.key_uri(name)}")["level"] == "ok"
        assert said(without, f"no token fits the URI of {site.key_uri(name)}")["level"] == "failure"
    assert said(without, "file:tpm.key needs hardware")["level"] == "failure"
    assert code == 22
    assert not any(words in one["what"] for one in unasked for words in ("token fits", "needs hardware"))
