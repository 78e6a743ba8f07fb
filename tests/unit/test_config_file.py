"""The configuration: what is read, what is refused, and how the refusal speaks."""

import sys
from pathlib import Path

import pytest

from unlatch.errors import ConfigError
from unlatch.proxy import config_file
from unlatch.proxy.config import Config

GOOD = """\
unlock:
  bundle: pay.jwe
  wait: 10m
listeners:
  - bind: ["127.0.0.1:8443"]
    certificates:
      - {chain: site.pem, key: "sealed:tls"}
routes:
  - match: {path: /psp/*}
    upstream: psp
    inject: {header: Authorization, secret: psp, callers: [anyone, 10.0.0.0/8, {ca: shop.pem, san: shop}]}
  - {upstream: app}
upstreams:
  app: {servers: ["127.0.0.1:8080"]}
  psp: {servers: ["api.example:443"], tls: {name: api.example}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "unlatch.yaml"


def test_durations_and_defaults_are_seconds(path: Path) -> None:
    path.write_text(GOOD)

    loaded = config_file.load(path)

    assert (loaded.config.unlock.wait, loaded.config.timeouts.connect) == (600.0, 5.0)


def test_digest_changes_with_one_byte(path: Path) -> None:
    path.write_text(GOOD)
    before = config_file.load(path).digest
    path.write_text(GOOD + "\n")

    assert config_file.load(path).digest != before


def test_digest_covers_files_of_conf_d(path: Path) -> None:
    path.write_text(GOOD)
    before = config_file.load(path).digest
    (path.parent / "conf.d").mkdir()
    (path.parent / "conf.d" / "more.yaml").write_text("workers: 2\n")

    loaded = config_file.load(path)

    assert loaded.digest != before
    assert loaded.config.workers == 2


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("wait: 10m", "wiat: 10m", "unknown key 'wiat'", 3),
        ("secret: psp", "secrte: psp", "unknown key 'secrte'", 11),
        ("san: shop", "sna: shop", "unknown key 'sna'", 11),
        ("wait: 10m", "wait: 10", "a duration is a number with", 3),
        ("upstream: psp", "upstream: pps", "no upstream is named 'pps'", 10),
        ("anyone", "anybody", "'anybody' is not a network", 11),
        ('"sealed:tls"', "tls.key", "'tls.key' is not sealed:NAME", 7),
        ("127.0.0.1:8443", "localhost:8443", "binds to an IP address, not to a name", 5),
        ("bundle: pay.jwe", "bundle: pay.jwe\n  bundle: other.jwe", "'bundle' is given twice", 3),
        (", tls: {name: api.example}", "", "a token goes over TLS only", 11),
        ("upstreams:", "upstreams: [", "not YAML", 15),
        ("upstreams:", "limits: {slow_signatures: 20}\nupstreams:", "less than or equal to 19", 13),
        ("upstreams:", "limits: {slow_signatures: 0}\nupstreams:", "greater than or equal to 1", 13),
    ],
)
def test_mistake_is_named_with_its_line(path: Path, old: str, new: str, message: str, line: int) -> None:
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))

    with pytest.raises(ConfigError, match=message) as caught:
        config_file.load(path)

    assert f"unlatch.yaml:{line}" in str(caught.value)


def test_misspelt_key_gets_a_hint(path: Path) -> None:
    path.write_text(GOOD.replace("wait", "wiat"))

    with pytest.raises(ConfigError) as caught:
        config_file.load(path)

    assert caught.value.hint == "did you mean 'wait'?"


def test_value_set_in_two_files_is_refused(path: Path) -> None:
    path.write_text(GOOD + "workers: 1\n")
    (path.parent / "conf.d").mkdir()
    (path.parent / "conf.d" / "more.yaml").write_text("workers: 2\n")

    with pytest.raises(ConfigError, match=r"'workers' is set in two files, the second is more\.yaml"):
        config_file.load(path)


def test_missing_file_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*unlatch\.yaml"):
        config_file.load(path)


def test_summary_fits_a_header_and_counts_what_it_leaves_out(path: Path) -> None:
    many = "".join(
        f'      - {{chain: site.pem, key: "sealed:key-number-{number:04}"}}\n' for number in range(300)
    )
    path.write_text(GOOD.replace('      - {chain: site.pem, key: "sealed:tls"}\n', many))

    text = config_file.summary(config_file.load(path).config)

    assert len(text) <= config_file.MAX_SUMMARY_BYTES
    assert "left_out" in text


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("[./ask, x]", ["{folder}/ask", "x"]),
        ("[/usr/bin/ask]", ["/usr/bin/ask"]),
        (
            '["python:tickets", OPS]',
            ["{python}", "-I", "-m", "unlatch.bootstrap.entry_hook", "tickets", "OPS"],
        ),
    ],
)
def test_hook_is_a_path_from_the_file_or_a_python_name(path: Path, hook: str, expected: list[str]) -> None:
    path.write_text(GOOD.replace("wait: 10m", f"hook: {hook}"))

    argv = config_file.load(path).hook

    assert argv == [one.format(folder=path.parent, python=sys.executable) for one in expected]


def test_schema_names_every_section_and_takes_durations_as_text() -> None:
    schema = Config.model_json_schema()
    unlock = schema["$defs"]["Unlock"]

    assert set(schema["properties"]) == set(Config.model_fields)
    assert unlock["additionalProperties"] is False
    assert unlock["properties"]["wait"]["type"] == ["string", "number"]
