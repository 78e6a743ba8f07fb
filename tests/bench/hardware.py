"""Keys in hardware, side by side: full TLS 1.3 handshakes through unlatch, nginx and HAProxy with the same token or TPM.

Token and TPM are software (SoftHSM 2, swtpm), everything is on loopback, and all peers of a row use one key. A round
visits each peer once, in rotating order; the table gives medians. Nothing is pinned: who has more processes may use
more processors, so rates are of the whole machine, and ratios of one run are what counts. Peers stay as Debian 12
packages them; what they cannot do is told with their own words.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from servers import TLSLOAD, free_port, processor_seconds, tree  # noqa: E402 - the folders above are not packages
from support.key_site import KeySite, key_uri  # noqa: E402
from support.product import Running  # noqa: E402
from support.softhsm import MODULE, PIN, SoftHsm  # noqa: E402
from support.swtpm import Swtpm  # noqa: E402
from support.tangd import Tangd  # noqa: E402
from support.upstream import serving_ok  # noqa: E402

KINDS = {"p256": "P-256", "rsa": "RSA-2048"}
TPM_KINDS = {"p256": "ecc", "rsa": "rsa"}
CONCURRENCY = 16

ENGINE = """\
openssl_conf = conf
[conf]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
dynamic_path = /usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so
MODULE_PATH = @module@
init = 1
"""
PROVIDER = """\
openssl_conf = conf
[conf]
providers = providers
alg_section = properties
[properties]
default_properties = ?provider=tpm2,tpm2.digest!=yes,tpm2.cipher!=yes
[providers]
default = on
tpm2 = on
[on]
activate = 1
"""
NGINX = """\
worker_processes @workers@; daemon off; user root; pid @dir@/nginx.pid; error_log stderr warn;
env SOFTHSM2_CONF; env OPENSSL_CONF; env TPM2OPENSSL_TCTI;
events { worker_connections 1000; }
http {
    access_log off; ssl_protocols TLSv1.3; ssl_session_cache off;
    client_body_temp_path @dir@/b; proxy_temp_path @dir@/p; fastcgi_temp_path @dir@/f;
    scgi_temp_path @dir@/s; uwsgi_temp_path @dir@/u;
    server {
        listen 127.0.0.1:@port@ ssl backlog=4096 reuseport;
        ssl_certificate @chain@; ssl_certificate_key "@key@";
        location / { return 200 "ok\\n"; }
    }
}
"""
HAPROXY = """\
global
    nbthread @workers@
    @engine@
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend tls
    bind 127.0.0.1:@port@ ssl crt @pem@ backlog 4096
    http-request return status 200 content-type text/plain string ok
