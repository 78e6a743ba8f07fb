"""From a configuration to what each process is told (docs/protocol.md 1.5 and 2). Nothing here starts anything."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlatch.errors import ConfigError
from unlatch.proxy.config import (
    CallerCertificate,
    CallerUser,
    Certificate,
    ClientCertificate,
    Fallback,
    Inject,
    Route,
)
from unlatch.proxy.config_file import LoadedConfig
from unlatch.proxy.fallback import check_names


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as guard names it."""

    id: int
    name: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """What guard says of an inject route: how egress gets its headers, and which nobody else may set."""

    ask: str
    headers: list[str]
    body: str
    covers: str | None


@dataclass(frozen=True, slots=True)
class Granted:
    """Guard's answer to a configuration."""

    keys: dict[str, KeyInfo] = field(default_factory=dict)
    """By name."""
    routes: dict[int, RouteInfo] = field(default_factory=dict)
    """By number."""

    @classmethod
    def parse(cls, answer: dict[str, Any]) -> Granted:
        """Read the reply to configure."""
        keys = [KeyInfo(entry["id"], entry["name"], entry["algorithm"]) for entry in answer["keys"]]
        routes = {
            entry["id"]: RouteInfo(entry["ask"], entry["headers"], entry["body"], entry["covers"])
            for entry in answer["routes"]
        }
        return cls({key.name: key for key in keys}, routes)


@dataclass(slots=True)
class RouteIds:
    """Numbers of inject routes: the same content keeps its number over reloads, new content never reuses one."""

    known: dict[str, int] = field(default_factory=dict)

    def number(self, content: dict[str, Any]) -> int:
        """The number of this content."""
        key = json.dumps({name: value for name, value in content.items() if name != "where"}, sort_keys=True)
        return self.known.setdefault(key, len(self.known) + 1)


