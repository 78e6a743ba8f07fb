"""What `unlatch seal` puts in, and under which sealed rules, from its command line and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unlatch.bootstrap import rules
from unlatch.bootstrap.bundling import Ingredient
from unlatch.errors import ConfigError, UsageError
from unlatch.tools.seal_options import Options

DEFAULT_ALGORITHM = "ecdsa-p256"
HOUR = 3600

Rules = Callable[[str, str], Mapping[str, object] | None]


def ingredients(options: Options, *, now: float) -> list[Ingredient]:
    """Everything that the command line names, with its rules.

    Args:
        options: the command line.
        now: Unix seconds; a ticket secret begins with this hour.

    Raises:
        UsageError: nothing to seal, a secret on the command line, or rules that are missing or do not fit.
        ConfigError: a file does not read.
    """
    rules_of = _rules(options)
    found: list[Ingredient] = []
    for text in options.keys:
        name, separator, file = text.partition("=")
        if not separator or not file:
            raise UsageError(f"--key {text}: expected NAME=FILE", hint="--key tls=/path/to/key.pem")
        found.append(Ingredient(name, "key", file, rules_of(name, "key")))
    for text in options.generate:
        name, _, algorithm = text.partition(":")
        found.append(Ingredient(name, "generated key", algorithm or DEFAULT_ALGORITHM, rules_of(name, "key")))
    for text in options.tokens:
        name, source = _never_typed("token", text)
        found.append(Ingredient(name, "token", source, rules_of(name, "token")))
    for text in options.pins:
        name, source = _never_typed("pin", text)
        found.append(Ingredient(name, "pin", source, rules_of(name, "pin")))
    for text in options.hardware_keys:
        name, separator, file = text.partition("=")
        if not separator or not file:
            raise UsageError(
                f"--hardware-key {text}: expected NAME=FILE", hint="--hardware-key site=/path/to/site.pem"
            )
        found.append(Ingredient(name, "hardware-key", file, rules_of(name, "hardware-key")))
    if options.tickets is not None:
        hour = str(int(now) // HOUR)
        found.append(Ingredient(options.tickets, "ticket-secret", hour, rules.TICKET_RULES))
    if not found:
        raise UsageError(
            "nothing to seal",
            hint="--key NAME=FILE, --generate NAME, --token NAME, --pin NAME or --tickets NAME",
        )
    return found


def _never_typed(kind: str, text: str) -> tuple[str, str]:
    """Name and source of a secret that a command line names but never holds."""
    name, separator, source = text.partition("=")
    if separator and not source.startswith(("@", "fd:")):
        raise UsageError(
            f"--{kind} {name}=…: a {kind} is never written on a command line",
            hint=f"every user of this machine could read it: change it, then --{kind} {name} asks, {name}=@FILE reads",
        )
    return name, source


def _rules(options: Options) -> Rules:
    from_file = _rules_file(options.use_file)
    unknown = from_file.keys() - {text.partition("=")[0].partition(":")[0] for text in _all_names(options)}
    if unknown:
        raise UsageError(
            f"--use names {', '.join(sorted(unknown))}, which is not sealed here",
            hint="every secret in that file must be given with --key, --generate, --token or --pin",
        )
    _refuse_shared_flags(options, from_file)

    def rules_of(name: str, kind: str) -> Mapping[str, object] | None:
        given = from_file.get(name)
        return given if given is not None else _rules_from_flags(options, name, kind)

    return rules_of


def _refuse_shared_flags(options: Options, from_file: Mapping[str, object]) -> None:
    """Flags describe one token, or the one key whose JWTs go to the upstream."""
    signers = [*options.keys, *options.generate] if options.jwt_file is not None else []
    named = [text.partition("=")[0].partition(":")[0] for text in [*options.tokens, *signers]]
    described = [name for name in named if name not in from_file]
    if options.upstream and len(described) != 1:
        raise UsageError(
            "the flags for rules are for one token", hint="give rules per secret in a file with --use"
        )
    if (options.sign_file or options.jwt_file) and not options.upstream:
        raise UsageError("what is signed goes to one upstream", hint="--upstream URL with --caller WHO")
    if options.sign_file is not None and options.jwt_file is not None:
        raise UsageError(
            "--sign is for a token, --jwt for a key", hint="give rules per secret in a file with --use"
        )


def _rules_from_flags(options: Options, name: str, kind: str) -> Mapping[str, object] | None:
    if kind == "pin":
        if options.hardware is None:
            raise UsageError(
                f"{name} has no sealed rules", hint="say which token the PIN is for: --hardware URI"
            )
        return rules.pin_rules(options.hardware)
    names = options.names.split(",") if options.names else []
    if kind == "hardware-key":
        if not names:
            raise UsageError(f"{name} has no sealed rules", hint="give --names A,B or a file with --use")
        return rules.key_rules(names, ["server"])
    if kind == "key" and options.jwt_file is not None and options.upstream:
        return rules.jwt_rules(names, _mapping(options.jwt_file), _destination(options))
    if kind == "key" and (names or "client" in options.roles):
        return rules.key_rules(names, options.roles)
    if kind == "token" and options.upstream:
        return _destination(options)
    if options.unbound:
        return None
    wanted = {"key": "--names A,B", "token": "--upstream URL with --caller WHO"}[kind]
    raise UsageError(
        f"{name} has no sealed rules", hint=f"give {wanted}, a file with --use, or say --unbound"
    )


def _destination(options: Options) -> dict[str, object]:
    assert options.upstream is not None
    return rules.token_rules(
        upstream=options.upstream,
        callers=options.callers,
        ca_files=options.cas,
        methods=options.methods,
        paths=options.paths,
        header=options.header,
        scheme=options.scheme,
        sign=None if options.sign_file is None else _mapping(options.sign_file),
    )


def _all_names(options: Options) -> list[str]:
    return [*options.keys, *options.generate, *options.tokens, *options.pins, *options.hardware_keys]


def _rules_file(path: Path | None) -> dict[str, dict[str, object]]:
    if path is None:
        return {}
    value = _mapping(path)
    if not all(isinstance(one, dict) for one in value.values()):
        raise ConfigError(f"{path} is no mapping from secrets to rules", hint="tls: {names: [pay.example]}")
    return {str(name): rules.read_rules(one, folder=path.parent) for name, one in value.items()}


def _mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON mapping."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the rules: {path}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is no mapping", hint="tls: {names: [pay.example]}")
    return value