"""


class PeerError(Exception):
    """A peer cannot serve this key; its own words."""


@dataclass(frozen=True)
class Place:
    """A key that every peer of a row uses."""

    title: str
    name: str
    is_tpm: bool
    workers: int


class Stage:
    """Tokens, TPM, keys and certificates of one run."""

    def __init__(self, folder: Path, hsm: SoftHsm, tpm: Swtpm, tangd: Tangd, origin: int) -> None:
        self.folder, self.tpm, self._origin = folder, tpm, origin
        self.site = KeySite(folder, hsm, tangd)
        self.site.extra["UNLATCH_TCTI"] = tpm.tcti
        self.entries: dict[str, str] = {}
        for kind in KINDS:
            self.entries[kind] = self.site.add_hardware(kind, kind, f"{kind}.localhost")
            self.site.certificates.append(self.entries[kind])
        for kind, name in TPM_KINDS.items():
            self._add_tpm(f"tpm-{kind}", name, f"{kind}.localhost")
        self.site.seal()

    def _add_tpm(self, name: str, kind: str, host: str) -> None:
        self.site.run("tpm", "make-key", "--kind", kind, "--out", f"{name}.key")
        self.site.run("tpm", "csr", f"{name}.key", "--names", host, "--out", f"{name}.csr")
        request = (self.folder / f"{name}.csr").read_bytes()
        self.site.authority.issue_for_request(self.folder / f"{name}.pem", request)
        self.entries[name] = f'chain: {name}.pem, key: "file:{name}.key"'

    @contextlib.contextmanager
    def unlatch(self, place: Place, sessions: int = 4) -> Iterator[tuple[int, int]]:
        """Port and process of unlatch with this key alone."""
        self.site.certificates = [self.entries[place.name]]
        proxy = self.site.serve(
            self._origin,
            more="access_log: false\n",
            tcti=f'"{self.tpm.tcti}"' if place.is_tpm else "null",
            workers=place.workers,
            sessions=sessions,
        )
        with proxy:
            proxy.wait_for_event("serving")
            yield proxy.port, proxy.process.pid

    def log(self) -> str:
        """The last that unlatch said."""
        return (self.folder / "proxy.log").read_text()[-3000:]

    def _values(self, place: Place) -> dict[str, str]:
        key = str(self.folder / f"{place.name}.key")
        if not place.is_tpm:
            uri = key_uri(place.name).partition("?")[0]
            key = f"engine:pkcs11:{uri}?pin-value={PIN}"
        pem = self.folder / f"{place.name}.both"
        chain = self.folder / f"{place.name}.pem"
        # HAProxy knows keys in files only.
        secret = (
            Path(key).read_text()
            if place.is_tpm
            else f"engine = pkcs11\nprivate_key = {key_uri(place.name)}\n"
        )
        pem.write_text(chain.read_text() + secret)
        return {
            "chain": str(chain), "key": key, "pem": str(pem), "dir": str(self.folder), "workers": str(place.workers),
            "engine": "" if place.is_tpm else "ssl-engine pkcs11", "module": str(MODULE),
        }  # fmt: skip

    @contextlib.contextmanager
    def peer(self, name: str, place: Place) -> Iterator[tuple[int, int]]:
        """Port and process of nginx or HAProxy with this key.

        Raises:
            PeerError: it does not start, or answers no handshake.
        """
        port = free_port()
        values = self._values(place) | {"port": str(port)}
        openssl = self.folder / "openssl.cnf"
        openssl.write_text(_fill(PROVIDER if place.is_tpm else ENGINE, values))
        config = self.folder / f"{name}.conf"
        config.write_text(_fill(NGINX if name == "nginx" else HAPROXY, values))
        extra = self.site.extra | {"OPENSSL_CONF": str(openssl), "TPM2OPENSSL_TCTI": self.tpm.tcti}
        command = {
            "nginx": ["/usr/sbin/nginx", "-e", "stderr", "-c", str(config)],
            "haproxy": ["/usr/sbin/haproxy", "-f", str(config), "-db"],
        }[name]
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        with Running(command, folder=self.folder, name=name, extra=extra) as running:
            first = [TLSLOAD, "first", "-p", str(port), "-l", "8"]
            found = subprocess.run(first, capture_output=True, check=False, timeout=30)
            if "t_success_ns" not in json.loads(found.stdout or "{}"):
                raise PeerError(" ".join(running.text().split())[:400] or found.stdout.decode()[:200])
            yield port, running.process.pid


def _fill(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def measure(port: int, pid: int, seconds: float) -> dict[str, float]:
    """Handshakes a second with many clients, and the time of one with one client."""
    wait = [TLSLOAD, "first", "-p", str(port), "-l", "20"]
    found = subprocess.run(wait, capture_output=True, check=True, timeout=30)
    if b"t_success_ns" not in found.stdout:
        raise PeerError(found.stdout.decode())
    many = _load(port, CONCURRENCY, seconds)
    before = processor_seconds(tree(pid))
    alone = _load(port, 1, seconds / 2)
    return {
        "rate": many["n"] / many["seconds"],
        "p50": many["p50_us"] / 1000,
        "p99": many["p99_us"] / 1000,
        "alone_p50": alone["p50_us"] / 1000,
        "alone_p99": alone["p99_us"] / 1000,
        "cpu_alone": processor_seconds(tree(pid)) - before,
    }


def _load(port: int, clients: int, seconds: float) -> dict[str, float]:
    command = [TLSLOAD, "hs", "-p", str(port), "-c", str(clients), "-d", str(seconds), "-w", "0.3"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=seconds + 30)
    result: dict[str, float] = json.loads(done.stdout)
    if "error" in result or result.get("errors") or not result["n"]:
        raise PeerError(f"handshakes fail: {result}")
    return result


def servers_of(stage: Stage, place: Place) -> dict[str, AbstractContextManager[tuple[int, int]]]:
    """Fresh ones, by name; the pool's gain shows with a token only: a TPM does one thing at a time."""
    found: dict[str, AbstractContextManager[tuple[int, int]]] = {"unlatch": stage.unlatch(place)}
    if not place.is_tpm:
        found["unlatch, 1 session"] = stage.unlatch(place, sessions=1)
    return found | {name: stage.peer(name, place) for name in ("nginx", "haproxy")}


