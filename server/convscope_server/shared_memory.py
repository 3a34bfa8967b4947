"""POSIX shared memory of callers on this machine, where inputs lie and outputs go.

Read and written as files, never mapped: a caller that shortens its object while it is
mapped would end the server with SIGBUS. The copy that this costs is of a request's size.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from convscope_server.call import is_local
from convscope_server.errors import (
    AlreadyRegistered,
    Forbidden,
    InvalidRequest,
    UnknownRegion,
    Unsupported,
)

# Where shm_open(3) of Linux has its objects.
_FOLDER = Path("/dev/shm")  # noqa: S108
# Each holds a file descriptor, of which a process has 1024 by default.
_MAX_REGIONS = 256
_MAX_NAME_LENGTH = 255


class _Object:
    """A shared memory object that is open for as long as anybody refers to it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a shared memory object, registered under a name.

    Attributes:
        key: The object's name, as in shm_open.
        offset: Of its first byte in the object.
        size_bytes: Its length.
    """

    key: str
    offset: int
    size_bytes: int
    object: _Object


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a region, for one tensor; stays if the region is unregistered meanwhile."""

    region: str
    offset: int
    size_bytes: int
    object: _Object
    start: int

    def read(self) -> bytes:
        """All of its bytes.

        Raises:
            InvalidRequest: The object has been shortened.
        """
        data = os.pread(self.object.descriptor, self.size_bytes, self.start)
        if len(data) != self.size_bytes:
            raise InvalidRequest(
                f"shared memory region {self.region!r}: expected {self.size_bytes} bytes at "
                f"{self.offset}, got {len(data)}: it is shorter than when it was registered"
            )
        return data

    def write(self, data: memoryview) -> None:
        """Write at its beginning.

        Raises:
            InvalidRequest: There are more bytes than it has room for, or than memory.
        """
        if data.nbytes > self.size_bytes:
            raise InvalidRequest(
                f"shared memory region {self.region!r}: expected a shared_memory_byte_size of at "
                f"least {data.nbytes}, got {self.size_bytes}"
            )
        try:
            written = os.pwrite(self.object.descriptor, data, self.start)
        except OSError as error:
            raise InvalidRequest(
                f"shared memory region {self.region!r} cannot be written: {error.strerror}"
            ) from error
        if written != data.nbytes:
            raise InvalidRequest(f"shared memory region {self.region!r}: no memory left for it")


class SharedMemory:
    """The regions that callers have registered; belongs to one event loop."""

    def __init__(self, access: str, *, max_read_bytes: int, workers: int = 1) -> None:
        """Begin with none.

        Args:
            access: "local": for callers on this machine; "any": for all; "off".
            max_read_bytes: Most that one tensor may hold.
            workers: Processes that share the port.
        """
        self._access = access
        self._max_read_bytes = max_read_bytes
        self._workers = workers
        self._regions: dict[str, Region] = {}

    @property
    def regions(self) -> Mapping[str, Region]:
        """What is registered, by name."""
        return MappingProxyType(self._regions)

    def check_allowed(self, peer: str) -> None:
        """Whether a caller may use shared memory.

        Args:
            peer: As in call.Call.

        Raises:
            Unsupported: Nobody may.
            Forbidden: It is on another machine.
        """
        if self._access == "off":
            raise Unsupported(
                "shared memory is switched off: expected --shared-memory local or any"
            )
        if self._workers > 1:
            raise Unsupported(
                f"expected --workers 1 for shared memory, got {self._workers}: "
                "it would be registered with one of them only"
            )
        if self._access == "local" and not is_local(peer):
            raise Forbidden(
                "expected a caller on the server's own machine for shared memory: send the "
                "tensors in messages, or start the server with --shared-memory any"
            )

    def register(self, name: str, key: str, offset: int, size_bytes: int) -> None:
        """Let requests refer to part of a shared memory object by a name.

        Raises:
            AlreadyRegistered: The name is taken.
            InvalidRequest: There is no such object, or it is too short.
        """
        if not 0 < len(name) <= _MAX_NAME_LENGTH:
            raise InvalidRequest(
                f"expected a name of 1 to {_MAX_NAME_LENGTH} characters, got {len(name)}"
            )
        if name in self._regions:
            raise AlreadyRegistered(f"shared memory region {name!r} already in manager")
        if len(self._regions) >= _MAX_REGIONS:
            raise InvalidRequest(
                f"expected at most {_MAX_REGIONS} shared memory regions: unregister some"
            )
        if size_bytes < 1:
            raise InvalidRequest(f"expected a byte_size of at least 1, got {size_bytes}")
        opened = _open(key)
        length = os.fstat(opened.descriptor).st_size
        if offset + size_bytes > length:
            raise InvalidRequest(
                f"expected offset + byte_size of at most {length}, the object's size, got "
                f"{offset} + {size_bytes}"
            )
        self._regions[name] = Region(key, offset, size_bytes, opened)

    def unregister(self, name: str) -> None:
        """Forget a region; all, if the name is empty. One that is not there is no error."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def region(self, name: str) -> Region:
        """The region of a name.

        Raises:
            UnknownRegion: There is none.
        """
        if name not in self._regions:
            raise UnknownRegion(f"unable to find shared memory region {name[:100]!r}: register it")
        return self._regions[name]

    def place(self, name: str, offset: int, size_bytes: int, *, peer: str) -> Place:
        """A stretch of a region, checked.

        Raises:
            UnknownRegion: There is no such region.
            InvalidRequest: It is not within the region.
            ServerError: As in check_allowed.
        """
        self.check_allowed(peer)
        region = self.region(name)
        if offset < 0 or size_bytes < 0 or offset + size_bytes > region.size_bytes:
            raise InvalidRequest(
                f"shared memory region {name!r}: expected shared_memory_offset + "
                f"shared_memory_byte_size of at most {region.size_bytes}, got {offset} + "
                f"{size_bytes}"
            )
        return Place(name, offset, size_bytes, region.object, region.offset + offset)

    def read(self, name: str, offset: int, size_bytes: int, *, peer: str) -> bytes:
        """The bytes of a stretch of a region.

        Raises:
            InvalidRequest: There are more than a tensor may have, or the object is shorter.
            ServerError: As in place.
        """
        place = self.place(name, offset, size_bytes, peer=peer)
        if size_bytes > self._max_read_bytes:
            raise InvalidRequest(
                f"shared memory region {name!r}: expected a shared_memory_byte_size of at most "
                f"{self._max_read_bytes}, got {size_bytes}"
            )
        return place.read()


def _open(key: str) -> _Object:
    name = key.removeprefix("/")
    if not 0 < len(name) <= _MAX_NAME_LENGTH or name in (".", "..") or {"/", "\0"} & set(name):
        raise InvalidRequest(
            f"expected the key of a shared memory object, one name such as /images, "
            f"got {key[:100]!r}"
        )
    if not _FOLDER.is_dir():
        raise Unsupported("shared memory needs Linux: the server's system has it elsewhere")
    try:
        # Not blocking: whoever put a FIFO there must not hold the server up.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        opened = _Object(os.open(_FOLDER / name, flags))
    except (OSError, ValueError):
        raise InvalidRequest(
            f"unable to open shared memory region: expected key {key[:100]!r} to be a shared "
            "memory object that the server may read and write"
        ) from None
    if not stat.S_ISREG(os.fstat(opened.descriptor).st_mode):
        raise InvalidRequest(f"expected key {key[:100]!r} to be a shared memory object")
    return opened
