"""Finding and loading PKCS#11 modules."""

import ctypes
from pathlib import Path

import pytest

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import cryptoki, modules
from unlatch.memguard.custodian.cryptoki import Module
from unlatch.memguard.custodian.modules import find_module, refuse_foreign
from unlatch.memguard.custodian.uri import TokenUri

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"


def test_module_is_found_as_configured_then_as_the_uri_says(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = TokenUri(module_path="libc.so.6")
    monkeypatch.setattr(modules, "FOLDERS", ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"))

    assert find_module(uri).endswith("/libc.so.6")
    assert find_module(uri, "libm.so.6").endswith("/libm.so.6")
    monkeypatch.setenv("UNLATCH_PKCS11_MODULE", "libm.so.6")
    assert find_module(uri).endswith("/libc.so.6")
    assert find_module(TokenUri()).endswith("/libm.so.6")


def test_module_name_gets_its_ending() -> None:
    with pytest.raises(ConfigError, match=r"no PKCS#11 module nosuch\.so"):
        find_module(TokenUri(module_name="nosuch"))


def test_missing_proxy_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "FOLDERS", ())

    with pytest.raises(ConfigError) as caught:
        find_module(TokenUri())
    assert "p11-kit-modules" in str(caught.value.hint)


@pytest.mark.parametrize("mode", [0o666, 0o662, 0o664])
def test_library_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    library = tmp_path / "x.so"
    library.write_bytes(b"")
    library.chmod(mode)

    with pytest.raises(ConfigError, match="others may change"):
        refuse_foreign(library)


def test_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    library = folder / "x.so"
    library.write_bytes(b"")
    library.chmod(0o644)
    refuse_foreign(library)
    folder.chmod(0o777)

    with pytest.raises(ConfigError, match="others may change"):
        refuse_foreign(library)


def test_link_is_followed_before_it_is_judged(tmp_path: Path) -> None:
    library = tmp_path / "real.so"
    library.write_bytes(b"")
    library.chmod(0o666)
    link = tmp_path / "link.so"
    link.symlink_to(library)

    with pytest.raises(ConfigError, match="others may change"):
        refuse_foreign(link)


@pytest.mark.parametrize("path", ["/etc/hostname", "/usr/lib/x86_64-linux-gnu/libm.so.6"])
def test_what_is_no_module_is_not_loaded(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Module(path)


@pytest.mark.interop
def test_function_list_is_the_one_that_the_module_gives() -> None:
    """python-pkcs11 keeps it as its object's first member: a version that does not must be noticed here."""
    library = cryptoki._load(SOFTHSM)
    theirs = ctypes.c_void_p()
    ctypes.CDLL(SOFTHSM).C_GetFunctionList(ctypes.byref(theirs))

    ours = ctypes.cast(cryptoki._functions_of(library, SOFTHSM), ctypes.c_void_p)

    assert ours.value == theirs.value