def run(
    stage: Stage, places: list[Place], rounds: int, seconds: float
) -> tuple[list[dict[str, object]], dict[str, str]]:
    """All samples, and what peers said that cannot."""
    samples: list[dict[str, object]] = []
    unable: dict[str, str] = {}
    for number in range(rounds):
        for place in places:
            names = list(servers_of(stage, place))
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if f"{name}, {place.title}" in unable:
                    continue
                print(f"round {number + 1}: {place.title}: {name}", file=sys.stderr, flush=True)
                if place.is_tpm:
                    # Whoever was ended left its objects there.
                    stage.tpm.restart()
                try:
                    with servers_of(stage, place)[name] as (port, pid):
                        sample = measure(port, pid, seconds)
                except PeerError as error:
                    if name.startswith("unlatch"):
                        raise SystemExit(f"{error}\n{stage.log()}") from error
                    unable[f"{name}, {place.title}"] = str(error)
                    continue
                samples.append({"place": place.title, "peer": name, **sample})
                time.sleep(0.2)
    return samples, unable


def table(samples: list[dict[str, object]], places: list[Place]) -> str:
    """Markdown: medians, and ratios within each row's run; above 1 is in our favour for rates."""
    lines = [
        f"| key | server | handshakes/s ({CONCURRENCY} clients) | p50 ms | p99 ms | one client: p50 ms | p99 ms | unlatch's rate to this |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for place in places:
        of_place = [one for one in samples if one["place"] == place.title]
        peers = list(dict.fromkeys(str(one["peer"]) for one in of_place))
        middle = {
            peer: {
                cell: statistics.median(float(str(one[cell])) for one in of_place if one["peer"] == peer)
                for cell in ("rate", "p50", "p99", "alone_p50", "alone_p99")
            }
            for peer in peers
        }
        for peer in sorted(peers, key=lambda name: (not name.startswith("unlatch"), name)):
            one = middle[peer]
            ratio = f"{middle['unlatch']['rate'] / one['rate']:.2f}" if "unlatch" in middle else "-"
            lines.append(
                f"| {place.title} | {peer} | {one['rate']:.0f} | {one['p50']:.2f} | {one['p99']:.1f} "
                f"| {one['alone_p50']:.2f} | {one['alone_p99']:.1f} | {ratio} |"
            )
    return "\n".join(lines)


def facts() -> list[str]:
    """What the figures rest on."""
    packages = [
        "haproxy",
        "nginx-light",
        "softhsm2",
        "swtpm",
        "libengine-pkcs11-openssl",
        "tpm2-openssl",
        "openssl",
    ]
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *packages]
    known = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    name = subprocess.run(
        ["sed", "-n", "s/^model name[^:]*: //p", "/proc/cpuinfo"], capture_output=True, text=True
    )
    machine = f"{os.cpu_count()} processors {name.stdout.splitlines()[0]!r}, Linux {os.uname().release}"
    return [time.strftime("%Y-%m-%d"), machine, *known, f"load at the end: {os.getloadavg()[0]:.1f}"]


def main() -> None:
    """Measure, then print the table, what peers cannot, and what it rests on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one sample")
    parser.add_argument("--only", default="", help="rows whose title holds this")
    parser.add_argument("--json", type=Path, help="write every sample there")
    a = parser.parse_args()
    workers = min(os.cpu_count() or 1, 4)
    places = [Place(f"SoftHSM {title}", kind, False, workers) for kind, title in KINDS.items()]
    # One connection is all that a TPM without a resource manager takes.
    places += [Place(f"swtpm {title}", f"tpm-{kind}", True, 1) for kind, title in KINDS.items()]
    places = [place for place in places if a.only in place.title]
    with (
        tempfile.TemporaryDirectory(prefix="unlatch-bench-") as folder,
        SoftHsm() as hsm,
        Swtpm() as tpm,
        Tangd() as tangd,
        serving_ok() as origin,
    ):
        hsm.add_token("prod")
        stage = Stage(Path(folder), hsm, tpm, tangd, origin)
        samples, unable = run(stage, places, a.rounds, a.seconds)
    print(table(samples, places))
    for name, words in unable.items():
        print(f"cannot: {name}: {words}")
    print("\n".join(facts()))
    if a.json:
        a.json.write_text(json.dumps({"samples": samples, "unable": unable, "facts": facts()}, indent=1))


if __name__ == "__main__":
    main()
