"""unlatch seal: seals keys and tokens into one file that opens only under a policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlatch.errors import ConfigError, UntrustedGateError, UsageError
from unlatch.tools.seal_options import FILE, HARDWARE, RULES, WHAT, WHERE_TO, Options, options

if TYPE_CHECKING:
    from unlatch.bootstrap.advertisement import Advertisement
    from unlatch.bootstrap.bundling import Batch, Ingredient
    from unlatch.bootstrap.policy import Rule
    from unlatch.bootstrap.seal import Target

MAX_POLICY_BYTES = 1 << 20


@click.command(name="seal")
@options(WHERE_TO, HARDWARE, WHAT, RULES, FILE)
def command(**given: Any) -> None:
    """Seal keys and tokens into one file that opens only under a policy.

    \b
    unlatch seal --to https://gate.example/s/pay --thp 6fK2… \\
      --generate tls --names pay.example \\
      --token psp --upstream https://api.psp.example --path '/v1/*' --caller 10.2.0.0/16 \\
      --out pay.jwe
    """
    from unlatch.bootstrap import bundling, files
    from unlatch.bootstrap.pins.hardware import Hardware
    from unlatch.bootstrap.seal import encrypt
    from unlatch.tools import seal_rules

    chosen = Options(**given)
    files.refuse_existing(chosen.out, force=chosen.force)
    ingredients = seal_rules.ingredients(chosen, now=time.time())
    target = _target(chosen)
    batch = bundling.mix(ingredients)
    extra = {"cty": "application/unlatch+json", "unlatch": _labels(chosen, ingredients, batch, target)}
    jwe = encrypt(batch.payload, target, extra=extra, hardware=Hardware(may_prompt=True))
    batch.payload.wipe()
    requests = {name: chosen.out.with_name(f"{chosen.out.stem}.{name}.csr") for name in batch.requests}
    for path in requests.values():
        files.refuse_existing(path, force=chosen.force)
    files.write(chosen.out, jwe, force=chosen.force)
    for name, path in requests.items():
        files.write(path, batch.requests[name], force=chosen.force, mode=files.PUBLIC)
    _tell_next(chosen, ingredients, requests)


def _target(options: Options) -> Target:
    from unlatch.bootstrap import hardware_rules, seal
    from unlatch.bootstrap.pins.http import PlainTransport

    rule = _rule(options)
    for told in hardware_rules.advice(rule):
        click.echo(told, err=True)
    trusted = "first-use" if options.trust_on_first_use else None
    target = seal.resolve(rule, advertiser=PlainTransport(), accept=_acceptor(trusted))
    if options.recovery is None:
        return target
    try:
        key = seal.read_recovery_key(options.recovery.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}, {options.recovery}") from error
    return seal.with_recovery(target, key)


def _rule(options: Options) -> Rule:
    """What the command line wants: a server or a policy, hardware, or both together."""
    from unlatch.bootstrap import hardware_rules
    from unlatch.bootstrap.policy import TangRule, all_of, parse_any_policy

    hardware = hardware_rules.tpm_rule(
        wanted=options.tpm,
        pcrs=options.pcrs,
        policy_key=options.pcr_policy,
        reference=options.pcr_policy_for,
    ) + hardware_rules.token_rule(options.pkcs11)
    if options.to is not None and options.policy is not None:
        raise UsageError(
            "say where to once: --to and --policy exclude each other", hint="a policy names its servers"
        )
    if options.policy is not None:
        return all_of([parse_any_policy(_policy_text(options.policy)), *hardware])
    if options.to is not None:
        adv = None if options.adv is None else str(options.adv)
        return all_of([TangRule(_address(options), options.thp, adv), *hardware])
    if not hardware:
        raise UsageError(
            "say where to: --to URL, --policy JSON, --tpm or --pkcs11 URI",
            hint="unlatch seal --to https://gate.example/s/NAME …",
        )
    return all_of(hardware)


def _policy_text(policy: str) -> str:
    if policy.lstrip().startswith("{"):
        return policy
    try:
        return Path(policy).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the policy {policy}") from error


def _address(options: Options) -> str:
    """The workload's address; a context's name stands for its gate."""
    from unlatch.bootstrap.context import find_context

    assert options.to is not None
    if "://" in options.to:
        return options.to
    name, _, workload = options.to.partition("/")
    context = find_context(name)
    workload = workload or options.workload or ""
    if context.people is not None and not workload:
        raise UsageError(f"{name} is a gate: say which workload", hint=f"--to {name}/WORKLOAD")
    return f"{context.url.rstrip('/')}/s/{workload}" if workload else context.url


def _acceptor(trusted: str | None) -> Callable[[str, Advertisement], str]:
    """Says how a server is trusted that no thumbprint pins: by a saved context, or by the flag."""
    from unlatch.bootstrap.context import find_context

    def accept(url: str, advertisement: Advertisement) -> str:
        try:
            context = find_context(url if "://" in url else f"http://{url}")
        except ConfigError as error:
            if trusted is not None:
                return trusted
            shown = ", ".join(advertisement.thumbprints)
            raise UntrustedGateError(
                f"nothing pins the signing key of {url}",
                hint=f"it answers with {shown}: if its operator tells you the same, seal with --thp",
            ) from error
        advertisement.expect(context.thumbprints[0])
        return "context" if context.trust == "pinned" else "first-use"

    return accept


def _labels(
    options: Options, ingredients: list[Ingredient], batch: Batch, target: Target
) -> dict[str, object]:
    from datetime import UTC, datetime

    from unlatch.bootstrap.seal import trust_of

    own = dict(text.partition("=")[::2] for text in options.labels)
    workload = options.workload or _workload(target)
    labels: dict[str, object] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipient": batch.recipient,
        "secrets": {one.name: one.label for one in ingredients},
        "trust": trust_of(target),
    }
    labels |= {"workload": workload} if workload else {}
    labels |= {"labels": own} if own else {}
    unbound = [one.name for one in ingredients if one.rules is None]
    return labels | ({"unbound": unbound} if unbound else {})


def _workload(target: Target) -> str | None:
    from unlatch.bootstrap.pins.tree import TangPin
    from unlatch.bootstrap.seal import trust_of

    return next((name for url in trust_of(target) if (name := TangPin(url, "", {}, ()).workload)), None)


def _tell_next(options: Options, ingredients: list[Ingredient], requests: Mapping[str, Path]) -> None:
    """Say what to type next, for exactly this file."""
    from unlatch.bootstrap import files
    from unlatch.bootstrap.pins import tree

    sealed = files.read_sealed(options.out)
    pins = [pin for pin in tree.leaves(sealed.pin) if isinstance(pin, tree.TangPin)]
    gates = sorted({thumbprint for pin in pins if pin.workload for thumbprint in pin.thumbprints})
    lines = [f"sealed {', '.join(one.name for one in ingredients)} into {options.out}", "next:"]
    lines.append(f"  unlatch inspect {options.out}")
    for name, path in requests.items():
        lines.append(f"  give {path} to your CA; the chain it returns goes beside key: sealed:{name}")
    lines.append(f"  unlatch open {options.out} --secret {ingredients[0].name} --out FILE")
    lines.append("  unlatch serve -c unlatch.yaml, with this in unlatch.yaml:")
    lines.append(f"    unlock: {{bundle: {options.out.resolve()}, gates: [{', '.join(gates)}]}}")
    click.echo("\n".join(lines), err=True)
