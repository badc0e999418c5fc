"""File descriptors with an owner.

Owns one descriptor at a time. The invariant: between the system's opening of it and its owner's knowing of it,
and between its closing and the owner's forgetting of it, no bytecode runs. So no interrupt leaks one, or closes
a number that is somebody else's by now.
"""

from __future__ import annotations

import contextlib
import os


class Descriptor:
    """Owns a file of the system's that it opens; make it first, and open it where its closing is provided for.

    It is closed at the latest when nobody refers to it any more.
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
        """Closes it, which also gives its locks back; twice is no error.

        A failure has nothing to say: what was written is durable by then, and Linux frees the number in any case.
        """
        with contextlib.suppress(OSError):
            # One call into C takes it from the list and closes it.
            list(map(os.close, map(self._numbers.pop, range(len(self._numbers)))))

    def __del__(self) -> None:
        if self._numbers:
            self.close()


__all__ = ["Descriptor"]
