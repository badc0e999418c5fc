"""The root that a writer hands to the next one in the queue of its machine, so that it need not be read anew.

It lies in a file that only this user reaches. Before a writer sends it it lies there without an ETag, so that the
next one decodes it meanwhile. The invariant: it is a hint. What is read is whole and of the remote that was asked
for, or nothing. It may be out of date, or not written at all, which the compare-and-swap finds out.
"""

from __future__ import annotations

import contextlib
import os
import struct
from hashlib import blake2b

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.locks.private_folder import open_shared

FILE_NAME = "ebooklet_tx.roots"

SLOTS = 16
"""So many remotes have a place in the file; of those that share one, the last to write has it."""

SLOT_BYTES = 2**16
"""A root that does not fit is not handed over."""

_HEAD = struct.Struct("<32sHI")
_DIGEST_BYTES = 32


class HandedRoot:
    """The place of one remote's root; the file is open from its first use until `close`."""

    def __init__(self, remote_digest: bytes) -> None:
        """Opens nothing yet.

        Args:
            remote_digest: Tells the remote from others.
        """
        self._remote_digest = remote_digest
        self._offset = remote_digest[0] % SLOTS * SLOT_BYTES
        self._file = Descriptor()
        self._seen = b""

    def announce(self, root: bytes) -> None:
        """Leaves a root that is about to be written."""
        self.hand_over("", root)

    def hand_over(self, etag: str, root: bytes) -> None:
        """Leaves a root for the next writer; where that is not possible, nothing is done.

        Args:
            etag: The ETag under which the root lies in the remote.
            root: Its bytes.
        """
        tag = etag.encode(errors="replace")
        record = _HEAD.pack(self._digest(tag, root), len(tag), len(root)) + tag + root
        if len(record) <= SLOT_BYTES:
            with contextlib.suppress(OSError):
                if self._opened():
                    os.pwrite(self._file.number, record, self._offset)

    def announced(self) -> bytes | None:
        """Returns a root that is about to be written, each one once."""
        with contextlib.suppress(OSError):
            if self._opened() and os.pread(self._file.number, _DIGEST_BYTES, self._offset) != self._seen:
                etag, root = self._read() or ("-", b"")
                return None if etag else root
        return None

    def handed(self) -> tuple[str, bytes] | None:
        """Returns ETag and bytes of the root that was written last; None where it is not known."""
        with contextlib.suppress(OSError):
            if self._opened():
                found = self._read()
                return found if found is not None and found[0] else None
        return None

    def close(self) -> None:
        """Closes the file; it is opened again when it is used again."""
        self._file.close()

    def _opened(self) -> bool:
        return self._file.number >= 0 or open_shared(self._file, FILE_NAME)

    def _read(self) -> tuple[str, bytes] | None:
        record = os.pread(self._file.number, SLOT_BYTES, self._offset)
        self._seen = record[:_DIGEST_BYTES]
        if len(record) < _HEAD.size:
            return None
        digest, tag_bytes, root_bytes = _HEAD.unpack_from(record)
        tag = record[_HEAD.size : _HEAD.size + tag_bytes]
        root = record[_HEAD.size + tag_bytes :][:root_bytes]
        if len(root) != root_bytes or self._digest(tag, root) != digest:
            return None
        return tag.decode(errors="replace"), root

    def _digest(self, tag: bytes, root: bytes) -> bytes:
        said = b"%d %d " % (len(self._remote_digest), len(tag)) + self._remote_digest + tag + root
        return blake2b(said, digest_size=_DIGEST_BYTES).digest()


__all__ = ["HandedRoot"]
