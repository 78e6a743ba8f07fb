"""Guard and edge, wired as the supervisor wires them, for one certificate: what the benchmark measures.

usage: serve_unlatch.py PORT BACKEND_PORT SITE WORKERS GUARD EDGE [KEY]. SITE is what `seal_site.py` wrote: the sealed
file with its content key, so that no gate takes part in the figures. KEY is for an edge that was built to hold it
itself. It stands for a supervisor that is running already: it waits for a line before it starts anything
(docs/protocol.md sections 1 and 2).
"""

import json
import os
import signal
import socket
import struct
import sys

HEADER = struct.Struct(">BBHII")
LOAD, CONFIGURE, WORKER, REFUSED = 0x40, 0x41, 0x42, 0xFF
LONG_MS = 300_000


def spawn(program: str, arguments: list[str], keep: list[int], environment: dict[str, str]) -> int:
    """Start a program that inherits these descriptors."""
    for number in keep:
        os.set_inheritable(number, True)
    return os.posix_spawn(program, [program, *arguments], environment, setsigmask=[])


def ask(control: socket.socket, operation: int, content: object, descriptors: list[int]) -> dict:
    """One request on guard's control socket."""
    payload = json.dumps(content).encode()
    socket.send_fds(control, [HEADER.pack(1, operation, 0, 1, len(payload)) + payload], descriptors)
    reply = control.recv(1 << 18)
    answer = json.loads(reply[HEADER.size :])
    if reply[1] == REFUSED:
        raise SystemExit(f"guard: {answer}")
    return answer


def load(control: socket.socket, site: dict) -> None:
    """What unlock would send (section 1.6)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sealed = site["sealed"].encode()
        ours.sendall(struct.pack(">II", 1, len(sealed)) + bytes.fromhex(site["key"]) + sealed)
        ours.shutdown(socket.SHUT_WR)
        ask(control, LOAD, {}, [theirs.fileno()])


def configure(control: socket.socket, site: dict) -> dict:
    """One certificate; gives what guard says of its key."""
    certificate = {"where": "bench", "key": "default", "spki": site["spki"], "names": ["bench.test"]}
    configuration = {"certificates": [certificate], "inject": [], "unbound": True}
    return ask(control, CONFIGURE, configuration, [])["keys"][0]


def worker_socket(control: socket.socket, key: int) -> socket.socket:
    """A worker's end of a new socket to guard."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        rights = {"role": "edge", "node": "bench", "keys": [key], "rate": 1_000_000}
        ask(control, WORKER, rights, [theirs.fileno()])
    return ours


def bound(port: int, count: int) -> list[socket.socket]:
    """One socket for each worker on the same port, not listening yet."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", port))
    return sockets


def edge_config(
    site: dict, key: dict, sockets: list[socket.socket], guard: list[socket.socket], backend: str
) -> bytes:
    """What edge is told."""
    times = ("handshake", "header", "idle", "response", "body")
    certificate = {"chain": site["chain"], "key": key["id"], "algorithm": key["algorithm"]}
    listener = {
        "name": "bench",
        "sockets": [one.fileno() for one in sockets],
        "certificates": [certificate],
        "client_ca": None,
    }
    config = {
        "role": "edge",
        "workers": len(sockets),
        "node": "bench",
        "guard": [one.fileno() for one in guard],
        "egress": None,
        "listeners": [listener],
        "routes": [{"upstream": "app"}],
        "upstreams": {"app": {"servers": [f"127.0.0.1:{backend}"], "tls": None}},
        "timeouts_ms": {"connect": 5000} | dict.fromkeys(times, LONG_MS),
        "limits": {"connections": 14000},
        "access_log": False,
    }
    return json.dumps(config).encode()


def main() -> None:
    """Serve until SIGTERM, from the first line on standard input on."""
    print("ready", flush=True)
    sys.stdin.readline()
    port, backend, site_path, workers, guard_program, edge_program, *own_key = sys.argv[1:]
    with open(site_path) as file:
        site = json.load(file)
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    children = [spawn(guard_program, ["--control-fd", str(theirs.fileno())], [theirs.fileno()], {})]
    load(control, site)
    key = configure(control, site)
    guard = [worker_socket(control, key["id"]) for _ in range(int(workers))]
    sockets = bound(int(port), int(workers))
    memory = os.memfd_create("config")
    os.write(memory, edge_config(site, key, sockets, guard, backend))
    edge_control, theirs_too = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = ["--role", "edge", "--config-fd", str(memory), "--control-fd", str(theirs_too.fileno())]
    keep = [memory, theirs_too.fileno(), *(one.fileno() for one in [*sockets, *guard])]
    environment = {"UNLATCH_BENCH_KEY": own_key[0]} if own_key else {}
    children.append(spawn(edge_program, arguments, keep, environment))
    edge_control.recv(100)
    for one in sockets:
        one.listen(4096)
    for one in [*guard, theirs, theirs_too]:
        one.close()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
