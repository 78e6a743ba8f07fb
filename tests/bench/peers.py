"""The servers that are compared: how each is started and configured.

Placeholders in commands and files: @port@ to listen on, @backend_port@ of the HTTP/1.1 origin, @crt@ @key@ @pem@ @site@
@der@ of the certificate, @dir@ scratch folder, @here@ this folder, @guard@ and @edge@ our programs. One worker or thread each,
no access log, keep-alive to clients and origin, TLS 1.2 and 1.3, tickets.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ENVOY = next(Path(sys.prefix).glob("lib/python3*/site-packages/envoy/_bin/envoy"), Path("envoy"))


@dataclass(frozen=True)
class Peer:
    """One server, run in the foreground."""

    name: str
    command: str
    files: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    # It is started before the clock, says so in a line, and begins when it gets one.
    waits: bool = False


def fill(text: str, values: Mapping[str, object]) -> str:
    """Replace the placeholders that `values` knows."""
    return re.sub(r"@(\w+)@", lambda match: str(values.get(match[1], match[0])), text)


HAPROXY = """\
global
    nbthread 1
    maxconn 7000
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    option http-keep-alive
    http-reuse always
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout http-keep-alive 300s
frontend tls
    bind 127.0.0.1:@port@ ssl crt @pem@ alpn h2,http/1.1 backlog 4096
    option forwardfor
    default_backend origin
backend origin
    server s1 127.0.0.1:@backend_port@ maxconn 4000 pool-max-conn -1
"""

PATHS = """\
    client_body_temp_path @dir@/b; proxy_temp_path @dir@/p; fastcgi_temp_path @dir@/f;
    scgi_temp_path @dir@/s; uwsgi_temp_path @dir@/u;
"""

NGINX = (
    """\
worker_processes 1; daemon off; user root; pid @dir@/nginx.pid; error_log stderr crit;
worker_rlimit_nofile 16384;
events { worker_connections 7000; }
http {
    access_log off; server_tokens off;
"""
    + PATHS
    + """\
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:S:10m; ssl_session_tickets on; ssl_buffer_size 16k;
    keepalive_timeout 300s; keepalive_requests 1000000000;
    proxy_max_temp_file_size 0; proxy_buffer_size 16k; proxy_buffers 16 32k; proxy_busy_buffers_size 128k;
    upstream origin { server 127.0.0.1:@backend_port@; keepalive 256; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:@port@ ssl http2 backlog=4096 reuseport;
        ssl_certificate @crt@; ssl_certificate_key @key@;
        location / {
            proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
        }
    }
}
"""
)

ENVOY_YAML = """\
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 7000}
static_resources:
  listeners:
  - name: tls
    address: {socket_address: {address: 127.0.0.1, port_value: @port@}}
    tcp_backlog_size: 4096
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}
            tls_certificates: [{certificate_chain: {filename: @crt@}, private_key: {filename: @key@}}]
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          generate_request_id: false
          use_remote_address: true
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: origin, timeout: 300s}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, dynamic_stats: false, suppress_envoy_headers: true}
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 8000, max_pending_requests: 8000, max_requests: 8000}]}
    load_assignment: {cluster_name: origin, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @backend_port@}}}}]}]}
"""

ORIGIN = (
    """\
worker_processes 1; daemon off; user root; pid @dir@/nginx.pid; error_log stderr crit; worker_rlimit_nofile 16384;
events { worker_connections 12000; }
http {
    access_log off; sendfile on; tcp_nopush on; sendfile_max_chunk 512k; open_file_cache max=16;
    default_type application/octet-stream;
"""
    + PATHS
    + """\
    keepalive_timeout 600s; keepalive_requests 1000000000;
    server {
        listen 127.0.0.1:@port@ backlog=4096;
        root @root@;
        location = / { return 200 "ok\\n"; }
    }
}
"""
)

# wrk has no cipher option: this makes any OpenSSL client offer exactly what tlsload offers.
CLIENT = """\
openssl_conf = d
[d]
ssl_conf = s
[s]
system_default = x
[x]
MinProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
"""

OURS = "unlatch"
# The same edge, built to hold the key itself: what guard costs is the difference.
BARE = "key in edge"
BARE_CELLS = {"hs", "hs_rsa"}
SERVE_UNLATCH = f"{sys.executable} -I -S @here@/serve_unlatch.py @port@ @backend_port@ @site@ 1 @guard@"
OUR_VERSION = "git -C @here@ log -1 --format='%h of %cs'"
PEERS = {
    peer.name: peer
    for peer in (
        Peer(OURS, f"{SERVE_UNLATCH} @edge@", version=OUR_VERSION, waits=True),
        Peer(BARE, f"{SERVE_UNLATCH} @edge@-with-key @der@", version=OUR_VERSION, waits=True),
        Peer("haproxy", "haproxy -db -q -f @dir@/haproxy.cfg", {"haproxy.cfg": HAPROXY}, "haproxy -v"),
        Peer("nginx", "nginx -e stderr -c @dir@/nginx.conf", {"nginx.conf": NGINX}, "nginx -v 2>&1"),
        Peer(
            "envoy",
            f"{ENVOY} -c @dir@/envoy.yaml --concurrency 1 --disable-hot-restart -l off",
            {"envoy.yaml": ENVOY_YAML},
            f"{ENVOY} --version | grep -o '[0-9.]*/Clean.*'",
        ),
    )
}
BACKEND = Peer("origin", "nginx -e stderr -c @dir@/nginx.conf", {"nginx.conf": ORIGIN})


def shell(command: str) -> str:
    """First line of what a command of this file prints."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or ["?"])[0]
