"""A worker's part of a fork: what it reads of the fork's base, what it writes, and how that is sent.

The invariant: nothing is sent before `send`, and what that sends has names of the fork's own, which no root
names. So a worker that dies, or whose work is done twice, leaves nothing that a reader sees.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from ebooklet_tx.errors import Error, RemoteMissingError, SessionClosedError
from ebooklet_tx.formats.fork import OBJECT_ROWS, ChangedRow, encode_changes
from ebooklet_tx.formats.pack import PACK_BYTES, pack_prefix, record_bytes
from ebooklet_tx.index.commit_index import CommitIndex, RemoteIndex
from ebooklet_tx.records import IndexRow, ObjectRef, digest_of
from ebooklet_tx.sync.commit.packing import PACKS_IN_FLIGHT, PART_BYTES, Pack, PackBatch, PackRecord, fill_packs
from ebooklet_tx.sync.forks.protection import Protected
from ebooklet_tx.sync.forks.receipt import Receipt
from ebooklet_tx.sync.forks.spill import SPILL_BYTES, Held, Spill
from ebooklet_tx.sync.in_flight import side_by_side
from ebooklet_tx.sync.read.commit_reader import CommitReader
from ebooklet_tx.sync.remote import Remote

BATCH_BYTES = 2**20
"""Values that go into a pack together."""

KEYS_AT_ONCE = 4000

CHANGES_BYTES = 4 * 2**20
"""An object of changes ends where its keys take more than this."""


class Written(NamedTuple):
    """What was written of one key: a value, or without one a deletion."""

    held: Held | None
    timestamp_us: int


class Place(NamedTuple):
    """Where a value was sent to."""

    ref: ObjectRef
    offset_bytes: int
    length_bytes: int
    digest: bytes


class PartWork:
    """One worker's part of a fork; threads may share it."""

    def __init__(self, remote: Remote, there: Protected, *, spill_bytes: int = SPILL_BYTES) -> None:
        self.fork_id = there.note.fork_id
        self._remote = remote
        self._there = there
        self._spill = Spill(spill_bytes)
        self._written: dict[str, Written] = {}
        self._mutex = threading.RLock()
        self._is_ended = False
        # A row that rides in the root has no other object.
        self.base = CommitReader(remote, self._open_base, _refuse_to_move)

    def _open_base(self, index: RemoteIndex) -> CommitIndex:
        return index.of(self._there.root, etag=None, size_bytes=self._there.root_bytes)

    # -- reading ---------------------------------------------------------------------------

    def read(self, key: str) -> tuple[int, bytes] | None:
        """Returns a key's timestamp and encoded value; None where there is none."""
        with self._mutex:
            self._check_open()
            written = self._written.get(key)
            if written is not None:
                held = written.held
                return None if held is None else (written.timestamp_us, self._spill.read(held))
        return self.base.read(key)

    def timestamp_of(self, key: str) -> int | None:
        """Returns when a key was set; None where it is not there."""
        with self._mutex:
            self._check_open()
            written = self._written.get(key)
        if written is not None:
            return None if written.held is None else written.timestamp_us
        return self.base.timestamp_of(key)

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[int, bytes] | Error | None]]:
        """Yields for each key timestamp and encoded value, the reason why it can't be had, or None."""
        remaining = iter(keys)
        while page := list(islice(remaining, KEYS_AT_ONCE)):
            with self._mutex:
                self._check_open()
                here = {key for key in page if key in self._written}
            there = self.base.read_many([key for key in page if key not in here])
            for key in page:
                yield (key, self.read(key)) if key in here else next(there)

    def iter_keys(self, prefix: str = "") -> Iterator[str]:
        """Yields the keys with a prefix, in order; what is written meanwhile may be left out."""
        with self._mutex:
            self._check_open()
            written = {
                key: item.held is not None for key, item in self._written.items() if key.startswith(prefix)
            }
        added = iter(sorted(key for key, is_set in written.items() if is_set))
        following = next(added, None)
        for key in self.base.iter_keys(prefix):
            while following is not None and following < key:
                yield following
                following = next(added, None)
            if following == key:
                following = next(added, None)
            if written.get(key, True):
                yield key
        while following is not None:
            yield following
            following = next(added, None)

    def count(self) -> int:
        """Returns how many keys there are."""
        with self._mutex:
            self._check_open()
            written = {key: item.held is not None for key, item in self._written.items()}
        count = self.base.count()
        for key, base in self._bases(sorted(written)):
            count += written[key] - (base is not None)
        return count

    # -- writing ---------------------------------------------------------------------------

    def put(self, key: str, value: bytes | None, timestamp_us: int) -> None:
        """Sets a key, or deletes it with None.

        Raises:
            SessionClosedError: The part was sent or given up, so that the change would go nowhere.
        """
        with self._mutex:
            self._check_open()
            before = self._written.get(key)
            held = None if value is None else self._spill.put(value)
            self._written[key] = Written(held, timestamp_us)
            if before is not None and before.held is not None:
                self._spill.forget(before.held)

    def put_all(self, operations: Iterable[tuple[str, tuple[bytes | None, int]]]) -> None:
        """Sets and deletes several keys, in one step for all threads: all of them or, when it raises, none."""
        written: list[tuple[str, Written]] = []
        try:
            # Without the mutex between them: they may be made while they are taken.
            for key, (value, timestamp_us) in operations:
                with self._mutex:
                    self._check_open()
                    held = None if value is None else self._spill.put(value)
                written.append((key, Written(held, timestamp_us)))
            with self._mutex:
                self._check_open()
                written = self._exchanged(written)
        finally:
            with self._mutex:
                for _, (held, _) in written:
                    if held is not None:
                        self._spill.forget(held)

    def _exchanged(self, written: Sequence[tuple[str, Written]]) -> list[tuple[str, Written]]:
        """Notes what is written; returns what it takes the place of."""
        new = dict(written)
        replaced = [item for item in written if new[item[0]] is not item[1]]
        replaced += [(key, self._written[key]) for key in new if key in self._written]
        self._written.update(new)
        return replaced

    def delete_all(self, timestamp_us: int) -> None:
        """Deletes every key, in one step for all threads."""
        # Without the mutex: the base stays what it is, and may have to be asked.
        keys = dict.fromkeys(self.base.iter_keys())
        with self._mutex:
            keys.update(dict.fromkeys(self._written))
            here = {key for key in keys if key not in self._written or self._is_set(key)}
            self.put_all((key, (None, timestamp_us)) for key in sorted(here))

    def put_if(self, key: str, value: bytes | None, timestamp_us: int, *, after: object) -> bool:
        """Likewise, if nothing was written of the key since `state_of` returned what is given here."""
        with self._mutex:
            if self._written.get(key) is not after:
                return False
            self.put(key, value, timestamp_us)
            return True

    def state_of(self, key: str) -> object:
        """Returns what differs from before once a key was written."""
        with self._mutex:
            return self._written.get(key)

    # -- sending ---------------------------------------------------------------------------

    def send(self, worker: str) -> Receipt:
        """Sends what was written, and returns the receipt of it.

        Raises:
            OfflineError: The store keeps failing; what was sent is garbage.
        """
        with self._mutex:
            self._check_open()
            # Another thread that writes now waits, and is told that its change came too late.
            self._is_ended = True
            keys = sorted(self._written)
            changes = [(key, base) for key, base in self._bases(keys) if base is not None or self._is_set(key)]
            places = self._send_values([key for key, _ in changes if self._is_set(key)])
            rows = [self._row(key, base, places.get(key)) for key, base in changes]
            lists = side_by_side(_parts(rows), self._send_changes, size_bytes=_size_of, threads=4)
            with closing(lists):
                objects = tuple(sent for _, sent in lists)
        manifest = self._there.root.manifest
        return Receipt(
            fork_id=self.fork_id,
            uuid=manifest.uuid,
            base_seq=manifest.seq,
            base_commit_id=manifest.commit_id,
            receipt_id=secrets.token_hex(16),
            worker=worker,
            objects=objects,
            set_count=len(places),
            deleted_count=len(rows) - len(places),
            value_bytes=sum(place.length_bytes for place in places.values()),
        )

    def close(self) -> None:
        """Lets go of what was written."""
        with self._mutex:
            self._is_ended = True
            self._written.clear()
            self._spill.close()

    def _check_open(self) -> None:
        if self._is_ended:
            raise SessionClosedError(f"the part of the fork {self.fork_id} is closed; open it again")

    def _is_set(self, key: str) -> bool:
        return self._written[key].held is not None

    def _bases(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """Yields the digest that each key has at the fork's base."""
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[start : start + KEYS_AT_ONCE]
            found = self.base.rows(some)
            for key in some:
                yield key, found[key].row.digest if key in found else None

    def _send_values(self, keys: Sequence[str]) -> dict[str, Place]:
        """Sends values in packs, some at once; returns where each is."""
        places: dict[str, Place] = {}
        digests: dict[int, bytes] = {}
        large: list[str] = []

        def batches() -> Iterator[PackBatch]:
            batch: list[PackRecord] = []
            size_bytes = 0
            for number, key in enumerate(keys):
                held, stamp = self._written[key]
                if held is None or record_bytes(key, held.length_bytes) > PACK_BYTES:
                    large.append(key)
                    continue
                value = self._spill.read(held)
                digests[number] = digest_of(value)
                batch.append((number, key, stamp, digests[number], value))
                size_bytes += len(value)
                if size_bytes > BATCH_BYTES or len(batch) == KEYS_AT_ONCE:
                    yield PackBatch.of(batch)
                    batch, size_bytes = [], 0
            if batch:
                yield PackBatch.of(batch)

        names = self._remote.names
        packs = fill_packs(batches(), lambda: names.new_pack_of(self.fork_id), pack_bytes=PACK_BYTES)
        threads = min(PACKS_IN_FLIGHT, max(1, self._remote.threads))
        with closing(side_by_side(packs, self._send_pack, size_bytes=_pack_bytes, threads=threads)) as sent:
            for (name, data, packed), etag in sent:
                ref = ObjectRef(name, etag, len(data))
                for number, offset_bytes, length_bytes in zip(*packed, strict=True):
                    if isinstance(number, int):
                        places[keys[number]] = Place(ref, offset_bytes, length_bytes, digests.pop(number))
        for key in large:
            places[key] = self._send_large(key)
        return places

    def _send_pack(self, pack: Pack) -> str:
        name, data, _ = pack
        return self._remote.store.put(self._remote.names.object(name), data)

    def _send_large(self, key: str) -> Place:
        written = self._written[key]
        value = b"" if written.held is None else self._spill.read(written.held)
        prefix = pack_prefix(key, written.timestamp_us, len(value))
        name = self._remote.names.new_pack_of(self.fork_id)
        source = _Bytes(prefix, value)
        etag = self._remote.store.put_parts(self._remote.names.object(name), source, part_bytes=PART_BYTES)
        return Place(ObjectRef(name, etag, source.size_bytes), len(prefix), len(value), digest_of(value))

    def _row(self, key: str, base: bytes | None, place: Place | None) -> ChangedRow:
        stamp = self._written[key].timestamp_us
        if place is None:
            return ChangedRow(IndexRow(key, 1, stamp, None), base, None)
        at = place.ref.name, place.offset_bytes, place.length_bytes
        return ChangedRow(IndexRow(key, 1, stamp, place.digest, *at), base, place.ref)

    def _send_changes(self, rows: Sequence[ChangedRow]) -> tuple[str, bytes, int, int]:
        data = encode_changes(rows)
        name = self._remote.names.new_changes(self.fork_id)
        self._remote.store.put(self._remote.names.object(name), data)
        return name, digest_of(data), len(data), len(rows)


class _Bytes:
    """A pack of one value that is in memory."""

    def __init__(self, prefix: bytes, value: bytes) -> None:
        self._prefix = prefix
        self._value = value

    @property
    def size_bytes(self) -> int:
        return len(self._prefix) + len(self._value)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        end = offset_bytes + length_bytes
        start = max(0, offset_bytes - len(self._prefix))
        return self._prefix[offset_bytes:end] + self._value[start : max(0, end - len(self._prefix))]


def _parts(rows: Sequence[ChangedRow]) -> Iterator[list[ChangedRow]]:
    """Divides changes into what goes into one object."""
    part: list[ChangedRow] = []
    key_bytes = 0
    for row in rows:
        part.append(row)
        key_bytes += len(row.row.key)
        if len(part) == OBJECT_ROWS or key_bytes > CHANGES_BYTES:
            yield part
            part, key_bytes = [], 0
    if part:
        yield part


def _pack_bytes(pack: Pack) -> int:
    return len(pack[1])


def _size_of(rows: Sequence[ChangedRow]) -> int:
    return sum(len(row.row.key) + 64 for row in rows)


def _refuse_to_move(_view: CommitIndex, error: Error) -> CommitIndex:
    raise RemoteMissingError(
        f"the base of the fork is gone, which only happens once the fork has expired: {error}; make a new one "
        "with fork()"
    ) from error


__all__ = ["PartWork", "Written"]
