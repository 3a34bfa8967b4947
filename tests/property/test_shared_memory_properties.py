"""Whatever a caller says of offsets and sizes, nothing outside its region is read or written."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope_server.errors import InvalidRequest
from convscope_server.shared_memory import SharedMemory

OBJECTS = Path("/dev/shm")  # noqa: S108 - where shared memory is
pytestmark = pytest.mark.skipif(not OBJECTS.is_dir(), reason="needs Linux")
LOCAL = "ipv4:127.0.0.1:5000"
CONTENT = bytes(range(100))
SMALL = st.integers(0, 110)
UINT64 = st.one_of(SMALL, st.integers(0, (1 << 64) - 1))
INT64 = st.one_of(SMALL, st.integers(-(1 << 63), (1 << 63) - 1))


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    name = f"convscope-test-{uuid4().hex}"
    (OBJECTS / name).write_bytes(CONTENT)
    yield name
    (OBJECTS / name).unlink()


@given(UINT64, UINT64)
def test_regions_are_within_their_objects(key: str, offset: int, size_bytes: int) -> None:
    memory = SharedMemory("local", max_read_bytes=1000)
    if size_bytes > 0 and offset + size_bytes <= len(CONTENT):
        memory.register("r", key, offset, size_bytes)
        assert memory.read("r", 0, size_bytes, peer=LOCAL) == CONTENT[offset:][:size_bytes]
    else:
        with pytest.raises(InvalidRequest):
            memory.register("r", key, offset, size_bytes)
        assert not memory.regions


@given(INT64, INT64)
def test_places_are_within_their_regions(key: str, offset: int, size_bytes: int) -> None:
    memory = SharedMemory("local", max_read_bytes=1000)
    memory.register("r", key, 20, 60)
    if offset >= 0 and size_bytes >= 0 and offset + size_bytes <= 60:
        found = memory.read("r", offset, size_bytes, peer=LOCAL)
        assert found == CONTENT[20:80][offset:][:size_bytes]
    else:
        with pytest.raises(InvalidRequest):
            memory.place("r", offset, size_bytes, peer=LOCAL)
