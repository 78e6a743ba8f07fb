"""Write the test vectors as a corpus: whole files, headers, points, and bundles of the right shape."""

import base64
import json
import sys
from pathlib import Path

SHAPES = [
    '{"unlatch":1,"set":"%s","recipient":{},"sealers":[],"secrets":{"a":{"kind":"token","value":"x\\u0041","use":{}}}}'
    % ("A" * 43),
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n",
]


def decoded(text: str) -> bytes:
    """Undo base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def main() -> None:
    """Fill DIRECTORY/jwe and DIRECTORY/bundle from a folder of vectors."""
    vectors, work = Path(sys.argv[1]), Path(sys.argv[2])
    seeds: dict[str, list[bytes]] = {"jwe": [], "bundle": [shape.encode() for shape in SHAPES]}
    for name in ("clevis_tang", "clevis_null_file"):
        for vector in json.loads((vectors / f"{name}.json").read_text())["vectors"]:
            if len(vector["jwe"]) < 8192:
                seeds["jwe"] += [vector["jwe"].encode(), decoded(vector["jwe"].split(".")[0])]
    for vector in json.loads((vectors / "tang_recovery.json").read_text())["recoveries"]:
        seeds["jwe"].append(vector["request_body"].encode())
    for server in json.loads((vectors / "tang_servers.json").read_text())["servers"]:
        seeds["bundle"] += [json.dumps(key["jwk"]).encode() for key in server["keys"]]
    for name, found in seeds.items():
        for number, seed in enumerate(found):
            (work / name / str(number)).write_bytes(seed)


if __name__ == "__main__":
    main()
