"""unlatch clevis: clevis's commands for scripts, with clevis's arguments, messages and exit codes.

Differences, all towards caution (docs/clevis.md): plaintext is written only after its tag is verified; white space
after the JWE is accepted; an extra field, `zip`, `crit`, an encrypted_key, key wrapping and CBC are refused; private
keys in an advertisement are refused; the null pin is read but never written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlatch.errors import (
    BusyError,
    PolicyRefusedError,
    UnavailableError,
    UnknownKeyError,
    UnlatchError,
    UntrustedGateError,
)

if TYPE_CHECKING:
    from unlatch.bootstrap.advertisement import Advertisement
    from unlatch.bootstrap.policy import Rule
    from unlatch.bootstrap.seal import Target
    from unlatch.bootstrap.sealed import SealedFile

STDIN, STDOUT = 0, 1
PINS = ("tang", "tpm2", "unlatch-tpm2", "pkcs11", "unlatch-pkcs11", "sss", "null")
FAILED, USAGE = 1, 2
MAX_PLAINTEXT_BYTES = 700 * 1024
"""What still fits into a sealed file of 1 MiB."""

SUMMARIES = {
    ("decrypt",): "Decrypts using the policy defined at encryption time",
    ("encrypt", "sss"): "Encrypts using a Shamir's Secret Sharing policy",
    ("encrypt", "tang"): "Encrypts using a Tang binding server policy",
    ("encrypt", "tpm2"): "Encrypts using a TPM2.0 chip binding policy",
}
USAGES = {
    "sss": """
Usage: clevis encrypt sss CONFIG [-y] < PLAINTEXT > JWE

Encrypts using a Shamir's Secret Sharing policy

This command uses the following configuration properties:

     t: <integer>  Number of pins required for decryption (REQUIRED)

  pins: <object>   Pins used for encrypting fragments (REQUIRED)

Here is an example configuration for one of two servers:

{
  "t": 1,
  "pins": {
    "tang": [
      { "url": "http://example.com/tang1" },
      { "url": "http://example.com/tang2" }
    ]
  }
}
""",
    "tang": """
Usage: clevis encrypt tang CONFIG [-y] < PLAINTEXT > JWE

Encrypts using a Tang binding server policy

This command uses the following configuration properties:

  url: <string>   The base URL of the Tang server (REQUIRED)

  thp: <string>   The thumbprint of a trusted signing key

  adv: <string>   A filename containing a trusted advertisement
  adv: <object>   A trusted advertisement (raw JSON)

  -y              Accept the advertisement without asking
""",
}


@click.command(
    name="clevis",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Drop-in for clevis: clevis encrypt PIN CONFIG [-y], clevis decrypt."""
    if arguments in {(*names, "--summary") for names in SUMMARIES}:
        click.echo(SUMMARIES[arguments[:-1]])
        return 0
    if arguments[:1] == ("decrypt",):
        return _guarded(_decrypt)
    if arguments[:1] == ("encrypt",) and arguments[1:2] in {("tang",), ("sss",), ("tpm2",), ("null",)}:
        if arguments[2:] == ("--summary",):
            return USAGE
        return _guarded(lambda: _encrypt(arguments[1], arguments[2:]))
    _say(_usage(arguments))
    return USAGE


def _usage(arguments: Sequence[str]) -> str:
    wrong = (
        f"Command 'clevis {' '.join(arguments)}' is invalid\n\n"
        if arguments and arguments[0] != "--help"
        else ""
    )
    lines = [f"  clevis {' '.join(names):<12} {text}" for names, text in SUMMARIES.items()]
    return f"\n{wrong}Usage: clevis COMMAND [OPTIONS]\n\n" + "\n".join(lines) + "\n"


class _FailureError(Exception):
    """A message of clevis's own, for exit code 1."""


def _guarded(act: Callable[[], None]) -> int:
    try:
        act()
    except _FailureError as failure:
        if str(failure):
            _say(str(failure))
        return FAILED
    except UnlatchError as error:
        _say(str(error))
        if error.hint:
            _say(error.hint)
        return FAILED
    return 0


def _say(text: str) -> None:
    click.echo(text, err=True)


def _decrypt() -> None:
    from unlatch.bootstrap.open import recover_content_key
    from unlatch.bootstrap.pins.http import PlainTransport
    from unlatch.bootstrap.sealed import MAX_BYTES, SealedFile
    from unlatch.memguard._native import jwe_open

    data = sys.stdin.buffer.read(MAX_BYTES + 4096)
    _complain_like_clevis(data)
    sealed = SealedFile.parse(data)
    try:
        # clevis waits without end: a gate may hold the answer until a person decided.
        key = recover_content_key(
            sealed, transport=PlainTransport(timeout=None), silent_timeout=None, allow_null=True
        )
    except (UnavailableError, UnknownKeyError, PolicyRefusedError, BusyError) as error:
        raise _FailureError(f"Error communicating with server {_first_url(sealed)}\n{error}") from error
    except UntrustedGateError as error:
        raise _FailureError(f"Received invalid server reply!\n{error}") from error
    jwe_open(sealed.compact, key).write_fd(STDOUT)


def _first_url(sealed: SealedFile) -> str:
    from unlatch.bootstrap.pins import http, tree

    urls = (pin.url for pin in tree.leaves(sealed.pin) if isinstance(pin, tree.TangPin))
    return http.without_userinfo(next(urls, ""))