@dataclass(frozen=True, slots=True)
class Wiring:
    """One configuration, read once with every file that it names."""

    loaded: LoadedConfig
    chains: dict[str, str]
    guard: dict[str, Any]
    routes: dict[int, int] = field(default_factory=dict)
    """Routes that lead to egress: position in the configuration to number."""
    custodians: list[dict[str, Any]] = field(default_factory=list)
    """What each custodian is started with."""

    @property
    def pins(self) -> dict[str, str]:
        """By token: the name of the sealed secret with its PIN."""
        pins = self.loaded.config.hardware.pins
        return {token: name.removeprefix("sealed:") for token, name in pins.items()}

    @property
    def needs_egress(self) -> bool:
        """Whether any route carries a token or shows a client certificate."""
        return bool(self.routes)

    @property
    def key_names(self) -> set[str]:
        """The keys of listeners."""
        return {entry["key"] for entry in self.guard["certificates"]}

    def key_ids(self, granted: Granted) -> list[int]:
        """What the edge's sockets may sign with."""
        return sorted({granted.keys[name].id for name in self.key_names})

    def slow_key_ids(self, granted: Granted) -> list[int]:
        """Those of them that sign in milliseconds, and their fallbacks."""
        listeners = self.edge(granted)["listeners"]
        slow = [one for listener in listeners for one in listener["certificates"] if one.get("slow")]
        return sorted({one["key"] for one in [*slow, *(one["fallback"] for one in slow)] if one})

    @property
    def fallbacks(self) -> dict[str, str]:
        """By name of a key in hardware: the sealed key that stands in for it."""
        return {
            one.key: one.fallback.key.removeprefix("sealed:")
            for listener in self.loaded.config.listeners
            for one in listener.certificates
            if one.fallback is not None
        }

    def _presented(self, certificate: Certificate | Fallback, granted: Granted) -> dict[str, Any]:
        """A certificate as edge is told of it."""
        key = granted.keys[certificate.key.removeprefix("sealed:")]
        chain = self.chains[str(certificate.chain)]
        entry: dict[str, Any] = {"chain": chain, "key": key.id, "algorithm": key.algorithm}
        if isinstance(certificate, Certificate) and certificate.is_in_hardware:
            fallback = certificate.fallback
            entry |= {"slow": True, "fallback": fallback and self._presented(fallback, granted)}
        return entry

    def edge(self, granted: Granted) -> dict[str, Any]:
        """Everything of edge's configuration but descriptors."""
        config = self.loaded.config
        listeners = []
        for number, listener in enumerate(config.listeners):
            certificates = [self._presented(one, granted) for one in listener.certificates]
            client_ca = None
            if listener.client_ca is not None:
                client_ca = self.loaded.read(
                    listener.client_ca, place=f"listeners[{number}].client_ca"
                ).decode()
            listeners += [
                {"name": address, "certificates": certificates, "client_ca": client_ca}
                for address in listener.bind
            ]
        return {
            "role": "edge",
            "listeners": listeners,
            "routes": [
                self._edge_route(number, route, granted) for number, route in enumerate(config.routes)
            ],
            "upstreams": {
                name: {"servers": list(upstream.servers), "tls": None}
                for name, upstream in config.upstreams.items()
            },
            "timeouts_ms": _milliseconds(config.timeouts.model_dump(exclude={"drain"})),
            "limits": config.limits.model_dump(exclude={"signatures", "signed_body_bytes"}),
            "access_log": config.access_log,
            "tickets": {"seconds": round(config.tickets.epoch), "fleet": config.tickets.secret is not None},
        }

    def egress(self, granted: Granted) -> dict[str, Any]:
        """Everything of egress's configuration but descriptors."""
        config = self.loaded.config
        names = {config.routes[number].upstream for number in self.routes}
        timeouts = config.timeouts.model_dump(include={"connect", "response", "body"})
        return {
            "role": "egress",
            "routes": [self._egress_route(number, granted) for number in self.routes],
            "upstreams": {name: self._tls_upstream(name, granted) for name in sorted(names)},
            "timeouts_ms": _milliseconds(timeouts),
            "limits": config.limits.model_dump(include={"signed_body_bytes"}),
        }

    def _egress_route(self, number: int, granted: Granted) -> dict[str, Any]:
        route, number = self.loaded.config.routes[number], self.routes[number]
        if route.inject is None:
            return {"id": number, "upstream": route.upstream, "ask": "nothing"}
        info = granted.routes[number]
        return {
            "id": number,
            "upstream": route.upstream,
            "header": route.inject.header,
            "scheme": route.inject.scheme,
            "ask": info.ask,
            "others": _others(info, route.inject),
            "body": info.body,
            "covers": info.covers,
        }

    def _tls_upstream(self, name: str, granted: Granted) -> dict[str, Any]:
        upstream = self.loaded.config.upstreams[name]
        assert upstream.tls is not None
        ca, client = None, None
        if upstream.tls.ca is not None:
            ca = self.loaded.read(upstream.tls.ca, place=f"upstreams.{name}.tls.ca").decode()
        if upstream.tls.client is not None:
            key = granted.keys[upstream.tls.client.key.removeprefix("sealed:")]
            chain = self.chains[str(upstream.tls.client.chain)]
            client = {"chain": chain, "key": key.id, "algorithm": key.algorithm}
        tls = {"name": upstream.tls.name, "ca": ca, "client": client}
        return {"servers": list(upstream.servers), "tls": tls}

    def _edge_route(self, number: int, route: Route, granted: Granted) -> dict[str, Any]:
        inject: dict[str, Any] | None = None
        if number in self.routes:
            inject = {"id": self.routes[number]}
            if route.inject is not None:
                info = granted.routes[self.routes[number]]
                inject |= {"header": route.inject.header, "others": _others(info, route.inject)}
        return {
            "listener": route.match.listener,
            "host": route.match.host,
            "path": route.match.path,
            "upstream": route.upstream,
            "strip_prefix": route.strip_prefix,
            "inject": inject,
        }


def _others(info: RouteInfo, inject: Inject) -> list[str]:
    return [name for name in info.headers if name != inject.header.lower()]


def read_wiring(loaded: LoadedConfig, ids: RouteIds) -> Wiring:
    """Read chains and CAs, and say what guard must check."""
    chains: dict[str, str] = {}
    certificates = []
    for number, listener in enumerate(loaded.config.listeners):
        for index, certificate in enumerate(listener.certificates):
            where = f"listeners[{number}].certificates[{index}]"
            certificates.append(_claim(loaded, chains, certificate, where=where))
            if certificate.fallback is not None:
                claim = _claim(loaded, chains, certificate.fallback, where=f"{where}.fallback")
                place = loaded.where(f"{where}.fallback")
                check_names(hardware=certificates[-1]["names"], fallback=claim["names"], where=place)
                certificates.append(claim)
    routes, inject = _routes(loaded, ids)
    tickets = loaded.config.tickets.secret
    guard = {
        "certificates": certificates,
        "clients": _clients(loaded, chains),
        "inject": inject,
        "unbound": loaded.config.unlock.unbound,
        "tickets": None if tickets is None else {"where": "tickets", "secret": tickets},
    }
    return Wiring(loaded, chains, guard, routes, _custodians(loaded))


def _claim(
    loaded: LoadedConfig,
    chains: dict[str, str],
    one: Certificate | Fallback | ClientCertificate,
    *,
    where: str,
) -> dict[str, Any]:
    """What guard must check of a certificate; its chain is noted."""
    pem = loaded.read(one.chain, place=f"{where}.chain")
    spki, names = _leaf(pem, loaded, place=f"{where}.chain", name=str(one.chain))
    chains[str(one.chain)] = pem.decode()
    return {"where": where, "key": one.key.removeprefix("sealed:"), "spki": spki, "names": names}


