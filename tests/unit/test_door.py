"""The door: bound and refusing, open, shut, open again on the same port."""

import os
import socket

import pytest

from unlatch.errors import ConfigError
from unlatch.proxy.door import Door, format_address, memory_file


def connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def test_door_refuses_until_it_is_opened_and_after_it_is_shut() -> None:
    door = Door(["127.0.0.1:0"], workers=2)
    address = door.addresses[0]
    seen = [connects(address)]
    door.open()
    seen.append(connects(address))
    door.shut()
    seen.append(connects(address))
    door.open()
    seen.append(connects(address))
    door.close()

    assert seen == [False, True, False, True]


def test_what_the_door_accepts_after_it_was_shut_can_be_read() -> None:
    door = Door(["127.0.0.1:0"], workers=1)
    door.open()
    door.shut()
    door.open()
    (listener,) = door.sockets["127.0.0.1:0"]
    host, _, port = door.addresses[0].rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(5)
            client.sendall(b"one")
            seen = [accepted.recv(10)]
            client.sendall(b"two")
            seen.append(accepted.recv(10))
    door.close()

    assert seen == [b"one", b"two"]


def test_each_worker_has_a_socket_of_its_own_on_one_port() -> None:
    door = Door(["127.0.0.1:0"], workers=3)
    names = {one.getsockname() for one in door.sockets["127.0.0.1:0"]}
    count = len(door.sockets["127.0.0.1:0"])
    door.close()

    assert (count, len(names)) == (3, 1)


def test_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = format_address(other.getsockname())
        with pytest.raises(ConfigError, match=f"cannot bind {address}: Address already in use"):
            Door([address], workers=1)


def test_ipv6_address_is_written_in_brackets() -> None:
    assert format_address(("::1", 443, 0, 0)) == "[::1]:443"


def test_memory_file_cannot_be_changed() -> None:
    descriptor = memory_file("test", b"content")
    try:
        assert os.pread(descriptor, 100, 0) == b"content"
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
