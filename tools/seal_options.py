"""What `unlatch seal` takes on its command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

WHERE_TO = [
    click.option(
        "--to",
        metavar="URL|CONTEXT[/NAME]",
        help="Gate workload (https://gate/s/NAME), Tang server, or a trusted gate's name.",
    ),
    click.option("--thp", metavar="THUMBPRINT", help="The server's signing key, as its operator told you."),
    click.option(
        "--adv", type=click.Path(path_type=Path), help="A copy of the advertisement that you trust."
    ),
    click.option(
        "--trust-on-first-use", is_flag=True, help="Believe whoever answers now; recorded in the file."
    ),
    click.option(
        "--policy", metavar="JSON|FILE", help='Several servers, as clevis writes it: {"t":1,"pins":{…}}.'
    ),
    click.option(
        "--recovery", type=click.Path(path_type=Path), help="Public half of an offline key: a second way in."
    ),
]
HARDWARE = [
    click.option(
        "--tpm", is_flag=True, help="This machine's TPM must agree too; alone: nothing but the TPM."
    ),
    click.option(
        "--pcrs", metavar="[BANK:]7,11", help="The TPM agrees while these PCRs stay as they are now."
    ),
    click.option(
        "--pcr-policy",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The TPM agrees to the PCR values that this key signs (unlatch tpm policy make-key).",
    ),
    click.option(
        "--pkcs11", metavar="URI", help="A token's RSA key must decrypt too; its PIN is never stored."
    ),
    click.option("--pcr-policy-for", default="", metavar="TEXT", help="Only to values signed for this text."),
]
WHAT = [
    click.option("--key", "keys", multiple=True, metavar="NAME=FILE", help="A private key in PEM."),
    click.option(
        "--generate", multiple=True, metavar="NAME[:ALG]", help="A new key, never written in clear."
    ),
    click.option("--names", metavar="A,B", help="Hosts that the keys may serve."),
    click.option(
        "--role",
        "roles",
        multiple=True,
        type=click.Choice(["server", "csr", "client"]),
        help="What the keys may sign (default: server and csr); client: log in to upstreams.",
    ),
    click.option(
        "--token",
        "tokens",
        multiple=True,
        metavar="NAME[=@FILE|=fd:N]",
        help="A token; asked for without echo.",
    ),
    click.option(
        "--pin",
        "pins",
        multiple=True,
        metavar="NAME[=@FILE|=fd:N]",
        help="The PIN of a token (hardware); asked for without echo.",
    ),
    click.option("--tickets", metavar="NAME", help="A new secret for session tickets that a fleet shares."),
    click.option(
        "--hardware-key",
        "hardware_keys",
        multiple=True,
        metavar="NAME=FILE",
        help="Rules of a key in hardware, named by a certificate, request or public key in PEM.",
    ),
    click.option("--hardware", metavar="URI", help="The only token that the PIN is for: pkcs11:token=…"),
]
RULES = [
    click.option(
        "--use", "use_file", type=click.Path(path_type=Path), help="Sealed rules per secret, YAML or JSON."
    ),
    click.option("--upstream", metavar="URL", help="The only origin that may see the token."),
    click.option(
        "--ca", "cas", multiple=True, type=click.Path(path_type=Path), help="CAs that may certify it."
    ),
    click.option("--method", "methods", multiple=True, help="Allowed methods (default: all)."),
    click.option("--path", "paths", multiple=True, help="Allowed paths, /v1/* for a prefix (default: all)."),
    click.option(
        "--header", default="Authorization", show_default=True, help="Header that carries the token."
    ),
    click.option("--scheme", type=click.Choice(["bearer", "raw"]), default="bearer", show_default=True),
    click.option(
        "--sign",
        "sign_file",
        type=click.Path(path_type=Path),
        help="How the token signs requests (kind: hmac or sigv4; YAML or JSON): guard never gives it away.",
    ),
    click.option(
        "--jwt",
        "jwt_file",
        type=click.Path(path_type=Path),
        help="What the one key says in JWTs (issuer, audience, …; YAML or JSON) to --upstream.",
    ),
    click.option("--caller", "callers", multiple=True, help="anyone, a network, uid=N, or ca=FILE,san=NAME."),
    click.option("--unbound", is_flag=True, help="Seal without rules: the configuration alone decides."),
]
FILE = [
    click.option("--workload", metavar="NAME", help="Name on cards and in logs (default: from the URL)."),
    click.option("--label", "labels", multiple=True, metavar="NAME=TEXT", help="Public text for inspect."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="The sealed file."),
    click.option("--force", is_flag=True, help="Overwrite existing files."),
]


def options(*groups: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Decorate a command with groups of options, in their order."""

    def decorate(function: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, as given."""

    to: str | None
    thp: str | None
    adv: Path | None
    trust_on_first_use: bool
    policy: str | None
    recovery: Path | None
    tpm: bool
    pcrs: str | None
    pcr_policy: Path | None
    pcr_policy_for: str
    pkcs11: str | None
    keys: tuple[str, ...]
    generate: tuple[str, ...]
    names: str | None
    roles: tuple[str, ...]
    tokens: tuple[str, ...]
    pins: tuple[str, ...]
    tickets: str | None
    hardware_keys: tuple[str, ...]
    hardware: str | None
    use_file: Path | None
    upstream: str | None
    cas: tuple[Path, ...]
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    header: str
    scheme: str
    sign_file: Path | None
    jwt_file: Path | None
    callers: tuple[str, ...]
    unbound: bool
    workload: str | None
    labels: tuple[str, ...]
    out: Path
    force: bool
