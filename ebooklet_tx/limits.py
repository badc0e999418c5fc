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

# -- format 2 ----------------------------------------------------------------------------------------

MAX_BLOCK_ROWS = 1024
"""Of a block of the index, or of a root's tail; writers close one at 512 or at 32 KiB of keys and values."""

MAX_BLOCK_BYTES = 2 * 2**20
"""Of a block, as it lies in the remote and when decompressed."""

MAX_INLINE_BYTES = 64 * 2**10
"""Of a value that lies in a block itself."""

MAX_OBJECT_BLOCKS = 256
"""That an index object holds; writers close one at 128."""

MAX_OBJECT_PACKS = 4096
"""That the rows of an index object name."""

MAX_OBJECT_BYTES = 64 * 2**20
"""Of an index object; writers close one at 4 MiB."""

MAX_LIST_BYTES = 2**20
"""Of a directory, or of a page of a run's list, when decompressed; writers close one at 64 KiB of fences."""

MAX_PACK_LIST_BYTES = 5 * 2**20
"""Of the list of an index object's packs, when decompressed."""

MAX_PAGE_ENTRIES = 256
"""Of a page of a run's list; writers close one at 128."""

MAX_PAGES = 4096
"""Of a run's list."""

MAX_RUNS = 16
"""That a root names; writers keep it at 8."""

MAX_FEED = 16
"""Flushes that a root's feed names."""

MAX_BODY_ENTRIES = 4096
"""That a root itself lists, its feed's among them."""

MAX_RECENT = 256
"""Commits whose ids a root holds; writers keep 64."""

MAX_HISTORIES = 64
"""Objects of older history that a root names."""

MAX_HISTORY_RECORDS = 4096
"""Of a history object."""

MAX_HISTORY_BYTES = 4 * 2**20
"""Of a history object, as it lies in the remote and when decompressed."""

MAX_MESSAGE_BYTES = 4 * 2**10
"""Of a commit's message in UTF-8."""

MAX_BODY_BYTES = 128 * 2**10
"""Of a root's binary part."""

MAX_BODY_RAW_BYTES = 4 * 2**20
"""Of a root's binary part when decompressed."""

MAX_FORK_SECONDS = 30 * 86_400
"""For which a fork is protected after its object was last written."""

MAX_FORK_NOTE_BYTES = 4 * 2**10
"""Of what a fork's object says of the fork."""

MAX_FORK_BYTES = MAX_ROOT_BYTES + 2 * MAX_FORK_NOTE_BYTES
"""Of a fork's object, which holds a root."""

MAX_CHANGES_BYTES = 64 * 2**20
"""Of an object in which a worker lists its changes; writers end one at 65,536 rows."""

MAX_CHANGES_OBJECTS = 1024
"""Such objects that a receipt names."""

# -- what does not depend on the format ---------------------------------------------------------------

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
