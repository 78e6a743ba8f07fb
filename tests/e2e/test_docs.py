"""The shell lines of README and docs/start.md, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.product import environment, free_port
from support.upstream import serving_ok

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
START = (ROOT / "docs" / "start.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# What a person does between the lines: wait until a server says so, read the code on the console.
PRELUDE = """
set -eu
wait_for() { for _ in $(seq 600); do grep -q "$1" "$2" 2>/dev/null && return; sleep 0.05; done; cat "$2" >&2; exit 1; }
PATH="$PWD/bin:$PATH"
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
"""
AROUND = (
    ("unlatch gate serve gate &", "unlatch gate serve gate 2> gate.log & wait_for '\"listening\"' gate.log"),
    ("unlatch serve -c unlatch.yaml &", "unlatch serve -c unlatch.yaml 2> proxy.log & wait_for 'unlatch: waiting' proxy.log"),
    ("unlatch status --socket admin.sock", "unlatch status --socket admin.sock || [ $? = 24 ]"),
    (
        "unlatch approve --key mara",
        "unlatch approve --key mara --code \"$(sed -n 's/.* code \\([A-Z-]*\\),.*/\\1/p' proxy.log)\" && wait_for '\"serving\"' proxy.log",
    ),
)  # fmt: skip
REFUSED_AGAIN = "curl -s --cacert site.pem https://localhost:8443/ && exit 1; echo refused $?\n"


def shell(text: str) -> str:
    """The blocks of shell lines but the one that needs this repository's set-up."""
    return "".join(
        body
        for kind, body in BLOCK.findall(text)
        if kind == "sh" and "./dev" not in body and "pip" not in body
    )


@pytest.mark.parametrize("text", [START, README], ids=["start", "readme"])
def test_shell_lines_work(tmp_path: Path, text: str) -> None:
    (yaml,) = (body for kind, body in BLOCK.findall(START) if kind == "yaml")
    script = shell(text)
    for line, wrapped in AROUND:
        assert line in START
        script = script.replace(line, wrapped + " #" if line.startswith("unlatch approve") else wrapped)
    command = tmp_path / "bin" / "unlatch"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m unlatch "$@"\n')
    command.chmod(0o755)
    with serving_ok() as upstream:
        ports = {"7070": free_port(), "7071": free_port(), "8443": free_port(), "8080": upstream}
        listen = f"gate serve gate --listen 127.0.0.1:{ports['7070']} --people 127.0.0.1:{ports['7071']}"
        script = (script + REFUSED_AGAIN).replace("gate serve gate", listen)
        for documented, used in ports.items():
            script = script.replace(f":{documented}", f":{used}")
            yaml = yaml.replace(f":{documented}", f":{used}")
        (tmp_path / "unlatch.yaml").write_text(yaml)
        done = subprocess.run(
            ["bash", "-c", PRELUDE + script],
            cwd=tmp_path, env=environment(tmp_path), capture_output=True, timeout=100, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr.decode()
    assert b"\nok\n" in b"\n" + done.stdout
    assert done.stdout.endswith(b"refused 7\n")
