"""The values of pending operations, read for a push or to decide a conflict.

The invariant: what is returned has the digest that the operation names, or the operation was replaced meanwhile
and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ebooklet_tx.errors import LocalIntegrityError
from ebooklet_tx.local.journal.entries import Entry, find_entry
from ebooklet_tx.local.journal.pending.conflicts import find_side
from ebooklet_tx.local.journal.pending.push_rows import SendRow, ValueToSend
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.staged import held_value
from ebooklet_tx.local.journal.uploads import place_of
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import digest_of, digests_of

STRETCH_BYTES = 2**20
"""Values that lie side by side are read together up to this size."""

GAP_BYTES = 4 * 2**10
"""What may lie between two values that are read together."""


class ReplacedError(Exception):
    """A key was written again while a commit was built, and its earlier value is gone: build the commit anew."""


class Side(NamedTuple):
    """One side of a conflict as this machine knows it; without a digest it is a deletion."""

    digest: bytes | None
    place: RemoteValue | None = None
    value: bytes | None = None


def read_pending(local: LocalStore, entry: Entry) -> bytes:
    """Returns the bytes of a pending value; the caller holds the mutex.

    Raises:
        ReplacedError: The key was written again since the entry was read, and the earlier value is gone.
        LocalIntegrityError: It is damaged.
    """
    value = local.read(entry)
    if value is None:
        raise _unreadable(local, entry.key, entry.digest)
    return value


def _unreadable(local: LocalStore, key: str, digest: bytes | None) -> ReplacedError | LocalIntegrityError:
    now = find_entry(local.journal, key)
    if now is None or now.digest != digest:
        return ReplacedError(key)
    return LocalIntegrityError(
        f"the value of key {key!r} in {local.path} is damaged and can't be pushed; set or "
        "delete the key, or discard() its change",
        key=key,
        path=local.path,
    )


def read_values(local: LocalStore, items: Sequence[SendRow]) -> Iterator[tuple[Sequence[SendRow], list[bytes]]]:
    """Yields pending values with their bytes, a stretch of the file at a time.

    Raises:
        ReplacedError: A key was written again since, and the earlier value is gone.
        LocalIntegrityError: A value is damaged.
    """
    for begin, end in _stretches(items):
        some = items[begin:end]
        yield some, _read_stretch(local, some)


def _stretches(items: Sequence[SendRow]) -> Iterator[tuple[int, int]]:
    """Yields the bounds of parts of which one read gets all values."""
    begin, least_bytes, most_bytes, reached_bytes = 0, 0, -1, 0
    for number, (_, _, _, _, length_bytes, offset_bytes) in enumerate(items):
        end_bytes = -1 if offset_bytes is None else offset_bytes + length_bytes
        if offset_bytes is None or not least_bytes <= offset_bytes <= most_bytes or end_bytes > reached_bytes:
            if number:
                yield begin, number
            begin, reached_bytes = number, (offset_bytes or 0) + STRETCH_BYTES
        least_bytes, most_bytes = end_bytes, end_bytes + GAP_BYTES if end_bytes >= 0 else -1
    if items:
        yield begin, len(items)


def _read_stretch(local: LocalStore, items: Sequence[SendRow]) -> list[bytes]:
    start_bytes, (last_bytes, last_offset_bytes) = items[0][5], items[-1][4:]
    with local.mutex:
        if start_bytes is None or last_offset_bytes is None:
            return [_read_moved(local, ValueToSend(*item)) for item in items]
        data = local.file.read(start_bytes, last_offset_bytes + last_bytes - start_bytes)
        values = []
        for _, _, _, _, length_bytes, offset_bytes in items:
            at = (offset_bytes or 0) - start_bytes
            values.append(data[at : at + length_bytes])
        digests = digests_of(values)
        if digests != [item[2] for item in items]:
            for number, item in enumerate(items):
                if digests[number] != item[2]:
                    values[number] = _read_moved(local, ValueToSend(*item))
    return values


def _read_moved(local: LocalStore, item: ValueToSend) -> bytes:
    """Returns a value that waits in the journal, or was moved, or is damaged."""
    entry = find_entry(local.journal, item.key)
    if entry is None or entry.digest != item.digest:
        raise ReplacedError(item.key)
    return read_pending(local, entry)


def read_operation(local: LocalStore, key: str, number: int) -> bytes:
    """Returns the value that the operation of a number set.

    Raises:
        ReplacedError: The key was written again since.
        LocalIntegrityError: It is damaged.
    """
    with local.mutex:
        entry = find_entry(local.journal, key)
        if entry is None or entry.pending_number != number:
            raise ReplacedError(key)
        return read_pending(local, entry)


def read_local_side(local: LocalStore, key: str, side: str) -> Side:
    """Returns what is known here of one side of a conflict.

    Args:
        local: This machine's half of the database.
        key: The key.
        side: `base`, `pending` or `remote`, as the journal's columns are called.

    Raises:
        ReplacedError: The key was written again meanwhile.
        LocalIntegrityError: The pending value is damaged.
    """
    with local.mutex:
        entry = local.entry(key)
        if entry is None or (side == "pending" and entry.digest is None):
            return Side(None)
        if side == "pending":
            is_here = local.is_intact(entry)
            sent = None if is_here else place_of(local.journal, entry.pending_number, entry.length_bytes)
            if sent is None or entry.digest is None:
                return Side(entry.digest, value=read_pending(local, entry))
            return Side(entry.digest, RemoteValue(key, entry.digest, entry.timestamp_us, *sent))
        digest, place = find_side(local.journal, key, side)
        return Side(digest, place, None if digest is None else _local_bytes(local, key, digest))


def _local_bytes(local: LocalStore, key: str, digest: bytes) -> bytes | None:
    """Returns the value with a digest, where this machine has an intact copy of it."""
    value = local.read_copy(key, digest)
    if value is not None:
        return value
    held = held_value(local.journal, key, digest)
    return held if held is not None and digest_of(held) == digest else None


class LargeValue:
    """A pack of one value, read from the local file in pieces.

    Raises:
        ReplacedError: The key was written again, and the value is gone.
        LocalIntegrityError: It is damaged.
    """

    def __init__(self, local: LocalStore, item: ValueToSend, prefix: bytes) -> None:
        self._local = local
        self._prefix = prefix
        with local.mutex:
            entry = find_entry(local.journal, item.key)
            # Read once in full: parts must not carry damage that the digest would only show afterwards.
            if entry is None or entry.pending_number != item.number or not local.is_intact(entry):
                raise _unreadable(local, item.key, item.digest)
            self._entry = entry
            self._in_file = entry.local_digest == entry.digest
            self._generation = local.file.generation

    @property
    def size_bytes(self) -> int:
        return len(self._prefix) + self._entry.length_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        end = offset_bytes + length_bytes
        head = self._prefix[offset_bytes:end]
        start = max(0, offset_bytes - len(self._prefix))
        stop = max(0, end - len(self._prefix))
        with self._local.mutex:
            self._follow()
            if self._in_file:
                body = self._local.file.read((self._entry.local_offset_bytes or 0) + start, stop - start)
            else:
                body = read_pending(self._local, self._entry)[start:stop]
        return head + body

    def _follow(self) -> None:
        """Looks the place up again where the file was rewritten since, so that no other bytes are sent."""
        local = self._local
        if local.file.generation == self._generation:
            return
        now = find_entry(local.journal, self._entry.key)
        if now is None or now.digest != self._entry.digest or not local.is_intact(now):
            raise _unreadable(local, self._entry.key, self._entry.digest)
        self._entry, self._generation = now, local.file.generation
        self._in_file = now.local_digest == now.digest
