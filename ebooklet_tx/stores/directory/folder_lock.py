"""The lock under which a directory store renames and removes objects.

The system releases it when its holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import RemoteAccessError, TransientStoreError
from ebooklet_tx.stores.request import Request

_POLL_SECONDS = 0.005

_LOCKED = {errno.EAGAIN, errno.EACCES}
_NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@contextlib.contextmanager
def folder_lock(path: Path, timeout_seconds: float, request: Request) -> Iterator[None]:
    """Holds an exclusive lock on a lock file, which is made if missing and never removed.

    Args:
        path: The lock file.
        timeout_seconds: How long to wait for another holder.
        request: What the lock is for; messages name it.

    Raises:
        TransientStoreError: Another process held it all the time.
        RemoteAccessError: The file system has no locks.
    """
    file = Descriptor()
    # Twice, as an interrupt can come in the middle of the first release as well.
    try:
        try:
            _open(file, path, request)
            _take(file.number, timeout_seconds, request)
            yield
        finally:
            _release(file)
    finally:
        _release(file)


def _open(file: Descriptor, path: Path, request: Request) -> None:
    try:
        file.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)
        is_file = stat.S_ISREG(os.fstat(file.number).st_mode)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        is_file = False
    if not is_file:
        raise RemoteAccessError(
            f"{request.describe()}: {path} is a link or no file, so the folder can't be locked; remove it",
            path=path,
            **request.fields,
        )


def _take(descriptor: int, timeout_seconds: float, request: Request) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not _locks_now(descriptor, request):
        if time.monotonic() >= deadline:
            raise TransientStoreError(
                f"{request.describe()}: another process has held the folder's lock for {timeout_seconds:.0f} s; "
                "check whether it is suspended",
                may_have_applied=False,
                **request.fields,
            )
        time.sleep(_POLL_SECONDS)


def _locks_now(descriptor: int, request: Request) -> bool:
    """Tries to take the lock without waiting."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise RemoteAccessError(
                f"{request.describe()}: this file system has no file locks; put the remote on one that has",
                **request.fields,
            ) from None
        if error.errno not in _LOCKED:
            raise
        return False
    return True


def _release(file: Descriptor) -> None:
    if file.number >= 0:
        # Explicitly: a process forked meanwhile shares the descriptor and would keep the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(file.number, fcntl.LOCK_UN)
    file.close()
