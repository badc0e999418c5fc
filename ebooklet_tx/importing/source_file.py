"""An object of a store as a file to read: in memory where it is short, otherwise by ranges as it is read.

The invariant: all that is read is of one version of the object.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, cast

from ebooklet_tx.errors import ContentionError, NotFoundInRangeError, ObjectMissingError, PreconditionFailedError
from ebooklet_tx.stores.object_store import ObjectStore, StoredObject

IN_MEMORY_BYTES = 16 * 2**20
"""An object up to this size is read once; a larger one again for each pass over it."""

RANGE_BYTES = 4 * 2**20
"""What one request reads."""


class SourceFile:
    """An object, to be read from any place on."""

    def __init__(self, store: ObjectStore, found: StoredObject) -> None:
        self.size_bytes = found.size_bytes
        self._store = store
        self._found = found
        self._held: bytes | None = None

    def part(self, start: int, end: int) -> BinaryIO:
        """Returns the bytes from one place to another as a file of their own.

        Raises:
            ContentionError: The object has changed since it was found; also while the file is read.
        """
        if self.size_bytes > IN_MEMORY_BYTES:
            return cast(BinaryIO, io.BufferedReader(_Ranges(self._read, start, end), RANGE_BYTES))
        if self._held is None:
            self._held = b"".join(
                self._read(at, min(RANGE_BYTES, self.size_bytes - at))
                for at in range(0, self.size_bytes, RANGE_BYTES)
            )
        return io.BytesIO(self._held[start:end])

    def is_current(self) -> bool:
        """Asks whether the object still is the one that is read here."""
        try:
            return self._store.head(self._found.key).etag == self._found.etag
        except ObjectMissingError:
            return False

    def _read(self, start: int, length: int) -> bytes:
        # A web server may send no ETag.
        etag = self._found.etag or None
        try:
            return self._store.get_range(self._found.key, start, length, if_match=etag)
        except (NotFoundInRangeError, ObjectMissingError, PreconditionFailedError) as error:
            raise changed(f"{self._found.key!r} at {self._store.location}") from error


def changed(name: str) -> ContentionError:
    """Returns the error that says that the source is being written to."""
    return ContentionError(
        f"{name} has changed while it was read: ebooklet pushed to it meanwhile. What was imported so far is "
        "in the target; run the import again, and it goes on from there with what is new"
    )


class _Ranges(io.RawIOBase):
    """A range of an object, read by a request each time that a buffer is filled."""

    def __init__(self, read: Callable[[int, int], bytes], start: int, end: int) -> None:
        self._fetch = read
        self._start = start
        self._end = max(start, end)
        self._at = start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        self._at = max(self._start, base + offset)
        return self._at - self._start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the buffers are memoryviews
        length = max(0, min(len(buffer), self._end - self._at))
        if length:
            buffer[:length] = self._fetch(self._at, length)
        self._at += length
        return length
