"""File descriptors with an owner.

Owns one descriptor at a time. The invariant: no bytecode runs between the system call that opens one and the note
of its number, nor between the call that closes it and the removal of that note. So no interrupt leaks a
descriptor, or closes a number that the system has since given to another file.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable


class Descriptor:
    """Owns a descriptor that it opens; make the object first, and open it where its closing is provided for.

    It is closed at the latest when the object is collected.
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def open(self, path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> None:
        """Opens a path as `os.open` does; it is never inherited by another program.

        Raises:
            OSError: The system refuses.
        """
        # One call into C opens it and notes it.
        self._numbers.extend(map(os.open, (path,), (flags | os.O_CLOEXEC,), (mode,)))

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


__all__ = ["Descriptor"]
