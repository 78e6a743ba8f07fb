"""The HARD environment: freed memory is overwritten, nothing is preloaded, nothing is bound late.

Python frees a `str` or `bytes` without wiping it. With `PYTHONMALLOC=malloc` every object goes through glibc's malloc, and
with `glibc.malloc.perturb` that fills what is freed; the per-thread cache would keep it unfilled, so it is off. What is
still referenced, and what C libraries keep, stays: this narrows the window, it is no proof.

Such variables are read at a program's start only: a process without them starts itself again, once.
Sources: Python's manual (PYTHONMALLOC, -I), glibc's manual (memory allocation tunables), ld.so(8).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from unlatch.errors import ConfigError

TUNABLES = "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"
HARD: Mapping[str, str] = {
    "GLIBC_TUNABLES": TUNABLES,
    "LD_BIND_NOW": "1",
    "PYTHONMALLOC": "malloc",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
}
REFUSED_PREFIXES = ("LD_", "PYTHON", "GLIBC_", "MALLOC_")
REFUSED = (
    "SSLKEYLOGFILE",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "GCONV_PATH",
    "LOCPATH",
    "NLSPATH",
    "TSS2_LOG",
    "TSS2_LOGFILE",
)
MARK = "UNLATCH_HARD"
"""Set by `require`, so that a platform that ignores the variables is refused and not started for ever."""


def hard(environment: Mapping[str, str]) -> dict[str, str]:
    """Give an environment for a child that touches secrets."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(REFUSED_PREFIXES) and name not in REFUSED
    }
    return kept | dict(HARD)


HARDWARE_VARIABLES = (
    "CREDENTIALS_DIRECTORY", "UNLATCH_TCTI", "TPM2TOOLS_TCTI", "UNLATCH_PKCS11_MODULE", "UNLATCH_PKCS11_PIN_FILE",
    "SOFTHSM2_CONF", "P11_KIT_SERVER_ADDRESS", "NSS_LIB_PARAMS", "OPENSC_CONF", "YUBIHSM_PKCS11_CONF", "CS_PKCS11_R2_CFG",
    "CS_PKCS11_R3_CFG", "CKNFAST_LOADSHARING", "CKNFAST_OVERRIDE_SECURITY_ASSURANCES", "NFAST_HOME",
    "ChrystokiConfigurationPath", "ET_PTKC_GENERAL_LIBRARY_MODE",
)  # fmt: skip
"""What PKCS#11 modules and the TPM's library read, for parents that pass on no more than they must."""


def hardware_variables() -> dict[str, str]:
    """Give those of this process's variables that hardware needs."""
    return {name: os.environ[name] for name in HARDWARE_VARIABLES if name in os.environ}


def is_hard() -> bool:
    """Answer whether this process was started with the HARD environment, and Python looked at it."""
    return (
        sys.platform == "linux"
        and not sys.flags.ignore_environment
        and all(os.environ.get(name) == value for name, value in HARD.items())
        and not any(
            name in REFUSED or (name.startswith(REFUSED_PREFIXES) and name not in HARD) for name in os.environ
        )
    )


def command(module: str, *arguments: str) -> list[str]:
    """Give the command line of a Python child for the HARD environment, which does what `-I` would."""
    return [sys.executable, "-m", module, *arguments]


def require() -> None:
    """Start this process again with the HARD environment where it lacks it; open descriptors stay open.

    Elsewhere than on Linux nothing happens: glibc is not there.

    Raises:
        ConfigError: it was started again and still lacks it.
    """
    if sys.platform != "linux" or is_hard():
        os.environ.pop(MARK, None)
        return
    if os.environ.get(MARK):
        raise ConfigError(
            "the HARD environment does not hold",
            hint="is Python started through a wrapper that changes variables?",
        )
    os.execve(sys.executable, _arguments(sys.orig_argv), hard(os.environ) | {MARK: "1"})  # noqa: S606 # itself


def _arguments(given: list[str]) -> list[str]:
    """The command line without `-I` and `-E`, which make Python ignore PYTHONMALLOC; what else `-I` does is in HARD."""
    return [given[0], *(argument for argument in given[1:3] if argument not in ("-I", "-E")), *given[3:]]
