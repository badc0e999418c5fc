"""Packs, put together again from values that this machine has and from what is left of them.

The invariant: each value that is put in was held to its digest, at the place where the index has it, so that
root and snapshots need no change. Values that can't be had stay zeros, or the bytes that were there. A lost pack
that is written back without some of them is longer than the index says: nobody takes it for whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ebooklet_tx.formats.pack import (
    INCOMPLETE_MARK,
    PACK_BYTES,
    PACK_MAGIC,
    RecordPlace,
    pack_prefix,
    pack_without_values,
)
from ebooklet_tx.local.journal.entries import find_entry
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.staged import held_value
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance.mend.objects import Attempt, NewBytes, replace_object
from ebooklet_tx.records import ObjectRef, digest_of, digest_of_chunks
from ebooklet_tx.sync.commit.packing import PART_BYTES
from ebooklet_tx.sync.remote import Remote

ValueFinder = Callable[[str, bytes], "bytes | None"]
"""Tells for a key and a digest the value, held to the digest; None where this machine has none."""


@dataclass(slots=True)
class NeededPack:
    """A pack, and all that root and snapshots have in it.

    Attributes:
        ref: The pack, as the index has it.
        whole: Whether every index that may name it was read whole.
        rows: The rows at each place, by offset, length and digest.
    """

    ref: ObjectRef
    whole: bool = True
    rows: dict[tuple[int, int, bytes], list[RemoteValue]] = field(default_factory=dict)

    def add(self, rows: Iterable[RemoteValue]) -> None:
        """Adds what one index has in it; a row that another has as well counts once."""
        for row in rows:
            at = self.rows.setdefault((row.offset_bytes, row.length_bytes, row.digest), [])
            if all(known.key != row.key for known in at):
                at.append(row)

    @property
    def value_count(self) -> int:
        """How many values lie in it."""
        return len(self.rows)


def value_here(local: LocalStore, key: str, digest: bytes) -> bytes | None:
    """Returns a value that is on this machine, in the Booklet file or in the journal."""
    value = local.read_copy(key, digest)
    if value is None:
        value = held_value(local.journal, key, digest)
    return value if value is not None and digest_of(value) == digest else None


def mend_pack(remote: Remote, local: LocalStore, needed: NeededPack) -> Attempt:
    """Writes a pack anew, as far as its values can be had."""
    if needed.ref.size_bytes > 2 * PACK_BYTES:
        return _mend_large(remote, local, needed)

    def make(there: bytes | None) -> NewBytes:
        return rebuilt(needed, there, lambda key, digest: value_here(local, key, digest))

    most_bytes = needed.ref.size_bytes + len(INCOMPLETE_MARK)
    return replace_object(remote, needed.ref.name, make, most_bytes=most_bytes)


def rebuilt(needed: NeededPack, there: bytes | None, find: ValueFinder) -> NewBytes:
    """Returns the bytes of a pack from what is left of it and what a machine has.

    Args:
        needed: What is to be in it.
        there: The bytes that are left; None where there are none.
        find: Asked for the values that are not among them.
    """
    size = needed.ref.size_bytes
    data = _begun(needed, there)
    given = 0
    lost: list[list[RemoteValue]] = []
    for (offset, length, digest), rows in sorted(needed.rows.items()):
        if digest_of(memoryview(data)[offset : offset + length]) == digest:
            continue
        value = _first(find(row.key, digest) for row in rows)
        if value is None:
            lost.append(rows)
            continue
        data[offset : offset + length] = value
        given += 1
    lost_keys = tuple(sorted(row.key for rows in lost for row in rows))
    lacks = _lacks(needed, len(lost))
    if not lacks:
        return NewBytes(bytes(data))
    if not given:
        return NewBytes(None, lacks, lost_keys)
    sound_size = there is not None and len(there) == size
    return NewBytes(bytes(data) if sound_size else bytes(data) + INCOMPLETE_MARK, lacks, lost_keys)


def _begun(needed: NeededPack, there: bytes | None) -> bytearray:
    """Returns a pack of the right size: what is left of it, and behind that records without their values."""
    size = needed.ref.size_bytes
    if there is not None and len(there) == size:
        return bytearray(there)
    places = [
        RecordPlace(offset, length, tuple((row.key, row.timestamp_us) for row in rows))
        for (offset, length, _), rows in sorted(needed.rows.items())
    ]
    data = pack_without_values(size, places)
    if there is not None and there.startswith(PACK_MAGIC):
        left = there[:size]
        data[: len(left)] = left
    return data


def _lacks(needed: NeededPack, lost: int) -> str:
    if lost:
        return f"this machine has no sound copy of {lost} of its {needed.value_count} values"
    return "" if needed.whole else "a part of the index that may name values in it can't be read"


def _first(values: Iterable[bytes | None]) -> bytes | None:
    return next((value for value in values if value is not None), None)


# -- a pack of one large value -----------------------------------------------------------------


def _mend_large(remote: Remote, local: LocalStore, needed: NeededPack) -> Attempt:
    """Writes a pack of one large value anew, in parts; what is written is the very value, or nothing."""
    key = remote.names.object(needed.ref.name)
    for (offset, length, _), rows in needed.rows.items():
        for row in rows:
            head = pack_prefix(row.key, row.timestamp_us, length)
            source = _LargeCopy.of(local, row, head) if len(head) == offset else None
            if source is not None and source.size_bytes == needed.ref.size_bytes:
                remote.store.put_parts(key, source, part_bytes=PART_BYTES)
                return Attempt(True)
    keys = tuple(sorted(row.key for rows in needed.rows.values() for row in rows))
    return Attempt(False, _lacks(needed, needed.value_count), keys)


class _LargeCopy:
    """A pack of one value that lies in the Booklet file, read in pieces."""

    def __init__(self, local: LocalStore, head: bytes, offset_bytes: int, length_bytes: int) -> None:
        self._local = local
        self._head = head
        self._offset_bytes = offset_bytes
        self._length_bytes = length_bytes

    @classmethod
    def of(cls, local: LocalStore, row: RemoteValue, head: bytes) -> _LargeCopy | None:
        """Returns the copy of a value; None where this machine has no sound one."""
        entry = find_entry(local.journal, row.key)
        if entry is None or entry.local_digest != row.digest:
            return None
        offset, length = entry.local_offset_bytes or 0, entry.local_length_bytes or 0
        if digest_of_chunks(local.file.region(offset, length).chunks()) != row.digest:
            return None
        return cls(local, head, offset, length)

    @property
    def size_bytes(self) -> int:
        return len(self._head) + self._length_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        end = offset_bytes + length_bytes
        start = max(0, offset_bytes - len(self._head))
        stop = max(0, end - len(self._head))
        return self._head[offset_bytes:end] + self._local.file.read(self._offset_bytes + start, stop - start)


__all__ = ["NeededPack", "mend_pack", "rebuilt", "value_here"]
