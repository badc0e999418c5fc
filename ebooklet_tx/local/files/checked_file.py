"""The file that Booklet is given to write to: ours, unbuffered, and checked.

Booklet takes a path or an `io.BytesIO`. Given a path it locks and opens the file itself, writes
without looking at how much was taken (so a full disk passes unseen), and marks and unlocks the
file when a forked child ends. Given this class, which is the BytesIO that it accepts, every byte
goes through `os.pwrite` in full or raises. Booklet follows the pointers in the file without a look at
where they lead, so what it writes into the part that was there before is checked first, and what it reads
without an end is cut off.

Values too large to hold come from another file a piece at a time (`FileRegion`).

Owns the position of one Booklet instance in one descriptor. The invariant: once `sink()` was
called, or in any process but the one that made it, nothing is written any more.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.local.files.file_calls import read_at, storage_errors

CHUNK_BYTES = 4 * 2**20
"""A region is read in pieces of this size."""


class EndlessChainError(Exception):
    """Booklet follows a chain that has no end."""


class CheckedFile(io.BytesIO):
    """A seat for Booklet on a descriptor that somebody else owns, locks and closes."""

    def __init__(
        self, fd: int, *, check_write: Callable[[int, int], None] | None = None, max_reads: int | None = None
    ) -> None:
        """Takes a seat.

        Args:
            fd: The descriptor.
            check_write: Called with offset and length before each write; raises to refuse it.
            max_reads: How many reads one operation of Booklet may take that writes nothing.
        """
        super().__init__()
        self._check_write = check_write
        self._max_reads = max_reads
        self._reads = 0
        self._fd = fd
        self._position = 0
        self._pid = os.getpid()
        self._sunk = False

    def sink(self) -> None:
        """From here on reads are empty and writes go nowhere, so that Booklet can be let go of."""
        self._sunk = True

    def next_operation(self) -> None:
        """Begins to count reads anew."""
        self._reads = 0

    def fileno(self) -> int:
        """Refuses: with the descriptor Booklet would unlock the file behind its owner's back."""
        raise io.UnsupportedOperation("the descriptor belongs to the session that opened the file")

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END:
            position += 0 if self._sunk else os.fstat(self._fd).st_size
        elif whence == os.SEEK_CUR:
            position += self._position
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        if self._sunk:
            return b""
        self._reads += 1
        if self._max_reads is not None and self._reads > self._max_reads:
            raise EndlessChainError("a chain of the hash index runs in a circle")
        if size is None or size < 0:
            size = max(0, os.fstat(self._fd).st_size - self._position)
        data = read_at(self._fd, size, self._position)
        self._position += len(data)
        return data

    def write(self, data: object, /) -> int:
        # Released before returning or raising: Booklet clears the bytearray that it gave.
        with memoryview(data) as view:  # type: ignore[arg-type]
            if not self._sunk and os.getpid() == self._pid:
                if self._check_write is not None:
                    self._check_write(self._position, len(view))
                self._reads = 0
                write_all(self._fd, view, self._position)
                self._position += len(view)
            return len(view)

    def flush(self) -> None:
        """Does nothing: there is no buffer, and durability is the owner's fsync."""

    def close(self) -> None:
        """Lets go of the seat only; the descriptor stays its owner's."""
        self._sunk = True


class FileRegion:
    """Bytes that lie in a file, as a value that is too large to hold; the descriptor stays its owner's."""

    def __init__(self, fd: int, offset_bytes: int, length_bytes: int, path: Path) -> None:
        self.fd = fd
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self._path = path

    def __len__(self) -> int:
        return self.length_bytes

    def chunks(self) -> Iterator[bytes]:
        """Yields the bytes in pieces; fewer than the length when the file ends before."""
        position, end = self.offset_bytes, self.offset_bytes + self.length_bytes
        while position < end:
            with storage_errors(self._path, "read"):
                data = read_at(self.fd, min(CHUNK_BYTES, end - position), position)
            if not data:
                return
            position += len(data)
            yield data


def write_all(fd: int, data: memoryview | bytes | bytearray, offset_bytes: int) -> None:
    """Writes every byte at an offset, however many calls that takes.

    Raises:
        OSError: The file system took no more; what was written before stays written.
    """
    done = 0
    with memoryview(data) as view:
        while done < len(view):
            with view[done:] as rest:
                done += os.pwrite(fd, rest, offset_bytes + done)


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Makes the names in a folder durable."""
    folder = Descriptor()
    try:
        folder.open(path, os.O_RDONLY)
        os.fsync(folder.number)
    finally:
        folder.close()
