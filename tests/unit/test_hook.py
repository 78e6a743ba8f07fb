"""The approval hook: what it hears, what it may say, and what happens to one that misbehaves."""

import json
import sys
from pathlib import Path

import pytest
from support.product import eventually, is_running

from unlatch.bootstrap.hook import MAX_OUTPUT_BYTES, HookAnswer, run_hook
from unlatch.errors import HookRefusedError

HOOKS = Path(__file__).parents[2] / "bootstrap" / "hooks"
FACTS = {"version": 1, "workload": "pay", "host": "web1", "reason": "start"}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "hook"


def write(script: Path, body: str) -> list[str]:
    script.write_text(f"#!{sys.executable} -I\nimport json, os, sys, time\n{body}\n")
    script.chmod(0o755)
    return [str(script)]


def test_hook_that_exits_0_goes_on(script: Path) -> None:
    assert run_hook(write(script, "sys.stdin.read()"), FACTS, seconds=20) == HookAnswer()


def test_hook_hears_the_facts(script: Path, tmp_path: Path) -> None:
    heard = tmp_path / "heard"

    run_hook(write(script, f"open({str(heard)!r}, 'w').write(sys.stdin.read())"), FACTS, seconds=20)

    assert json.loads(heard.read_text()) == FACTS


def test_hook_may_add_reason_and_claims(script: Path) -> None:
    body = "print(json.dumps({'reason': 'ticket 7', 'claims': {'ticket': '7'}}))"

    assert run_hook(write(script, body), FACTS, seconds=20) == HookAnswer(
        reason="ticket 7", claims={"ticket": "7"}
    )


def test_environment_of_the_hook_is_clean(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    body = "print(json.dumps({'claims': {'names': ' '.join(sorted(os.environ))}}))"

    names = run_hook(write(script, body), FACTS, seconds=20).claims["names"].split()

    assert set(names) - {"LC_CTYPE"} == {"LANG", "PATH", "UNLATCH_HOOK"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.stderr.write('not today'); sys.exit(10)", "refused: not today"),
        ("sys.exit(3)", "failed with exit code 3"),
        ("os.kill(os.getpid(), 9)", "failed with signal 9"),
        ("sys.stdout.write('y' * 100000)", f"wrote more than {MAX_OUTPUT_BYTES} bytes"),
        ("sys.stderr.write('y' * 100000)", "wrote more than 16384 bytes"),
        ("print('yes')", "something else than JSON"),
        ("print('[]')", "something else than reason and claims"),
        ("print(json.dumps({'approved': True}))", "something else than reason and claims"),
        ("print(json.dumps({'reason': 7}))", "reason is not text"),
        ("print(json.dumps({'reason': 'y' * 201}))", "reason is not text of at most 200"),
        ("print(json.dumps({'claims': {'a': 1}}))", "claims are not a mapping of text"),
        ("print('[' * 3000)", "something else than JSON"),
    ],
)
def test_hook_that_refuses_or_misbehaves_refuses(script: Path, body: str, message: str) -> None:
    with pytest.raises(HookRefusedError, match=message):
        run_hook(write(script, body), FACTS, seconds=20)


def test_hook_that_hangs_is_ended_with_its_children(script: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    body = f"pid = os.fork()\nif pid: open({str(child)!r}, 'w').write(str(pid))\ntime.sleep(600)"

    with pytest.raises(HookRefusedError, match="did not answer in time"):
        run_hook(write(script, body), FACTS, seconds=1)

    pid = int(child.read_text())
    eventually("the end of the hook's child", lambda: True if not is_running(pid) else None)


def test_hook_that_closes_its_output_and_stays_is_ended(script: Path) -> None:
    body = "os.close(1); os.close(2); time.sleep(600)"

    with pytest.raises(HookRefusedError, match=r"went on running|did not answer in time"):
        run_hook(write(script, body), FACTS, seconds=1)


def test_missing_hook_is_named() -> None:
    with pytest.raises(HookRefusedError, match="cannot be started: No such file or directory, /nowhere/hook"):
        run_hook(["/nowhere/hook"], FACTS, seconds=5)


def test_change_window_that_is_always_open_goes_on() -> None:
    answer = run_hook([str(HOOKS / "change-window"), "Mon-Sun", "00:00-24:00", "UTC"], FACTS, seconds=20)

    assert answer.claims == {"change_window": "Mon-Sun 00:00-24:00 UTC"}


def test_change_window_that_never_opens_refuses() -> None:
    with pytest.raises(HookRefusedError, match="outside the change window"):
        run_hook([str(HOOKS / "change-window"), "Mon-Sun", "00:00-00:00", "UTC"], FACTS, seconds=20)


def test_chat_that_cannot_be_reached_refuses_without_naming_its_address(tmp_path: Path) -> None:
    address = tmp_path / "url"
    address.write_text("http://127.0.0.1:1/hook-secret")

    with pytest.raises(HookRefusedError) as caught:
        run_hook([str(HOOKS / "chat-webhook"), str(address)], FACTS, seconds=20)

    assert "the chat was not told" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_terminal_hook_refuses_where_there_is_no_terminal() -> None:
    with pytest.raises(HookRefusedError, match="no terminal to ask on"):
        run_hook([str(HOOKS / "ask-terminal")], FACTS, seconds=20)
