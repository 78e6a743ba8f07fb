"""The little ASN.1 that key files need: definite lengths, one byte of tag.

Read as BER where other programs write so: lengths longer than needed (nixpkgs' makePkcs11Pem), TRUE as 1 (tpm2-openssl).
Source: X.690.
"""

from __future__ import annotations

INTEGER, OCTET_STRING, OBJECT_IDENTIFIER, UTF8_STRING, SEQUENCE, VISIBLE_STRING = (
    0x02,
    0x04,
    0x06,
    0x0C,
    0x30,
    0x1A,
)
BOOLEAN, BIT_STRING, SET = 0x01, 0x03, 0x31


def context(number: int) -> int:
    """Give the tag of an explicit context field."""
    return 0xA0 | number


class Reader:
    """Takes elements from the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything was taken."""
        return self._at == len(self._data)

    def take(self, tag: int) -> bytes:
        """Give the content of the next element.

        Raises:
            ValueError: it has another tag, or is cut short.
        """
        if self.next_tag() != tag:
            raise ValueError(f"expected ASN.1 tag {tag:#04x}")
        start, size = self._length(self._at + 1)
        if start + size > len(self._data):
            raise ValueError("ASN.1 element is cut short")
        self._at = start + size
        return self._data[start : start + size]

    def maybe(self, tag: int) -> bytes | None:
        """Give the content of the next element if it has this tag."""
        return self.take(tag) if self.next_tag() == tag else None

    def next_tag(self) -> int | None:
        """Give the next element's tag; None at the end."""
        return None if self.is_empty else self._data[self._at]

    def _length(self, at: int) -> tuple[int, int]:
        """Where the content starts, and its size."""
        if at >= len(self._data):
            raise ValueError("ASN.1 element is cut short")
        first = self._data[at]
        if first < 0x80:
            return at + 1, first
        count = first & 0x7F
        if not 1 <= count <= 4 or at + 1 + count > len(self._data):
            raise ValueError("ASN.1 length is indefinite or too long")
        return at + 1 + count, int.from_bytes(self._data[at + 1 : at + 1 + count], "big")


def element(tag: int, *contents: bytes) -> bytes:
    """Write one element."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def unsigned(number: int) -> bytes:
    """Write an INTEGER that is not negative."""
    return element(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def as_unsigned(content: bytes) -> int:
    """Read an INTEGER's content.

    Raises:
        ValueError: it is empty or negative.
    """
    if not content or content[0] >= 0x80:
        raise ValueError("ASN.1 number is empty or negative")
    return int.from_bytes(content, "big")
