"""Debian's nginx and haproxy with one certificate, in the foreground, on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.product import eventually, free_port

NGINX = """\
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 2; {user}
events {{}}
http {{
  access_log off;
  {places}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {chain}; ssl_certificate_key {key};
    ssl_session_cache shared:s:1m; return 200 ok;
  }}
}}
"""
HAPROXY = """\
global
  nbthread 2
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
frontend site
  bind 127.0.0.1:{port} ssl crt {both}
  http-request return status 200 content-type text/plain string ok
"""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextlib.contextmanager
def nginx(folder: Path, chain: Path, key: Path) -> Iterator[int]:
    """A master with two workers that have answered; gives the master's process number."""
    port = free_port()
    places = "\n  ".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
    path = folder / "nginx.conf"
    path.write_text(
        NGINX.format(folder=folder, port=port, chain=chain, key=key, places=places, user="user root;")
    )
    with _running(["/usr/sbin/nginx", "-e", str(folder / "nginx.log"), "-c", str(path)], folder, port) as pid:
        yield pid


@contextlib.contextmanager
def haproxy(folder: Path, chain: Path, key: Path) -> Iterator[int]:
    """A master with one worker that has answered; gives the master's process number."""
    port = free_port()
    both = folder / "both.pem"
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY.format(port=port, both=both))
    with _running(["/usr/sbin/haproxy", "-W", "-f", str(path)], folder, port) as pid:
        yield pid


@contextlib.contextmanager
def _running(argv: list[str], folder: Path, port: int) -> Iterator[int]:
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder)
    try:
        eventually(f"an answer of {argv[0]} ({log.read_text()})", lambda: _answered(port))
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def _answered(port: int) -> bool | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b"200" in tls.recv(4096) or None
    except OSError:
        return None