def _routes(loaded: LoadedConfig, ids: RouteIds) -> tuple[dict[int, int], list[dict[str, Any]]]:
    """Numbers of the routes that lead to egress, and what guard must check of those that inject."""
    routes: dict[int, int] = {}
    inject = []
    for number, route in enumerate(loaded.config.routes):
        if route.inject is not None:
            entry = _inject(loaded, number, route, route.inject, ids)
            inject.append(entry)
            routes[number] = entry["id"]
        elif loaded.config.upstreams[route.upstream].tls is not None:
            routes[number] = ids.number({"upstream": route.upstream})
    return routes, inject


def _clients(loaded: LoadedConfig, chains: dict[str, str]) -> list[dict[str, Any]]:
    """The certificates that egress shows; their chains are noted."""
    return [
        _claim(loaded, chains, upstream.tls.client, where=f"upstreams.{name}.tls.client")
        for name, upstream in loaded.config.upstreams.items()
        if upstream.tls is not None and upstream.tls.client is not None
    ]


def hardware_references(loaded: LoadedConfig) -> dict[str, bytes]:
    """Every key in hardware that a certificate names: what the configuration calls it, and its URI or file.

    Raises:
        ConfigError: a file that cannot be read.
    """
    references: dict[str, bytes] = {}
    for number, listener in enumerate(loaded.config.listeners):
        for index, certificate in enumerate(listener.certificates):
            if certificate.key.startswith("pkcs11:"):
                references[certificate.key] = certificate.key.encode()
            elif certificate.key.startswith("file:"):
                place = f"listeners[{number}].certificates[{index}].key"
                path = Path(certificate.key.removeprefix("file:"))
                references[certificate.key] = loaded.read(path, place=place)
    return references


def _custodians(loaded: LoadedConfig) -> list[dict[str, Any]]:
    """The custodians that the certificates' keys need; the key's name is what the configuration calls it."""
    references = hardware_references(loaded)
    if not references:
        return []
    from unlatch.memguard.custodian.plan import Options, plan

    hardware = loaded.config.hardware
    options = {
        one.module: Options(one.parameters, one.sessions, tuple(one.read), tuple(one.write), one.sockets)
        for one in hardware.pkcs11
    }
    configs, _ = plan(references, tcti=hardware.tcti, options=options)
    return configs


def _inject(loaded: LoadedConfig, number: int, route: Route, inject: Inject, ids: RouteIds) -> dict[str, Any]:
    upstream = loaded.config.upstreams[route.upstream]
    assert upstream.tls is not None
    ca = None
    if upstream.tls.ca is not None:
        pem = loaded.read(upstream.tls.ca, place=f"upstreams.{route.upstream}.tls.ca")
        ca = _spki_digests(pem, loaded, place=f"upstreams.{route.upstream}.tls.ca")
    callers: list[Any] = []
    for index, caller in enumerate(inject.callers):
        place = f"routes[{number}].inject.callers[{index}]"
        if isinstance(caller, CallerCertificate):
            digests = _spki_digests(loaded.read(caller.ca, place=place), loaded, place=place)
            callers += [{"ca": digest, "san": caller.san} for digest in digests]
        elif isinstance(caller, CallerUser):
            callers.append({"uid": caller.uid})
        else:
            callers.append(caller)
    port = upstream.servers[0].rpartition(":")[2]
    content: dict[str, Any] = {
        "where": f"routes[{number}].inject",
        "secret": inject.secret,
        "upstream": f"https://{upstream.tls.name}:{port}",
        "ca": ca,
        "methods": inject.methods,
        "paths": inject.paths,
        "place": {"header": inject.header, "scheme": inject.scheme},
        "callers": callers,
    }
    return {"id": ids.number(content)} | content


def _leaf(pem: bytes, loaded: LoadedConfig, *, place: str, name: str) -> tuple[str, list[str]]:
    """Base64url of the leaf's SubjectPublicKeyInfo, and the names it is for."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if b"PRIVATE KEY" in pem:
        raise ConfigError(
            f"{name} holds a private key ({loaded.where(place)})",
            hint="seal the key (unlatch seal --key NAME=FILE), keep only certificates here, and replace a key that lay in clear",
        )
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise ConfigError(f"{name} is not a PEM certificate chain ({loaded.where(place)})") from error
    try:
        names = leaf.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _base64url(spki), [entry.lower() for entry in names]


def _spki_digests(pem: bytes, loaded: LoadedConfig, *, place: str) -> list[str]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"not PEM certificates ({loaded.where(place)})") from error
    return [
        _base64url(
            hashlib.sha256(
                one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            ).digest()
        )
        for one in found
    ]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _milliseconds(values: dict[str, float]) -> dict[str, int]:
    return {name: round(seconds * 1000) for name, seconds in values.items()}
