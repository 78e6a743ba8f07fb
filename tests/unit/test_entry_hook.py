"""Python approval hooks: found by name, run under the contract of every other hook."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unlatch.bootstrap.hook import HookAnswer, run_hook
from unlatch.errors import HookRefusedError

FACTS = {"host": "web1"}
MODULE = """
from unlatch.errors import HookRefusedError

def adds(facts, arguments):
    return {"reason": facts["host"], "claims": {"arguments": " ".join(arguments)}}

def refuses(facts, arguments):
    raise HookRefusedError("no open ticket")

def breaks(facts, arguments):
    raise RuntimeError("out of order")

def silent(facts, arguments):
    return None
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A package with hooks, as pip leaves it."""
    (tmp_path / "our_hooks.py").write_text(MODULE)
    info = tmp_path / "our_hooks-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-hooks\nVersion: 1\n")
    names = "".join(f"{name} = our_hooks:{name}\n" for name in ("adds", "refuses", "breaks", "silent"))
    (info / "entry_points.txt").write_text(f"[unlatch.hooks]\n{names}")
    return tmp_path


def argv(installed: Path, *arguments: str) -> list[str]:
    start = f"import sys; sys.path.insert(0, {str(installed)!r}); from unlatch.bootstrap.entry_hook import main; sys.exit(main())"
    return [sys.executable, "-I", "-c", start, *arguments]


def test_named_hook_gets_facts_and_arguments(installed: Path) -> None:
    answer = run_hook(argv(installed, "adds", "OPS", "7"), FACTS, seconds=20)

    assert answer == HookAnswer(reason="web1", claims={"arguments": "OPS 7"})


def test_hook_that_adds_nothing_goes_on(installed: Path) -> None:
    assert run_hook(argv(installed, "silent"), FACTS, seconds=20) == HookAnswer()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refuses", "refused: no open ticket"),
        ("breaks", "failed with exit code 1"),
        ("absent", "0 packages name a hook 'absent'"),
    ],
)
def test_refusal_failure_and_unknown_name_refuse(installed: Path, name: str, message: str) -> None:
    with pytest.raises(HookRefusedError, match=message):
        run_hook(argv(installed, name), FACTS, seconds=20)
