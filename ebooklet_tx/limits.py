"""The limits of what is stored, in one table: whatever a reader refuses, a writer can't write.

The invariant: each codec takes the bounds of both its sides from here. So no database can be written that another
machine can't read, and a small hostile object costs its reader no more than the bounds allow.
"""

from __future__ import annotations

MAX_KEY_BYTES = 65_535
"""Of a key in UTF-8."""

MAX_VALUE_BYTES = 2**32 - 1
"""Of an encoded value."""

MAX_TIMESTAMP_US = 2**55
"""Microseconds since 1970: the year 3111. Booklet's field of seven bytes holds twice as much."""

MAX_COUNT = 2**53 - 1
"""Of commits, keys, fences, and bytes in an object: what every JSON reader holds exactly."""

MAX_BUCKETS = 20_736_017
"""Of a hash index: the size at which Booklet's growth ends."""

MAX_COPY_BUCKETS = 1_728_017
"""Of a copy that a remote's word alone makes, 10 MB; it grows with what is really put into it."""

MAX_MANIFEST_BYTES = 64 * 2**10
MAX_TAIL_BYTES = 128 * 2**10
MAX_ROOT_BYTES = 256 * 2**10
"""Of a whole root; more than header, manifest and tail together may take."""

MAX_SEGMENTS = 8
"""That a root names."""

MAX_IMAGE_BYTES = 2**31
"""Of a segment when decompressed."""

FREE_IMAGE_BYTES = 4 * 2**20
MAX_IMAGE_RATIO = 64
"""A segment may be this many times as large when decompressed, and a little that is free to every one."""

MAX_LOCK_BYTES = 16 * 2**10
"""Of a lease or ticket."""

MAX_NOTE_BYTES = 16 * 2**20
"""Of what a collection or a deletion notes of its garbage."""

MAX_NOTED_NAMES = MAX_NOTE_BYTES // 128
"""That a collection notes; a name and its time take less than 128 bytes."""

METADATA_KEY_BYTES = b"adb01ebc1ba3433eb043527"
"""The key under which Booklet keeps a file's metadata; here the metadata's key is `""`."""

RESERVED_KEYS = frozenset({METADATA_KEY_BYTES, b"7c40d2ea915b4f3a8e6d201", b"f19a5c3d7e2b48069ab34c5"})
"""Keys that Booklet keeps for itself and hides from its users."""

RESERVED_TEXTS = frozenset(key.decode() for key in RESERVED_KEYS)


def image_limit_bytes(payload_bytes: int) -> int:
    """Returns the most that a compressed segment of a size may hold."""
    return min(MAX_IMAGE_BYTES, FREE_IMAGE_BYTES + MAX_IMAGE_RATIO * payload_bytes)