def _complain_like_clevis(data: bytes) -> None:
    """Fail with clevis's words where its scripts check the header before anything else."""
    from unlatch.bootstrap import jose

    protected, dot, _ = data.strip().decode("ascii", "replace").partition(".")
    if not dot:
        raise _FailureError("")
    try:
        header = jose.read_json(jose.decode(protected))
    except ValueError:
        header = None
    clevis = header.get("clevis") if isinstance(header, dict) else None
    pin = clevis.get("pin") if isinstance(clevis, dict) else None
    if not isinstance(header, dict) or not isinstance(clevis, dict) or not isinstance(pin, str):
        raise _FailureError("JWE is missing the required 'clevis.pin' header property!")
    if pin not in PINS:
        known = "install the real clevis and its pin for this file"
        raise _FailureError(
            f"Unable to locate pin '{pin}'!\nthis version has tang, tpm2, pkcs11 and sss: {known}"
        )
    if pin == "tang":
        _complain_about_tang(header, clevis)


def _complain_about_tang(header: dict[str, object], clevis: dict[str, object]) -> None:
    tang = clevis.get("tang")
    tang = tang if isinstance(tang, dict) else {}
    required = {"epk": header, "kid": header, "clevis.tang.adv": tang, "clevis.tang.url": tang}
    for name, holder in required.items():
        if name.rpartition(".")[2] not in holder:
            raise _FailureError(f"JWE missing required '{name}' header parameter!")
    epk = header["epk"]
    if not isinstance(epk, dict) or not isinstance(epk.get("crv"), str):
        raise _FailureError("Unable to determine EPK's curve!")


def _encrypt(pin: str, arguments: tuple[str, ...]) -> None:
    from unlatch.bootstrap import jose, seal
    from unlatch.bootstrap.policy import parse_policy
    from unlatch.memguard._native import Secret

    config, yes = _encrypt_arguments(pin, arguments)
    if pin == "null":
        try:
            is_object = isinstance(jose.read_json(config), dict)
        except ValueError:
            is_object = False
        reason = (
            f"this version does not encrypt with pin {pin}" if is_object else "Configuration is malformed!"
        )
        raise _FailureError(reason)
    rule = parse_policy(pin, config)
    target = _resolved(rule, yes)
    plaintext = Secret.read_fd(STDIN, MAX_PLAINTEXT_BYTES)
    sys.stdout.buffer.write(seal.encrypt(plaintext, target))
    # clevis ends the line for people, not for files.
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


class _Advertiser:
    """Says in clevis's words what could not be fetched."""

    def advertisement(self, url: str, *, thumbprint: str = "") -> bytes:
        from unlatch.bootstrap.pins.http import PlainTransport

        try:
            return PlainTransport(timeout=None).advertisement(url, thumbprint=thumbprint)
        except UnlatchError as error:
            raise _FailureError(
                f"Unable to fetch advertisement: '{url}/adv/{thumbprint}'!\n{error}"
            ) from error


def _resolved(rule: Rule, yes: bool) -> Target:
    from unlatch.bootstrap import advertisement, seal

    try:
        return seal.resolve(rule, advertiser=_Advertiser(), accept=_accept(yes), pin_matters=not yes)
    except advertisement.UnpinnedAdvertisementError as error:
        raise _FailureError(
            f"Trusted JWK '{error.thumbprint}' did not sign the advertisement!\n{error}"
        ) from error
    except advertisement.UnsignedAdvertisementError as error:
        raise _FailureError(f"Advertisement is missing signatures!\n{error}") from error
    except advertisement.NoExchangeKeyError as error:
        raise _FailureError(f"Key derivation key not available!\n{error}") from error
    except advertisement.MalformedAdvertisementError as error:
        raise _FailureError(f"Advertisement is malformed!\n{error}") from error


def _encrypt_arguments(pin: str, arguments: tuple[str, ...]) -> tuple[str, bool]:
    yes = arguments[1:] == ("-y",)
    if arguments and (yes or len(arguments) == 1) and not arguments[0].startswith("-"):
        return arguments[0], yes
    if pin == "tang" and not arguments:
        raise _FailureError("Configuration is malformed!")
    raise _FailureError(USAGES.get(pin, "Configuration is malformed!"))


def _accept(yes: bool) -> Callable[[str, Advertisement], str]:
    def accept(url: str, advertisement: Advertisement) -> str:
        if yes:
            return "first-use"
        del url  # clevis does not name it either
        _say("The advertisement contains the following signing keys:\n")
        _say("\n".join(advertisement.thumbprints) + "\n")
        if not _confirmed():
            raise _FailureError("")
        return "first-use"

    return accept


def _confirmed() -> bool:
    """Ask on the terminal: standard input is the plaintext."""
    try:
        with Path("/dev/tty").open("r+b", buffering=0) as terminal:
            answer = b""
            while answer not in (b"y", b"Y", b"n", b"N"):
                terminal.write(b"Do you wish to trust these keys? [ynYN] ")
                answer = terminal.readline().strip()
    except OSError:
        _say("clevis: no terminal to ask on: pin the key with thp, or trust it with -y")
        return False
    return answer in (b"y", b"Y")
