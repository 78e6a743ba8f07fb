"""What the demo does with its token itself, in a process that ends: ``python -m … make|take``, facts on standard input.

python-pkcs11 is used directly: whoever knows the PIN is not bound to our programs.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import pkcs11


def main() -> int:
    """Do it and print what was seen."""
    facts: dict[str, str] = json.load(sys.stdin)
    library = pkcs11.lib(facts["module"])
    if sys.argv[1] == "make":
        (slot, *_) = library.get_slots()
        initialise(facts, slot.slot_id)
        library.reinitialize()
        with _token(library, facts).open(rw=True, so_pin=facts["so_pin"]) as session:
            session.init_pin(facts["pin"])
        return 0
    with _token(library, facts).open(user_pin=facts["pin"]) as session:
        sys.stdout.write(take_out(session, facts["key"]) + "\n")
    return 0


def initialise(facts: dict[str, str], slot: int) -> None:
    """Call C_InitToken, which python-pkcs11 lacks; its process has loaded and initialised the module before."""
    pin, label = facts["so_pin"].encode(), facts["label"].encode().ljust(32)
    initialise = ctypes.CDLL(facts["module"]).C_InitToken
    initialise.argtypes = (ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    initialise.restype = ctypes.c_ulong
    if code := initialise(slot, pin, len(pin), label):
        raise SystemExit(f"C_InitToken gave {code:#x}")


def take_out(session: Any, name: str) -> str:
    """Say what happens to who asks for the secret half."""
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=name)
    if key[pkcs11.Attribute.EXTRACTABLE] or not key[pkcs11.Attribute.NEVER_EXTRACTABLE]:
        return "extractable"
    try:
        taken = key[pkcs11.Attribute.VALUE]
    except pkcs11.exceptions.AttributeSensitive:
        return "refused: not extractable"
    return "taken" if taken else "refused: not extractable"


def _token(library: Any, facts: dict[str, str]) -> Any:
    return library.get_token(token_label=facts["label"])


if __name__ == "__main__":
    sys.exit(main())
