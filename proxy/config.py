"""What `unlatch serve` is told: the model of the configuration, one class per section.

Unknown keys are errors. Durations are written `500ms`, `10s`, `5m`, `1h`; sizes `512`, `64KiB`, `1MiB`. Relative
paths are relative to the configuration file. Secrets are never written here, only named: `sealed:NAME`.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from unlatch.proxy.config_values import (
    BindAddress,
    Digest,
    Duration,
    HostPattern,
    KeyName,
    PathPattern,
    SealedName,
    ServerAddress,
    Size,
)

MAX_SLOW_SIGNATURES = 19
"""Each has a socket of its own to guard, which serves 36: 16 workers, egress, and these (docs/protocol.md 1.4)."""


class Section(BaseModel):
    """A mapping of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Unlock(Section):
    """How the sealed file is opened at start."""

    bundle: Path
    gates: list[Digest] = Field(
        default=[], description="thumbprints of gate signing keys; the sealed file alone is not believed"
    )
    wait: Duration = Field(default=600.0, validate_default=False, description="how long one request may wait")
    on_timeout: Literal["ask-again", "exit"] = "ask-again"
    hook: list[str] | None = Field(
        default=None,
        min_length=1,
        description="a program, or python:NAME of the group unlatch.hooks, and its arguments",
    )
    hook_timeout: Duration = Field(default=60.0, validate_default=False)
    reason: str | None = Field(default=None, max_length=200)
    host_key: Path | None = Field(
        default=None,
        description="the file of unlatch host enroll, of a key in the TPM or in the file itself; default: where enroll puts it",
    )
    unbound: bool = Field(default=False, description="let a token without sealed rules be used")


class Fallback(Section):
    """A sealed key and its chain, which stand in for a key in hardware while that does not sign."""

    chain: Path
    key: SealedName


class Certificate(Section):
    """A public chain file and the name of its key."""

    chain: Path
    key: KeyName = Field(
        description="sealed:NAME, pkcs11:URI, or file:PATH of a PEM that names a key in a token or TPM"
    )

    fallback: Fallback | None = Field(
        default=None,
        description="what is presented while a key in hardware does not sign; without it handshakes fail then",
    )

    @model_validator(mode="after")
    def _fallback_is_for_hardware(self) -> Certificate:
        if self.fallback is not None and not self.is_in_hardware:
            raise ValueError("a fallback is for a key in hardware; this key is sealed")
        return self

    @property
    def is_in_hardware(self) -> bool:
        """Whether a custodian has the key."""
        return not self.key.startswith("sealed:")


class Listener(Section):
    """Addresses that speak TLS with these certificates; the first one is the default."""

    bind: list[BindAddress] = Field(min_length=1)
    certificates: list[Certificate] = Field(min_length=1)
    client_ca: Path | None = None


class Match(Section):
    """What a request must look like; everything given must hold."""

    listener: BindAddress | None = None
    host: HostPattern | None = None
    path: PathPattern | None = None


class CallerCertificate(Section):
    """A client whose certificate this CA signed for this name."""

    ca: Path
    san: str


class CallerUser(Section):
    """A local process of this user, over a UNIX socket."""

    uid: int = Field(ge=0)


def _network(text: str) -> str:
    if text != "anyone":
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is not a network such as 10.2.0.0/16, nor anyone, {{ca, san}} or {{uid}}"
            ) from None
    return text


def _kind_of_caller(value: object) -> str:
    if isinstance(value, dict | CallerCertificate | CallerUser):
        return (
            "user"
            if isinstance(value, CallerUser) or (isinstance(value, dict) and "uid" in value)
            else "certificate"
        )
    return "network"


Caller = Annotated[
    Annotated[str, AfterValidator(_network), Tag("network")]
    | Annotated[CallerCertificate, Tag("certificate")]
    | Annotated[CallerUser, Tag("user")],
    Discriminator(_kind_of_caller),
]


