"""Files of a directory store: their ETag, their durability, uploads in parts, and the folder's lock.

Owns no state. The invariants: what `sync_file` and `sync_folder` have returned for survives power
loss; an upload is gone on with only from parts that are found intact; the lock is let go of by
whoever dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import RemoteAccessError, TransientStoreError
from ebooklet_tx.stores.object_store import UploadState
from ebooklet_tx.stores.temporary_files import TemporaryFile

_EDGE_BYTES = 64 * 1024
_LOCK_POLL_SECONDS = 0.005
_PART_TAG = re.compile(r"([0-9]{1,19})-([0-9]{1,19})-([0-9a-f]{32})")

_LOCKED = {errno.EAGAIN, errno.EACCES}
_NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def folder_lock(path: Path, timeout_seconds: float, shown: str) -> Iterator[None]:
    """Holds an exclusive lock on a lock file, which is made if missing and never removed.

    Raises:
        TransientStoreError: Somebody else held it all the time.
        RemoteAccessError: The file system has no locks.
    """
    file = Descriptor()
    # Twice, as an interrupt can come in the middle of the first end as well.
    try:
        try:
            _open_lock_file(file, path, shown)
            _take_lock(file.number, timeout_seconds, shown)
            yield
        finally:
            _give_lock_back(file)
    finally:
        _give_lock_back(file)


def _open_lock_file(file: Descriptor, path: Path, shown: str) -> None:
    strange = f"{shown}: {path} is a link or no file, so the folder can't be locked; remove it"
    try:
        file.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise RemoteAccessError(strange) from error
    if not stat.S_ISREG(os.fstat(file.number).st_mode):
        raise RemoteAccessError(strange)


def open_object(path: Path) -> BinaryIO:
    """Opens an object for reading; it never waits, as opening a pipe does.

    Raises:
        FileNotFoundError: There is no file; what is none is no object.
        OSError: The system refuses.
    """

    def opener(name: str, flags: int) -> int:
        fd = os.open(name, flags | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileNotFoundError(errno.ENOENT, "there is no file", name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    return open(path, "rb", opener=opener)


def _give_lock_back(file: Descriptor) -> None:
    if file.number >= 0:
        # Explicitly: a process forked meanwhile shares the descriptor and would keep the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(file.number, fcntl.LOCK_UN)
    file.close()


def _take_lock(descriptor: int, timeout_seconds: float, shown: str) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise RemoteAccessError(
                    f"{shown}: this file system has no file locks; put the remote on one that has"
                ) from error
            if error.errno not in _LOCKED:
                raise
        else:
            return
        if time.monotonic() >= deadline:
            raise TransientStoreError(
                f"{shown}: another process has held the folder's lock for {timeout_seconds:.0f} s; "
                "is it stopped?",
                may_have_applied=False,
            )
        time.sleep(_LOCK_POLL_SECONDS)


def etag_of(file: BinaryIO) -> str:
    """Returns the digest over size, first and last 64 KiB that serves as an ETag."""
    size_bytes = os.fstat(file.fileno()).st_size
    digest = hashlib.blake2b(size_bytes.to_bytes(8, "big"), digest_size=16)
    file.seek(0)
    digest.update(file.read(_EDGE_BYTES))
    file.seek(max(0, size_bytes - _EDGE_BYTES))
    digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


def sync_file(file: BinaryIO) -> None:
    """Makes what was written to an open file durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a folder's entries durable."""
    opened = Descriptor()
    try:
        opened.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(opened.number)
    except OSError as error:
        # Some shared drives write folder entries through and refuse the call.
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        opened.close()


def write_part(temporary: TemporaryFile, offset_bytes: int, part: bytes) -> None:
    """Writes one part of an upload, durably, cutting off whatever lay behind it."""
    with temporary.open("r+b") as file:
        file.truncate(offset_bytes)
        file.seek(offset_bytes)
        file.write(part)
        sync_file(file)


def with_part(state: UploadState, offset_bytes: int, part: bytes) -> UploadState:
    """Returns the upload's state after one more part."""
    tag = f"{offset_bytes}-{len(part)}-{hashlib.blake2b(part, digest_size=16).hexdigest()}"
    return UploadState(state.upload_id, (*state.parts, (len(state.parts) + 1, tag)))


def intact_bytes(temporary: TemporaryFile, state: UploadState, size_bytes: int) -> int | None:
    """Returns how many bytes of the upload's parts lie in the file, or None if any is not as recorded."""
    offset_bytes = 0
    with temporary.open("r+b") as file:
        for number, (part_number, tag) in enumerate(state.parts, start=1):
            match = _PART_TAG.fullmatch(tag)
            if match is None or part_number != number or int(match[1]) != offset_bytes:
                return None
            length_bytes = int(match[2])
            if offset_bytes + length_bytes > size_bytes:
                return None
            part = file.read(length_bytes)
            if hashlib.blake2b(part, digest_size=16).hexdigest() != match[3]:
                return None
            offset_bytes += length_bytes
        file.truncate(offset_bytes)
    return offset_bytes
