"""What reading needs of a session: the local store, the remote with its index, and a way to move to a newer base.

The invariant: the local store is used while its mutex is held, and no request to the remote is made meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ebooklet_tx.errors import ObjectMissingError
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.entries import PENDING_NONE, Entry, find_entries, find_entries_in_order
from ebooklet_tx.local.journal.remote_objects import object_ref
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.staged import has_staged
from ebooklet_tx.local.journal.uploads import place_of
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import ObjectRef, RemoteSide
from ebooklet_tx.sync.base_index import Answer, BaseIndex
from ebooklet_tx.sync.look_up import know_pending, learn_keys, look_up, move_on
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.session import Session

_NO_COPY = (None,) * 4


class IndexedEntry(Entry):
    """An entry whose remote side was looked up in the index and is not in the journal.

    Attributes:
        ref: The object that the value lies in.
        inline: The value, where it rides in the index.
        commit_id: The commit that says so.
    """

    ref: ObjectRef
    inline: bytes | None
    commit_id: str | None


class Reader(NamedTuple):
    """Where values are read from, and kept.

    Attributes:
        local: This machine's half of the database.
        remote: The other half.
        base_index: The index of the remote's commits.
        pull: Moves the local store to the remote's newest commit.
    """

    local: LocalStore
    remote: Remote
    base_index: BaseIndex
    pull: Callable[[], object]

    def look_up(self, keys: Sequence[str]) -> Answer:
        """Returns what the base commit says of some keys."""
        return look_up(self.local, self.base_index, self.pull, keys)

    def move_on(self, base: Base, error: ObjectMissingError) -> None:
        """Pulls on from a base whose index is gone; see `look_up.move_on`."""
        move_on(self.local, self.pull, base.etag, error)

    def entries(self, keys: Sequence[str], *, in_order: bool = False) -> dict[str, Entry]:
        """Returns what a reader sees of many keys; those that it sees nothing of are left out.

        Args:
            keys: The keys.
            in_order: Whether they are about all that there are from the first to the last.
        """
        journal = self.local.journal
        found = find_entries_in_order(journal, keys) if in_order else find_entries(journal, keys)
        undecided = [key for key in keys if key not in found or not found[key].is_decided]
        if undecided:
            answer = self.look_up(undecided)
            self._learn(answer, [key for key in undecided if key in found])
            seen = {key: _seen(found.get(key), answer, key) for key in undecided}
            found = {key: entry for key, entry in found.items() if key not in seen}
            found.update((key, entry) for key, entry in seen.items() if entry is not None)
        return found

    def lookup(self, key: str) -> tuple[Entry | None, bytes | None]:
        """Returns a key's entry, None when a reader sees none, with its value if that is on this machine."""
        with self.local.mutex:
            held = self.local.entry(key)
            if held is not None and held.is_decided:
                entry, value = self.local.lookup(key)
                if entry is not None and value is not None:
                    self._keep_found(entry, value)
                if entry is not None or self._is_decided(key):
                    return entry, value
                # A session beside this one has pushed it since, and the journal holds nothing of it any more.
        seen = self.entries([key]).get(key)
        if seen is None or seen.digest is None:
            return None, None
        return seen, self._value_of(seen)

    def _is_decided(self, key: str) -> bool:
        held = self.local.entry(key)
        return held is not None and held.is_decided

    def values_here(
        self, keys: Sequence[str], entries: Mapping[str, Entry]
    ) -> tuple[dict[str, bytes], list[Entry]]:
        """Reads what is on this machine; returns that, and the entries of what has to be fetched."""
        values: dict[str, bytes] = {}
        missing: list[Entry] = []
        with self.local.mutex:
            anything_staged = has_staged(self.local.journal)
            for key in keys:
                entry = entries.get(key)
                digest = None if entry is None else entry.digest
                if entry is None or digest is None:
                    continue
                if entry.local_digest != digest and not entry.pending and not anything_staged:
                    value = self.local.waiting_value(key, digest)
                    if value is None and isinstance(entry, IndexedEntry):
                        value = self._value_of(entry)
                    elif value == b"":
                        self._keep_found(entry, value)
                    elif value is not None and isinstance(entry, IndexedEntry):
                        # It may wait as of a commit that was left since, and would be dropped.
                        self.local.keep_once(fetched_value(entry, value))
                else:
                    value = self._value_of(entry)
                    if value is not None:
                        self._keep_found(entry, value)
                if value is None:
                    missing.append(entry)
                else:
                    values[key] = value
        return values, missing

    def sent_value(self, entry: Entry) -> RemoteValue | None:
        """Returns where the value of an operation lies in a pack that was sent, and that no commit names yet."""
        if not entry.pending or entry.digest is None:
            return None
        place = place_of(self.local.journal, entry.pending_number, entry.length_bytes)
        return None if place is None else RemoteValue(entry.key, entry.digest, entry.timestamp_us, *place)

    def ref_of(self, entry: Entry) -> ObjectRef:
        """Returns the remote object that an entry's value lies in."""
        if isinstance(entry, IndexedEntry):
            return entry.ref
        return object_ref(self.local.journal, entry.remote_object or 0)

    def keep(self, fetched: Sequence[Fetched]) -> None:
        """Notes fetched values, to be written to the Booklet file many at a time."""
        self.local.keep(fetched)

    def _value_of(self, entry: Entry) -> bytes | None:
        value = self.local.read(entry)
        if value is None and isinstance(entry, IndexedEntry) and entry.inline is not None:
            value = entry.inline
            self.local.keep([fetched_value(entry, value)])
        elif value == b"":
            self._keep_found(entry, value)
        return value

    def _keep_found(self, entry: Entry, value: bytes) -> None:
        """Keeps a value that was not fetched, so that a plain booklet sees it, and no remote is needed for it.

        It was pushed from here and read from the journal, or it is empty, which its digest tells.
        """
        if entry.pending == PENDING_NONE and entry.local_digest != entry.digest and not self.remote.offline:
            self.local.keep_once(fetched_value(entry, value))

    def know_pending(self) -> None:
        """Makes what the remote has of every pending key known, unless it can't be asked or is to be replaced.

        Raises:
            OfflineError, RemoteIntegrityError, InvalidArgumentError: As for `look_up`.
        """
        if not self.remote.offline:
            know_pending(self.local, self.base_index, self.pull)

    def _learn(self, answer: Answer, keys: Sequence[str]) -> None:
        """Notes what was found out about keys with a local copy, so that they are not asked for again."""
        if keys and self.local.writable:
            learn_keys(self.local, answer, keys)