class Inject(Section):
    """A sealed token that is added to requests of this route, for these callers only."""

    header: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    scheme: Literal["bearer", "raw"] = "bearer"
    secret: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    callers: list[Caller] = Field(min_length=1)
    methods: list[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")]] | None = None
    paths: list[PathPattern] | None = None


class Route(Section):
    """Requests that match go to the upstream; the first route that matches wins."""

    match: Match = Match()
    upstream: str
    strip_prefix: str | None = Field(default=None, pattern=r"^/[^*?#]*[^/*?#]$")
    inject: Inject | None = None


class ClientCertificate(Section):
    """What egress shows to an upstream that asks who it is, over TLS 1.3; guard signs."""

    chain: Path
    key: SealedName = Field(description="sealed:NAME of a key with the role client")


class UpstreamTls(Section):
    """Speak TLS to the upstream and verify this name."""

    name: str
    ca: Path | None = None
    client: ClientCertificate | None = None


class Upstream(Section):
    """Servers that answer, taken in turn."""

    servers: list[ServerAddress] = Field(min_length=1)
    tls: UpstreamTls | None = None


class Timeouts(Section):
    """How long each phase may last."""

    handshake: Duration = Field(default=10.0, validate_default=False)
    header: Duration = Field(default=10.0, validate_default=False)
    idle: Duration = Field(default=75.0, validate_default=False)
    connect: Duration = Field(default=5.0, validate_default=False)
    response: Duration = Field(default=60.0, validate_default=False)
    body: Duration = Field(default=60.0, validate_default=False)
    drain: Duration = Field(default=30.0, validate_default=False)


class Limits(Section):
    """What one client, or all of them, may take."""

    header_bytes: Size = Field(default=32768, ge=1024, le=65536, validate_default=False)
    headers: int = Field(default=100, ge=1, le=256)
    connections: int = Field(default=10000, ge=1)
    signatures: int = Field(
        default=20000, ge=1, description="signatures per second and worker that guard gives"
    )
    slow_signatures: int = Field(
        default=16,
        ge=1,
        le=MAX_SLOW_SIGNATURES,
        description="handshakes that may be with keys in hardware at once; 256 more wait, the next is refused",
    )
    signed_body_bytes: Size = Field(
        default=1 << 20,
        ge=0,
        le=1 << 24,
        validate_default=False,
        description="longest body that is held back so that a signature can cover it",
    )


class Tickets(Section):
    """How sessions are resumed."""

    secret: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="sealed ticket secret that a fleet shares; without it tickets end with guard",
    )
    epoch: Duration = Field(
        default=3600.0,
        validate_default=False,
        ge=10,
        le=86400,
        description="how long one ticket key is used, in whole seconds; tickets live so long, at most twice",
    )


class Admin(Section):
    """Where the supervisor is asked and watched."""

    socket: Path = Path("/run/unlatch/admin.sock")
    http: BindAddress | None = Field(default=None, description="address of /livez and /readyz")


Protection = Literal["memfd_secret", "keyring", "all_locked", "landlock", "own_user"]


class Guard(Section):
    """How guard keeps what it holds."""

    reshare: Duration = Field(
        default=5.0,
        validate_default=False,
        ge=0.1,
        le=3600,
        description="time between changes of every share",
    )
    require: list[Protection] = Field(
        default=[], description="protections without which guard refuses to start"
    )
    accept: list[Protection] = Field(
        default=[], description="protections that may be missing without `status` calling it weaker"
    )
    never_joined: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]] = Field(
        default=[],
        description="RSA keys that are never whole, not even to sign: about fifteen times the cost",
    )


class Pkcs11Module(Section):
    """How one PKCS#11 module is used; named as in the keys' URIs, by path or name, or "" where they name none."""

    module: str = ""
    parameters: str | None = Field(default=None, description="initialisation string, for NSS")
    sessions: int = Field(default=4, ge=1, le=64)
    read: list[str] = Field(default=[], description="files and folders that it may read")
    write: list[str] = Field(default=[], description="files and folders that it may write")
    sockets: Literal["none", "unix", "network"] | None = None


class Hardware(Section):
    """Tokens and TPMs that hold keys."""

    tcti: str | None = Field(default=None, description="how the TPM is reached; default: the kernel's device")
    pkcs11: list[Pkcs11Module] = []
    pins: dict[str, SealedName] = Field(
        default={}, description="by the token's URI: the sealed secret that holds its PIN"
    )


class Users(Section):
    """Whom guard, edge and egress become where the proxy is started as root; a name or a number."""

    guard: str | int | None = None
    edge: str | int | None = None
    egress: str | int | None = None


class Config(Section):
    """The whole configuration."""

    unlock: Unlock
    guard: Guard = Guard()
    users: Users = Users()
    hardware: Hardware = Hardware()
    listeners: list[Listener] = Field(min_length=1)
    routes: list[Route] = Field(min_length=1)
    upstreams: dict[str, Upstream]
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    tickets: Tickets = Tickets()
    workers: int | None = Field(default=None, ge=1, le=16, description="default: one per processor")
    access_log: bool = True
    admin: Admin = Admin()

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        binds = [address for listener in self.listeners for address in listener.bind]
        for address in binds:
            if binds.count(address) > 1:
                raise ValueError(f"listeners: {address} is bound twice")
        for number, route in enumerate(self.routes):
            where = f"routes[{number}]"
            if route.upstream not in self.upstreams:
                known = ", ".join(sorted(self.upstreams)) or "none"
                raise ValueError(
                    f"{where}.upstream: no upstream is named {route.upstream!r} (known: {known})"
                )
            if route.match.listener is not None and route.match.listener not in binds:
                raise ValueError(f"{where}.match.listener: no listener binds {route.match.listener}")
            tls = self.upstreams[route.upstream].tls
            if route.inject is not None and tls is None:
                raise ValueError(
                    f"{where}.inject: a token goes over TLS only; give upstream {route.upstream!r} a tls section"
                )
            if route.inject is None and tls is not None and tls.client is None:
                raise ValueError(
                    f"{where}: upstream {route.upstream!r} speaks TLS, which this version does for inject routes "
                    "and with client certificates only"
                )
        return self
