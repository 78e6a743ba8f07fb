"""`unlatch check`: what can be known about a configuration while everything is locked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unlatch.bootstrap.sealed import SealedFile
from unlatch.errors import ConfigError
from unlatch.memguard.control import guard_program
from unlatch.proxy import config_file
from unlatch.proxy.child import EDGE_PROGRAM
from unlatch.proxy.self_test import self_test
from unlatch.proxy.wiring import RouteIds, read_wiring


def check(path: Path) -> Iterator[str]:
    """One line for each thing that holds; the first that does not is raised."""
    loaded = config_file.load(path)
    wiring = read_wiring(loaded, RouteIds())
    yield f"configuration {path}: valid, digest {loaded.digest}"
    bundle = loaded.config.unlock.bundle
    SealedFile.parse(loaded.read(bundle, place="unlock.bundle"))
    yield f"sealed file {bundle}: readable, its rules are checked after unlock"
    yield f"certificates: {len(wiring.chains)} chain(s) readable"
    hook = loaded.hook
    if hook is not None:
        if not os.access(hook[0], os.X_OK):
            raise ConfigError(
                f"the approval hook {hook[0]} cannot be executed ({loaded.where('unlock.hook')})"
            )
        yield f"approval hook {hook[0]}: executable"
    if loaded.host_key is not None:
        from unlatch.bootstrap.identity.keys import load

        signer = load(loaded.host_key)
        yield f"host key {loaded.config.unlock.host_key}: {signer.protection} {signer.public.thumbprint}"
    for program in (guard_program(), EDGE_PROGRAM):
        if not os.access(program, os.X_OK):
            raise ConfigError(
                f"{program} is missing", hint="install unlatch again: pip install --force-reinstall unlatch"
            )
    settings = loaded.config.guard
    yield from self_test(guard_program(), require=settings.require, accept=settings.accept)
