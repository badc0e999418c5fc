"""A file that the processes of one user on one machine share, and no other user reaches.

The invariant: a folder is used only if it is this user's and closed to all others, and what is opened in it is a
plain file of this user. Where there is no such folder, there is no file, and whoever asks does without.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- what is made there is checked
"""Memory of this machine, never a network drive; Linux has it everywhere."""


def open_shared(file: Descriptor, name: str) -> bool:
    """Opens a file, made empty if it is missing, for this user's processes on this machine.

    Args:
        file: Takes the descriptor.
        name: The file's name.

    Returns:
        Whether there is one. Nothing is said of why not.
    """
    for folder in _folders():
        with contextlib.suppress(OSError):
            if _is_private(os.lstat(folder)):
                file.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
                found = os.fstat(file.number)
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                    return True
        file.close()
    return False


def _folders() -> list[Path]:
    """Returns the folders to try, the best first; the one in shared memory is made."""
    own = SHARED_MEMORY / f"ebooklet_tx-{os.geteuid()}"
    with contextlib.suppress(OSError):
        own.mkdir(0o700)
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    return [Path(given), own] if given.startswith("/") else [own]


def _is_private(found: os.stat_result) -> bool:
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
    )


__all__ = ["open_shared"]
