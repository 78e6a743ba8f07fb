"""Thumbprints, advertisements and recoveries as Debian's tangd and jose give them."""

import json
from typing import Any

import pytest
from support.secrets import secret
from support.vectors import load, named

from unlatch.bootstrap import jose
from unlatch.bootstrap.advertisement import Advertisement
from unlatch.memguard._native import exchange_answer

HASHES = {"S1": "sha1", "S224": "sha224", "S256": "sha256", "S384": "sha384", "S512": "sha512"}
SERVERS = {server["name"]: server for server in load("tang_servers")["servers"]}


@pytest.mark.parametrize("vector", load("jwk_thumbprints")["vectors"])
def test_thumbprint_is_that_of_jose(vector: dict[str, Any]) -> None:
    found = {name: jose.thumbprint(vector["jwk"], algorithm=HASHES[name]) for name in vector["thumbprints"]}

    assert found == vector["thumbprints"]


@pytest.mark.parametrize("vector", named(load("tang_advertisements")["advertisements"], "desc"))
def test_advertisement_of_tangd_is_verified(vector: dict[str, Any]) -> None:
    advertisement = Advertisement.parse(vector["body"].encode())

    assert list(advertisement.keys) == vector["payload_decoded"]["keys"]


@pytest.mark.parametrize("vector", named(load("tang_recovery")["recoveries"], "desc", "path"))
def test_answer_is_that_of_tangd_byte_for_byte(vector: dict[str, Any]) -> None:
    keys = {key["file"]: key["jwk"] for key in SERVERS[vector["server"]]["keys"]}
    key = secret(jose.write_json(keys[vector["key_file"]]))

    assert exchange_answer(key, vector["request_body"].encode()) == vector["response_body"].encode()


def test_every_vector_file_names_source_section_and_licence() -> None:
    from support.vectors import FOLDER

    files = sorted(FOLDER.glob("*.json"))
    incomplete = [
        file.name
        for file in files
        if not {"source", "section", "license"} <= json.loads(file.read_text(encoding="utf-8")).keys()
    ]

    assert (len(files), incomplete) == (16, [])
