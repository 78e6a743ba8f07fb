"""The card's page: escaped, quoted, marked, and without anything from elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pytest

from unlatch.bootstrap.approval import base64url
from unlatch.bootstrap.approval.claims import Claims
from unlatch.gate.page import HEADERS, STYLE, Card, render_card, render_unknown, said
from unlatch.gate.state import State

CLAIMS = Claims(
    workload="pay",
    host="web1",
    reason="kernel update",
    bundle_digest=base64url.digest(b"b"),
    extra={"ticket": "CHG-7"},
)
CARD = Card(
    request="7QK2ABCD", workload="pay", gate="G" * 43, people="https://people.example", client="native", source="10.4.2.17",
    asked="09:14:02 UTC", state=State.PENDING, approvals=("mara",), needed=2, seconds_left=125, askers=1, closed_by=None,
    claims=CLAIMS,
)  # fmt: skip


class Outline(HTMLParser):
    """Tags with their attributes, and the text in each section."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["aria-labelledby"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data + "\n"


def test_facts_stand_under_what_they_are() -> None:
    sections = Outline(render_card(CARD)).sections

    assert "10.4.2.17" in sections["verified"]
    assert "1 of 2 (mara)" in sections["derived"]
    assert "2 min 5 s" in sections["derived"]
    for claim in ("“web1”", "“kernel update”", "“CHG-7”"):
        assert claim in sections["claimed"]
        assert claim not in sections["verified"] + sections["derived"]


def test_commands_name_request_and_gate() -> None:
    sections = Outline(render_card(CARD)).sections

    assert "unlatch approve 7QK2ABCD --gate https://people.example" in sections["decide"]
    assert "unlatch deny 7QK2ABCD --gate https://people.example" in sections["decide"]
    assert "web1" not in sections["decide"]


def test_page_has_no_script_and_nothing_from_elsewhere() -> None:
    outline = Outline(render_card(CARD))
    tags = {tag for tag, _ in outline.tags}

    assert not tags & {
        "script",
        "img",
        "link",
        "iframe",
        "form",
        "object",
        "embed",
        "base",
        "svg",
        "input",
        "button",
    }
    assert [
        value
        for _, attributes in outline.tags
        for name, value in attributes.items()
        if name in ("href", "src")
    ] == ["/r/7QK2ABCD"]
    assert not [
        name
        for _, attributes in outline.tags
        for name in attributes
        if name.startswith("on") or name == "style"
    ]
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_policy_names_the_style_and_allows_nothing_else() -> None:
    policy = HEADERS["Content-Security-Policy"]
    (style,) = re.findall(r"<style>(.*?)</style>", render_card(CARD), re.DOTALL)

    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x>', "&lt;", "' onload='"])
def test_claims_are_escaped(text: str) -> None:
    claims = dataclasses.replace(CLAIMS, host=text, reason=text, extra={text: text})
    outline = Outline(render_card(dataclasses.replace(CARD, claims=claims)))

    assert {tag for tag, _ in outline.tags} == {tag for tag, _ in Outline(render_card(CARD)).tags}
    assert text in outline.sections["claimed"]


@pytest.mark.parametrize(("text", "shown"), [("a\u202eb", "a\\u202eb"), ("a\nb", "a\\u000ab"), ("\x1b[2J", "\\u001b[2J"), ("x" * 300, "x" * 200 + "…")])  # fmt: skip
def test_control_characters_of_claims_are_visible(text: str, shown: str) -> None:
    assert f"“{shown}”" in said(text)


def test_stock_request_claims_nothing_and_says_why() -> None:
    sections = Outline(render_card(dataclasses.replace(CARD, client="stock", claims=None))).sections

    assert "no code was possible" in sections["claimed"]
    assert "asks for the workload's name" in sections["decide"]


def test_several_askers_are_pointed_out() -> None:
    assert "3 at once" in render_card(dataclasses.replace(CARD, askers=3))
    assert "at once" not in render_card(CARD)


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_words_and_only_open_ones_commands(state: State) -> None:
    page = render_card(dataclasses.replace(CARD, state=state))

    assert ("unlatch approve" in page) == (state in (State.PENDING, State.APPROVED))


def test_denial_names_who_denied() -> None:
    assert "<h1>pay was denied by jo</h1>" in render_card(
        dataclasses.replace(CARD, state=State.DENIED, closed_by="jo")
    )


def test_unknown_request_says_nothing_about_any() -> None:
    assert "pay" not in render_unknown()
    assert "No such request" in render_unknown()


def test_page_has_one_head_a_language_and_a_viewport() -> None:
    outline = Outline(render_card(CARD))

    assert [attributes for tag, attributes in outline.tags if tag == "html"] == [{"lang": "en"}]
    assert [tag for tag, _ in outline.tags].count("h1") == 1
    assert any(attributes.get("name") == "viewport" for tag, attributes in outline.tags if tag == "meta")


HOST = base64url.digest(b"a host's key")


@pytest.mark.parametrize(
    ("identity", "place", "words"),
    [
        (f"tpm web1 {HOST}", "verified", "TPM key web1"),
        (f"file web1 {HOST}", "verified", "file key web1 (copyable)"),
        (f"new {HOST}", "derived", "new: nobody enrolled the key"),
        (None, "derived", "none: no key says which host this is"),
    ],
)
def test_identity_stands_under_what_it_is(identity: str | None, place: str, words: str) -> None:
    sections = Outline(render_card(dataclasses.replace(CARD, identity=identity))).sections

    assert [head for head, text in sections.items() if words in text] == [place]
