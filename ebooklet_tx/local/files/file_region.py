"""A value that is too large to hold, as a part of a file that is read a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.local.files.file_calls import read_at, storage_errors

CHUNK_BYTES = 4 * 2**20
"""A region is read in pieces of this size."""


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
