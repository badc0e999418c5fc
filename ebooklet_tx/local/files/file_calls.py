"""The system's calls on local files: done in full, or raised as an error of ours.

The invariants: `read_at` returns fewer bytes than asked for only where the file ends, however
little one call of the system gives; and what the system refuses inside `storage_errors` leaves it as a
`LocalStorageError` that names the file and the way out.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import Error, LocalStorageError

REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
"""What the system says where rights are missing."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str], action: str) -> Iterator[None]:
    """Turns the system's refusals into errors that name the file and the way out."""
    try:
        yield
    except Error:
        raise
    except OSError as error:
        raise storage_error(error, path, action) from error


def storage_error(error: OSError, path: str | os.PathLike[str], action: str) -> LocalStorageError:
    """Returns what a refusal of the system is raised as."""
    if error.errno in _FULL:
        way_out = "the disk is full: make room and do it again; the last commit is intact"
    elif error.errno in REFUSED:
        way_out = "no permission: check the owner and mode of the file and its folder"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR) and action == "create":
        way_out = "its folder does not exist: make the folder"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        way_out = "the file or its folder does not exist: make the folder, or open with flag 'c'"
    elif error.errno == errno.ENOLCK:
        way_out = "the file system has no lock to give: try again, or put the file on one that has"
    else:
        way_out = "the last commit is intact"
    return LocalStorageError(error.errno or 0, f"can't {action} {path}: {error.strerror or error}; {way_out}")


def size_of(path: Path) -> int | None:
    """Returns the size of a file, or None where there is none.

    Raises:
        LocalStorageError: The system can't say; a file that can't be seen is not one that is missing.
    """
    with storage_errors(path, "look at"):
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None


def read_at(fd: int, length_bytes: int, offset_bytes: int) -> bytes:
    """Returns the bytes at an offset; fewer only when the file ends before."""
    data = os.pread(fd, length_bytes, offset_bytes)
    if len(data) == length_bytes or not data:
        return data
    pieces = [data]
    got = len(data)
    # A call may return fewer than there are: after a signal, on some file systems, and past 2 GiB - 4 KiB.
    while got < length_bytes and (data := os.pread(fd, length_bytes - got, offset_bytes + got)):
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)


def write_all(fd: int, data: memoryview | bytes | bytearray, offset_bytes: int) -> None:
    """Writes every byte at an offset, however many calls that takes.

    Raises:
        OSError: The file system took no more; what was written before stays written.
    """
    done = 0
    with memoryview(data) as view:
        while done < len(view):
            with view[done:] as rest:
                done += os.pwrite(fd, rest, offset_bytes + done)


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Makes the names in a folder durable."""
    folder = Descriptor()
    try:
        folder.open(path, os.O_RDONLY)
        os.fsync(folder.number)
    finally:
        folder.close()
