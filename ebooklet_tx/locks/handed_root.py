"""The root that a writer hands to the next one in the queue of its machine, so that it need not be read anew.

It lies in a file that only this user reaches. The invariant: it is a hint. What is read is whole and of the
remote that was asked for, or nothing. It may be out of date, which the compare-and-swap finds out.
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


def hand_over(remote_digest: bytes, etag: str, root: bytes) -> None:
    """Leaves a root for the next writer; where that is not possible, nothing is done.

    Args:
        remote_digest: Tells the remote from others.
        etag: The ETag under which the root lies there.
        root: Its bytes.
    """
    tag = etag.encode(errors="replace")
    record = _HEAD.pack(_digest(remote_digest, tag, root), len(tag), len(root)) + tag + root
    if len(record) <= SLOT_BYTES:
        file = Descriptor()
        with contextlib.suppress(OSError):
            if open_shared(file, FILE_NAME):
                os.pwrite(file.number, record, _offset(remote_digest))
        file.close()


def handed(remote_digest: bytes) -> tuple[str, bytes] | None:
    """Returns ETag and bytes of the root that was left for a remote last; None where there is none."""
    file = Descriptor()
    record = b""
    with contextlib.suppress(OSError):
        if open_shared(file, FILE_NAME):
            record = os.pread(file.number, SLOT_BYTES, _offset(remote_digest))
    file.close()
    if len(record) < _HEAD.size:
        return None
    digest, tag_bytes, root_bytes = _HEAD.unpack_from(record)
    tag = record[_HEAD.size : _HEAD.size + tag_bytes]
    root = record[_HEAD.size + tag_bytes :][:root_bytes]
    if len(root) != root_bytes or _digest(remote_digest, tag, root) != digest:
        return None
    return tag.decode(errors="replace"), root


def _digest(remote_digest: bytes, tag: bytes, root: bytes) -> bytes:
    return blake2b(
        b"%d %d " % (len(remote_digest), len(tag)) + remote_digest + tag + root, digest_size=32
    ).digest()


def _offset(remote_digest: bytes) -> int:
    return remote_digest[0] % SLOTS * SLOT_BYTES


__all__ = ["hand_over", "handed"]
