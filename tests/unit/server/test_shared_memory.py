"""Regions of shared memory: what may be registered, by whom, and what is read and written."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from convscope_server.errors import (
    AlreadyRegistered,
    Forbidden,
    InvalidRequest,
    UnknownRegion,
    Unsupported,
)
from convscope_server.shared_memory import SharedMemory

OBJECTS = Path("/dev/shm")  # noqa: S108
DESCRIPTORS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not OBJECTS.is_dir(), reason="needs Linux")
HERE = "ipv4:127.0.0.1:5000"


@pytest.fixture
def key() -> Iterator[str]:
    """A shared memory object of 100 bytes, 0 to 99."""
    key = f"/convscope-test-{uuid4().hex}"
    path = OBJECTS / key[1:]
    path.write_bytes(bytes(range(100)))
    yield key
    path.unlink()


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory("local", max_read_bytes=80)


def test_places_lie_in_regions_and_regions_in_objects(memory: SharedMemory, key: str) -> None:
    memory.register("r", key, 10, 50)
    assert memory.read("r", 5, 3, peer=HERE) == bytes([15, 16, 17])
    memory.place("r", 48, 2, peer=HERE).write(memoryview(b"ab"))
    assert (OBJECTS / key[1:]).read_bytes()[57:61] == bytes([57]) + b"ab" + bytes([60])
    assert memory.region("r").size_bytes == 50


@pytest.mark.parametrize(
    ("offset", "size_bytes"), [(0, 51), (50, 1), (-1, 2), (2, -1), (1 << 63, 1), (0, 1 << 63)]
)
def test_nothing_outside_a_region_is_read(
    memory: SharedMemory, key: str, offset: int, size_bytes: int
) -> None:
    memory.register("r", key, 10, 50)
    with pytest.raises(InvalidRequest, match="of at most 50, got"):
        memory.place("r", offset, size_bytes, peer=HERE)


def test_a_tensor_is_no_larger_than_a_message(memory: SharedMemory, key: str) -> None:
    memory.register("r", key, 0, 100)
    with pytest.raises(InvalidRequest, match="of at most 80, got 81"):
        memory.read("r", 0, 81, peer=HERE)


@pytest.mark.parametrize(
    ("offset", "size_bytes", "message"),
    [
        (0, 101, "at most 100, the object's size, got 0 \\+ 101"),
        (100, 1, "got 100 \\+ 1"),
        ((1 << 64) - 1, 1, "at most 100"),
        (0, 0, "byte_size of at least 1"),
    ],
)
def test_a_region_must_lie_in_its_object(
    memory: SharedMemory, key: str, offset: int, size_bytes: int, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        memory.register("r", key, offset, size_bytes)


@pytest.mark.parametrize(
    "key",
    ["", "/", "..", "/..", "a/b", "/../etc/passwd", "//etc", "a\0b", "x" * 256, "/no-such-object"],
)
def test_keys_name_objects_and_no_other_files(memory: SharedMemory, key: str) -> None:
    with pytest.raises(InvalidRequest, match="expected"):
        memory.register("r", key, 0, 1)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_only_regular_files_are_objects(memory: SharedMemory, key: str, kind: str) -> None:
    path = OBJECTS / f"{key[1:]}-{kind}"
    if kind == "link":
        path.symlink_to(OBJECTS / key[1:])
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    try:
        with pytest.raises(InvalidRequest, match="expected key"):
            memory.register("r", path.name, 0, 1)
    finally:
        path.rmdir() if kind == "folder" else path.unlink()


def test_an_object_that_is_shortened_is_an_error_and_nothing_worse(
    memory: SharedMemory, key: str
) -> None:
    memory.register("r", key, 0, 100)
    os.truncate(OBJECTS / key[1:], 50)
    with pytest.raises(InvalidRequest, match="expected 60 bytes at 0, got 50"):
        memory.read("r", 0, 60, peer=HERE)


def test_a_place_outlives_its_region(memory: SharedMemory, key: str) -> None:
    memory.register("r", key, 0, 100)
    place = memory.place("r", 0, 2, peer=HERE)
    memory.unregister("")
    assert place.read() == bytes([0, 1])
    with pytest.raises(UnknownRegion, match="unable to find shared memory region 'r'"):
        memory.place("r", 0, 2, peer=HERE)


def test_descriptors_are_closed_with_their_regions(memory: SharedMemory, key: str) -> None:
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(100):
        memory.register("r", key, 0, 100)
        memory.unregister("r")
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_names_are_taken_once_and_there_are_not_too_many(memory: SharedMemory, key: str) -> None:
    memory.unregister("never there")
    for number in range(256):
        memory.register(str(number), key, 0, 1)
    with pytest.raises(AlreadyRegistered, match="'7' already in manager"):
        memory.register("7", key, 0, 1)
    with pytest.raises(InvalidRequest, match="at most 256"):
        memory.register("one more", key, 0, 1)
    with pytest.raises(InvalidRequest, match="1 to 255 characters, got 0"):
        memory.register("", key, 0, 1)


def test_what_is_larger_than_its_place_is_not_written(memory: SharedMemory, key: str) -> None:
    memory.register("r", key, 0, 100)
    with pytest.raises(InvalidRequest, match="at least 3, got 2"):
        memory.place("r", 0, 2, peer=HERE).write(memoryview(b"abc"))


@pytest.mark.parametrize(
    "peer",
    [
        *(HERE, "ipv4:127.1.2.3:1", "ipv6:[::1]:1", "ipv6:%5B::1%5D:1"),
        *("ipv6:[::ffff:127.0.0.1]:1", "unix:", "unix:/run/x"),
    ],
)
def test_callers_on_this_machine_may(memory: SharedMemory, peer: str) -> None:
    memory.check_allowed(peer)


@pytest.mark.parametrize(
    "peer", ["ipv4:10.0.0.1:1", "ipv6:[2001:db8::1]:1", "ipv6:[::ffff:10.0.0.1]:1", "", "unknown"]
)
def test_others_may_only_if_the_server_says_so(memory: SharedMemory, peer: str) -> None:
    with pytest.raises(Forbidden, match="expected a caller on the server's own machine"):
        memory.check_allowed(peer)
    SharedMemory("any", max_read_bytes=1).check_allowed(peer)


def test_nobody_may_where_it_is_off_or_there_are_several_workers() -> None:
    with pytest.raises(Unsupported, match="is switched off"):
        SharedMemory("off", max_read_bytes=1).check_allowed(HERE)
    with pytest.raises(Unsupported, match="expected --workers 1"):
        SharedMemory("any", max_read_bytes=1, workers=2).check_allowed(HERE)
