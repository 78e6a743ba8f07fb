"""From YAML files to a `Config`, once: the bytes that are digested are the bytes that are parsed.

Every error names file, line, cause and, where there is one, the next step.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from unlatch.errors import ConfigError
from unlatch.proxy.config import Config, Section

# Precedent: nginx and HAProxy read any size; a proxy's configuration over 1 MiB is a mistake, not a wish.
MAX_CONFIG_BYTES = 1 << 20
# What a card shows of a configuration must fit into one header (docs/protocol.md).
MAX_SUMMARY_BYTES = 2048


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, what it was read from, and its SHA-256 as the card shows it."""

    config: Config
    path: Path
    digest: str
    lines: dict[str, str]

    def where(self, place: str) -> str:
        """`routes[0].inject, unlatch.yaml:14` for a place of the model."""
        candidate = place
        while candidate and candidate not in self.lines:
            candidate = _parent(candidate)
        return f"{place}, {self.lines[candidate]}" if candidate else place

    def resolve(self, path: Path) -> Path:
        """A path of the configuration, relative to its file."""
        return path if path.is_absolute() else self.path.parent / path

    @property
    def hook(self) -> list[str] | None:
        """The approval hook's program and its arguments: a path from the configuration's folder, or `python:NAME`."""
        if not (argv := self.config.unlock.hook):
            return None
        kind, colon, name = argv[0].partition(":")
        if kind == "python" and colon:
            return [sys.executable, "-I", "-m", "unlatch.bootstrap.entry_hook", name, *argv[1:]]
        return [str(self.resolve(Path(argv[0]))), *argv[1:]]

    @property
    def host_key(self) -> Path | None:
        """Where the host's own key lies, if the configuration says it."""
        path = self.config.unlock.host_key
        return None if path is None else self.resolve(path)

    def read(self, path: Path, *, place: str, limit: int = MAX_CONFIG_BYTES) -> bytes:
        """The bytes of a file that the configuration names."""
        try:
            with self.resolve(path).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror} ({self.where(place)})") from error
        if len(data) > limit:
            raise ConfigError(f"{path} is larger than {limit} bytes ({self.where(place)})")
        return data


def load(path: Path) -> LoadedConfig:
    """Read a file and, beside it, `conf.d/*.yaml` in alphabetical order.

    A later file adds to lists and mappings; a scalar that two files set is an error.
    """
    names = [path, *sorted((path.parent / "conf.d").glob("*.yaml"))]
    digest = hashlib.sha256()
    merged: dict[str, Any] = {}
    lines: dict[str, str] = {}
    for name in names:
        data = _read(name)
        digest.update(len(data).to_bytes(8, "big") + data)
        _merge(merged, _parse(data, name, lines, merged), name)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, lines, path) from None
    text = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return LoadedConfig(config=config, path=path, digest=text, lines=lines)


def summary(config: Config) -> str:
    """What an operator should see of a configuration: JSON of at most 2 KiB, with the number of what was left out."""
    listeners = [address for listener in config.listeners for address in listener.bind]
    keys = sorted({certificate.key for listener in config.listeners for certificate in listener.certificates})
    tokens = [
        {
            "secret": route.inject.secret,
            "to": config.upstreams[route.upstream].servers,
            "callers": [
                caller if isinstance(caller, str) else caller.model_dump(mode="json")
                for caller in route.inject.callers
            ],
        }
        for route in config.routes
        if route.inject
    ]
    content: dict[str, Any] = {"listeners": listeners, "keys": keys, "tokens": tokens}
    left_out = 0
    while (
        len(text := json.dumps(content | ({"left_out": left_out} if left_out else {}), separators=(",", ":")))
        > MAX_SUMMARY_BYTES
    ):
        longest = max(("listeners", "keys", "tokens"), key=lambda name: len(json.dumps(content[name])))
        content[longest] = content[longest][:-1]
        left_out += 1
    return text


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}, {path}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"the configuration is larger than {MAX_CONFIG_BYTES} bytes, {path}")
    return data


def _parse(data: bytes, path: Path, lines: dict[str, str], merged: dict[str, Any]) -> dict[str, Any]:
    try:
        node = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8, {path}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not YAML: {error.problem}, {path.name}:{line}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML, {path.name}") from error
    if node is None:
        return {}
    content = _construct(node, "", path.name, lines, merged)
    if not isinstance(content, dict):
        raise ConfigError(f"the configuration is not a mapping, {path.name}:1")
    return content


def _construct(node: yaml.Node, place: str, name: str, lines: dict[str, str], before: Any) -> Any:
    """Plain values of a node, with the line of each place noted and repeated keys refused."""
    line = f"{name}:{node.start_mark.line + 1}"
    lines.setdefault(place, line)
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"a key is not a plain word, {name}:{key_node.start_mark.line + 1}")
            key = key_node.value
            if key in content:
                raise ConfigError(f"{key!r} is given twice, {name}:{key_node.start_mark.line + 1}")
            inner = f"{place}.{key}" if place else key
            lines.setdefault(inner, f"{name}:{key_node.start_mark.line + 1}")
            content[key] = _construct(
                value_node, inner, name, lines, before.get(key) if isinstance(before, dict) else None
            )
        return content
    if isinstance(node, yaml.SequenceNode):
        offset = len(before) if isinstance(before, list) else 0
        return [
            _construct(item, f"{place}[{offset + number}]", name, lines, None)
            for number, item in enumerate(node.value)
        ]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not a plain value, {line}") from error
    finally:
        loader.dispose()


def _merge(into: dict[str, Any], more: dict[str, Any], path: Path) -> None:
    for key, value in more.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value, path)
        elif isinstance(present, list) and isinstance(value, list):
            present.extend(value)
        elif key in into:
            raise ConfigError(f"{key!r} is set in two files, the second is {path.name}")
        else:
            into[key] = value


def _explain(error: ValidationError, lines: dict[str, str], path: Path) -> ConfigError:
    """One error of pydantic in our words: an unknown key first, since it explains a missing one."""
    found = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")[0]
    place = _place(found["loc"], lines)
    hint = None
    if found["type"] == "extra_forbidden":
        key = str(found["loc"][-1])
        message = f"unknown key {key!r}"
        close = difflib.get_close_matches(key, _known_keys(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "the keys are in docs/operations.md"
    elif found["type"] == "missing":
        message = f"{found['loc'][-1]!r} is missing"
    else:
        message = found["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if not place:  # a check over several sections writes its place in front
            place, separator, rest = message.partition(": ")
            place, message = (place, rest) if separator else ("", message)
    inner = place
    while inner and inner not in lines:
        inner = _parent(inner)
    line = lines.get(inner, f"{path.name}:1")
    return ConfigError(f"{message} ({place}, {line})" if place else f"{message} ({line})", hint=hint)


def _place(location: tuple[int | str, ...], lines: dict[str, str]) -> str:
    """pydantic's location in the file's words: it names the member of a union, the file does not."""
    place = ""
    for number, part in enumerate(location):
        inner = f"{place}[{part}]" if isinstance(part, int) else f"{place}.{part}" if place else part
        if inner in lines or (number == len(location) - 1 and part not in {"network", "certificate", "user"}):
            place = inner
    return place


def _parent(place: str) -> str:
    return place[: max(place.rfind("."), place.rfind("["), 0)]


def _known_keys() -> set[str]:
    names: set[str] = set()
    waiting: list[type[Section]] = [Section]
    while waiting:
        section = waiting.pop()
        names.update(section.model_fields)
        waiting.extend(section.__subclasses__())
    return names
