"""The values that a worker has set: in memory, and past a bound in a temporary file.

The invariant: a value is read back as it was put. The file has no name in any folder where the system allows
that, and goes with the process that made it.
"""

from __future__ import annotations

import os
import tempfile
from typing import IO, NamedTuple

from ebooklet_tx.local.files.file_calls import read_at, write_all

SPILL_BYTES = 64 * 2**20
"""Values that are held in memory."""


class Held(NamedTuple):
    """Where a value is: here, or in the temporary file."""

    value: bytes | None
    offset_bytes: int
    length_bytes: int


class Spill:
    """Keeps values until they are sent; one thread at a time uses it."""

    def __init__(self, most_bytes: int = SPILL_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._file: IO[bytes] | None = None
        self._end_bytes = 0

    def put(self, value: bytes) -> Held:
        """Takes a value."""
        if self._held_bytes + len(value) <= self._most_bytes:
            self._held_bytes += len(value)
            return Held(value, 0, len(value))
        if self._file is None:
            # Nothing waits in a buffer: a full disk is told here, and neither at a read nor when it is closed.
            self._file = tempfile.TemporaryFile(buffering=0, prefix="ebooklet_tx-")  # noqa: SIM115
        start = self._end_bytes
        write_all(self._file.fileno(), value, start)
        self._end_bytes = start + len(value)
        return Held(None, start, len(value))

    def forget(self, held: Held) -> None:
        """Lets a value go that was replaced; what it took of the file stays taken."""
        if held.value is not None:
            self._held_bytes -= held.length_bytes

    def read(self, held: Held) -> bytes:
        """Returns a value."""
        if held.value is not None:
            return held.value
        if self._file is None:
            raise ValueError("the temporary file is closed")
        return read_at(self._file.fileno(), held.length_bytes, held.offset_bytes)

    @property
    def file_bytes(self) -> int:
        """How long the temporary file is."""
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


__all__ = ["SPILL_BYTES", "Held", "Spill"]
