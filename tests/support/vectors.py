"""The published numbers of tests/vectors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "vectors"


@cache
def load(name: str) -> Any:
    """One file's content."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def named(cases: list[dict[str, Any]], *keys: str) -> list[Any]:
    """Pytest parameters with readable ids."""
    import pytest

    return [pytest.param(case, id=" ".join(str(case.get(key, "")) for key in keys)) for case in cases]


def server_keys() -> list[dict[str, Any]]:
    """Every private JWK of the four servers."""
    return [key["jwk"] for server in load("tang_servers")["servers"] for key in server["keys"]]
