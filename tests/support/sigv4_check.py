"""AWS Signature Version 4 as a server checks it, written from AWS's description, apart from guard's."""

from __future__ import annotations

import hashlib
import hmac
import re
import urllib.parse

from support.recorder import Seen

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<access>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, "
    r"SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


def check(seen: Seen, secret: str) -> dict[str, str]:
    """Raise unless the request is signed with this secret; gives access key, region, service and signed names."""
    found = _AUTHORIZATION.fullmatch(seen.value("authorization"))
    assert found, seen.value("authorization")
    parts = found.groupdict()
    stamp, payload = seen.value("x-amz-date"), seen.value("x-amz-content-sha256")
    assert stamp.startswith(parts["day"])
    assert payload in ("UNSIGNED-PAYLOAD", hashlib.sha256(seen.body).hexdigest())
    path, _, query = seen.target.partition("?")
    pairs = sorted(
        tuple(
            urllib.parse.quote(urllib.parse.unquote_to_bytes(half), safe="-_.~")
            for half in (part.partition("=")[::2])
        )
        for part in query.split("&")
        if part
    )
    lines = [f"{name}:{' '.join(seen.value(name).split())}\n" for name in parts["names"].split(";")]
    request = "\n".join(
        [
            seen.method,
            path if parts["service"] == "s3" else urllib.parse.quote(path, safe="/-_.~"),
            "&".join("=".join(pair) for pair in pairs),
            "".join(lines),
            parts["names"],
            payload,
        ]
    )
    scope = f"{parts['day']}/{parts['region']}/{parts['service']}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    assert hmac.digest(key, text.encode(), "sha256").hex() == parts["signature"]
    return parts