def fetched_value(entry: Entry, value: bytes) -> Fetched:
    """Returns a value of the remote as it is to be kept, with what the index says of a key without an entry."""
    if not isinstance(entry, IndexedEntry):
        return Fetched(entry.key, entry.timestamp_us, entry.digest or b"", value)
    side = RemoteSide(
        entry.key,
        entry.remote_seq,
        entry.remote_timestamp_us,
        entry.remote_digest,
        entry.ref,
        entry.remote_offset_bytes,
        entry.remote_length_bytes,
    )
    return Fetched(
        entry.key, entry.timestamp_us, entry.digest or b"", value, side=side, commit_id=entry.commit_id
    )


def indexed_entry(held: Entry | None, item: LocatedRow, commit_id: str | None) -> IndexedEntry:
    """Returns an entry of a key whose remote side was looked up."""
    row = item.row
    copy = _NO_COPY if held is None else held[11:15]
    remote = row.seq, row.timestamp_us, row.digest, None, row.offset_bytes, row.length_bytes
    entry = IndexedEntry(row.key, PENDING_NONE, None, None, None, *remote, *copy, 1, 0)
    entry.ref, entry.inline, entry.commit_id = item.ref, row.value, commit_id
    return entry


def _seen(held: Entry | None, answer: Answer, key: str) -> IndexedEntry | None:
    item = answer.rows.get(key)
    if item is None or item.row.digest is None:
        return None
    return indexed_entry(held, item, answer.commit_id)


def reader_of(session: Session) -> Reader:
    """Returns what reading needs of a session."""
    return Reader(session.local, session.remote, session.index, partial(pull, session, needed=True))
