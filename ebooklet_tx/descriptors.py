"""File descriptors with an owner, and files over them.

Owns one descriptor at a time. The invariant: no bytecode runs between the system call that opens one and the note
of its number, nor between the call that closes it and the removal of that note. So no interrupt leaks a
descriptor, or closes a number that the system has since given to another file.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable
from typing import BinaryIO


class Descriptor:
    """Owns a descriptor that it opens; make the object first, and open it where its closing is provided for.

    It is closed at the latest when the object is collected.
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def open(
        self, path: str | os.PathLike[str], flags: int, mode: int = 0o666, *, dir_fd: int | None = None
    ) -> None:
        """Opens a path as `os.open` does; it is never inherited by another program.

        Raises:
            OSError: The system refuses.
        """
        opening = functools.partial(os.open, dir_fd=dir_fd)
        # One call into C opens it and notes it.
        self._numbers.extend(map(opening, (path,), (flags | os.O_CLOEXEC,), (mode,)))

    @property
    def number(self) -> int:
        """What system calls take; -1 once it is closed."""
        return self._numbers[0] if self._numbers else -1

    def close(self) -> None:
        """Closes it and releases its locks; twice is no error.

        A failure is ignored: what was written is durable by then, and Linux frees the number in any case.
        """
        with contextlib.suppress(OSError):
            # One call into C takes it from the list and closes it.
            list(map(os.close, map(self._numbers.pop, range(len(self._numbers)))))

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # An interpreter that ends has cleared this module's names; the system closes the file.
        if self._numbers and not is_ending():
            self.close()


class _OwnedFile(io.FileIO):
    """A file that closes its descriptor through the descriptor's owner."""

    def __init__(self, owner: Descriptor, mode: str) -> None:
        self._owner = owner
        super().__init__(owner.number, mode, closefd=False)

    def close(self) -> None:
        super().close()
        self._owner.close()


def reading_file(owner: Descriptor) -> BinaryIO:
    """Returns a buffered file for reading over an open descriptor, which the file closes."""
    return io.BufferedReader(_OwnedFile(owner, "rb"))


def writing_file(owner: Descriptor) -> BinaryIO:
    """Returns a buffered file for reading and writing over an open descriptor, which the file closes."""
    return io.BufferedRandom(_OwnedFile(owner, "r+b"))


__all__ = ["Descriptor", "reading_file", "writing_file"]
