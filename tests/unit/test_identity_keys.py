"""Host keys in files: made, found, refused. Keys in a TPM: tests/interop/test_gate_identity.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlatch import __main__
from unlatch.bootstrap.identity import keys
from unlatch.bootstrap.identity.proof import ORDER, PublicLine
from unlatch.errors import ConfigError, RefusedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "host.key"


def test_key_in_a_file_signs_with_the_lower_s(path: Path) -> None:
    made = keys.make_in_file(path)
    for number in range(20):
        signature = made.sign(str(number).encode())
        made.public.verify(signature, str(number).encode())
        assert int.from_bytes(signature[32:], "big") <= ORDER // 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.load(path) == made


def test_key_is_not_overwritten_unless_asked(path: Path) -> None:
    made = keys.make_in_file(path)
    with pytest.raises(ConfigError, match="exists"):
        keys.make_in_file(path)

    assert keys.load(path) == made
    assert keys.make_in_file(path, force=True).public != made.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    keys.make_in_file(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read"):
        keys.load(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"{}", b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n",
     b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"unlatch-host-v1 file " + b"A" * 87 + b"\n{}",
     b"unlatch-host-v1 file \xff", b"unlatch-host-v1 tpm " + b"A" * 87],
)  # fmt: skip
def test_file_that_is_no_host_key_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "host.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        keys.load(path)


def test_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        keys.load(path)


def test_file_whose_halves_do_not_belong_together_signs_nothing(path: Path) -> None:
    made = keys.make_in_file(path)
    other = keys.make_in_file(path.with_name("other"))
    mixed = path.read_bytes().replace(str(made.public).encode(), str(other.public).encode(), 1)
    path.write_bytes(mixed)
    with pytest.raises(RefusedError, match="another key"):
        keys.load(path).sign(b"message")


def test_file_that_is_cut_signs_nothing(path: Path) -> None:
    keys.make_in_file(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Exception, match="key") as caught:
        keys.load(path).sign(b"message")
    assert type(caught.value).__module__ == "unlatch.errors"


def test_named_key_comes_first_then_the_credential_then_the_users(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    own = tmp_path / ".config" / "unlatch" / "host.key"
    credential = tmp_path / "credentials" / "host-key"
    if not keys.SYSTEM_FILE.exists():
        assert keys.find(environ) is None
    keys.make_in_file(own)
    assert keys.find(environ) == own
    keys.make_in_file(credential)
    assert keys.find(environ) == credential

    assert keys.find(environ | {keys.VARIABLE: "/named"}) == Path("/named")


def test_credential_may_show_an_acl_as_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "host-key"
    made = keys.make_in_file(path)
    path.chmod(0o440)
    with pytest.raises(ConfigError, match="others may read"):
        keys.load(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert keys.load(path) == made
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="others may read"):
        keys.load(path)


def test_user_file_follows_xdg(tmp_path: Path) -> None:
    assert keys.user_file({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "unlatch" / "host.key"


def test_commands_make_and_show_a_key(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    enroll = ["host", "enroll", "--file", str(path), "--name", "web1", "--gate", "home"]
    assert __main__.run(enroll) == 0
    made = capfd.readouterr()
    assert __main__.run(["host", "show", str(path)]) == 0

    assert capfd.readouterr().out == made.out == path.with_name("host.key.pub").read_text()
    assert PublicLine.parse(made.out).protection == "file"
    assert "copyable" in made.err
    assert "unlatch gate host add web1 host.key.pub --gate home" in made.err
    assert keys.load(path).public.thumbprint in made.err


def test_command_refuses_options_that_exclude_each_other(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert __main__.run(["host", "enroll", "--file", str(path), "--tpm"]) == 2
    assert not path.exists()
    assert "--file goes with neither" in capfd.readouterr().err


def test_command_without_a_tpm_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLATCH_TCTI", "swtpm:host=127.0.0.1,port=1")
    assert __main__.run(["host", "enroll", "--tpm", "--out", str(path)]) == 15
    assert not path.exists()


def test_show_without_a_key_says_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert __main__.run(["host", "show", str(tmp_path / "none")]) == 21
    assert "unlatch host enroll" in capfd.readouterr().err
