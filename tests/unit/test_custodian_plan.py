"""Which custodians a configuration needs."""

import pytest

from unlatch.errors import ConfigError
from unlatch.memguard.custodian import keyfile
from unlatch.memguard.custodian.keyfile import TpmKey
from unlatch.memguard.custodian.plan import Options, Place, plan
from unlatch.memguard.custodian.settings import Settings
from unlatch.memguard.custodian.uri import TokenUri

TPM = keyfile.write_tpm(TpmKey(0x40000001, b"\0\1a", b"\0\1b"))


def test_one_process_for_each_token_and_one_for_the_tpm() -> None:
    configs, places = plan(
        {
            "a": b"pkcs11:token=prod;object=a;type=private?module-path=/usr/lib/x.so",
            "b": keyfile.write_uri(TokenUri(token="prod", object="b", module_path="/usr/lib/x.so")),
            "c": b"pkcs11:token=spare;object=c;type=private?module-path=/usr/lib/x.so",
            "d": TPM,
            "e": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + TPM,
        }
    )

    assert places == {
        "a": Place(0, 1),
        "b": Place(0, 2),
        "c": Place(1, 1),
        "d": Place(2, 1),
        "e": Place(2, 2),
    }
    assert [config["kind"] for config in configs] == ["pkcs11", "pkcs11", "tpm2"]
    assert configs[0]["token"] == "pkcs11:token=prod?module-path=/usr/lib/x.so"


def test_every_configuration_is_one_that_a_custodian_reads() -> None:
    import json

    references = {"a": b"pkcs11:token=prod;object=a;type=private", "d": TPM}
    for config in plan(references, tcti="swtpm:host=127.0.0.1,port=1")[0]:
        Settings.parse(json.dumps(config).encode())


@pytest.mark.parametrize(
    ("module", "sockets"),
    [
        ("?module-path=/usr/lib/softhsm/libsofthsm2.so", "none"),
        ("?module-path=/usr/lib/p11-kit-client.so", "unix"),
        ("", "unix"),
    ],
)
def test_only_modules_that_need_sockets_get_them(module: str, sockets: str) -> None:
    configs, _ = plan({"a": b"pkcs11:token=prod;object=a" + module.encode()})

    assert configs[0]["sockets"] == sockets


def test_options_of_a_module_are_passed_on() -> None:
    options = {"/usr/lib/x.so": Options(parameters="p", sessions=9, write=("/var/x",), sockets="network")}

    configs, _ = plan({"a": b"pkcs11:token=prod;object=a?module-path=/usr/lib/x.so"}, options=options)

    assert configs[0]["parameters"] == "p"
    assert configs[0]["sessions"] == 9
    assert configs[0]["files"] == {"read": [], "write": ["/var/x"]}
    assert configs[0]["sockets"] == "network"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (b"", "names no key in hardware"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "names no key in hardware"),
        (b"pkcs11:token=a;object=b?pin-value=1234", "carries a PIN"),
        (b"pkcs11:token=a;object=b?pin-source=file:/x", "carries a PIN"),
        (b"pkcs11:label=b", "PKCS#11 URI"),
    ],
)
def test_what_names_no_usable_key_is_refused(reference: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan({"a": reference})
