"""Tests that the documentation names stand where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CLAIMS = sorted(
    {
        (document.name, file, name)
        for document in ROOT.glob("docs/*.md")
        for file, name in NAMED.findall(document.read_text())
    }
)


def test_documents_name_tests() -> None:
    assert len(CLAIMS) > 15


@pytest.mark.parametrize(("document", "file", "name"), CLAIMS)
def test_named_test_exists(document: str, file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

    assert name in functions, document
