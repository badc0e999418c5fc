"""An open file with its lock, and whether a path still names it.

Owns the descriptor. The invariant: the lock lasts until `unlock` or `close` in this process alone; a forked child
that closes its copy of the descriptor does not end it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.local.files.file_calls import storage_errors


class LockableFile:
    """A descriptor that can be locked."""

    def __init__(self, path: Path, opened: Descriptor) -> None:
        self.path = path
        self._opened = opened
        self._locked = False

    def try_lock(self) -> bool:
        """Takes the exclusive lock if it is free; False when another session has it."""
        with storage_errors(self.path, "lock"):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        self._locked = True
        return True

    def try_share(self) -> bool:
        """Keeps writers out until the file is closed; False when there is one."""
        with storage_errors(self.path, "lock"):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def unlock(self) -> None:
        """Gives the lock back."""
        if self._locked and self._fd >= 0:
            with storage_errors(self.path, "unlock"):
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._locked = False

    def is_current(self) -> bool:
        """True while the path still names the file that is open here."""
        return self.is_named(self.path)

    def is_named(self, path: Path) -> bool:
        """True when a path names the file that is open here."""
        with storage_errors(path, "look at"):
            try:
                named = path.stat()
            except FileNotFoundError:
                return False
            return os.path.samestat(named, os.fstat(self._fd))

    def has_second_name(self) -> bool:
        """True of a file that another name stands for as well, as between making and naming it."""
        with storage_errors(self.path, "look at"):
            return os.fstat(self._fd).st_nlink > 1

    @property
    def locked(self) -> bool:
        return self._locked

    @property
    def fd(self) -> int:
        return self._opened.number

    @property
    def _fd(self) -> int:
        return self._opened.number

    def note_locked(self) -> None:
        """Notes that the descriptor was locked before it came here."""
        self._locked = True

    def close(self) -> None:
        """Unlocks and closes; twice is no error."""
        try:
            # Closing unlocks as well, unless a forked child still has the descriptor.
            with contextlib.suppress(LocalStorageError):
                self.unlock()
        finally:
            self._opened.close()

    def forget_in_child(self) -> None:
        """In a forked child: closes the copied descriptor, so that only the parent holds the lock."""
        self._opened.close()


def lock_new(fd: int, path: Path) -> None:
    """Locks a file that was made just now."""
    with storage_errors(path, "lock"):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
