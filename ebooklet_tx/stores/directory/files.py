"""The files that are objects: opened, identified by an ETag, and made durable.

What `sync_file` and `sync_folder` have returned for survives power loss.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ebooklet_tx.descriptors import Descriptor, reading_file

_EDGE_BYTES = 64 * 1024
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


def open_object(path: Path) -> BinaryIO:
    """Opens an object for reading; never waits, as opening a pipe would.

    Raises:
        FileNotFoundError: There is no file; anything else at the path is no object.
        OSError: The system refuses.
    """
    opened = Descriptor()
    opened.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened.number).st_mode):
        opened.close()
        raise FileNotFoundError(errno.ENOENT, "there is no file", str(path))
    return reading_file(opened)


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
