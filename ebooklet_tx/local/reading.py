"""Reading values that are on this machine, wherever they lie: waiting, in the Booklet file, or in the journal.

The invariant: a value is returned only when its digest is that of the entry. Beside a writer bytes can move
between the lookup of the entry and the reading of the file; then the entry has changed, and is looked up again.
"""

from __future__ import annotations

from collections.abc import Callable

from ebooklet_tx.local.fetched_values import FetchedValues
from ebooklet_tx.local.journal.entries import Entry, find_entry, find_place, keys_with_place
from ebooklet_tx.local.journal.staged import held_value
from ebooklet_tx.local.open_pair import OpenPair
from ebooklet_tx.records import digest_of, digest_of_chunks

ASKED_PART = 16
MOST_COPIES = 200_000
"""Up to so many keys are held in memory, once a sixteenth of them was asked for."""

_EMPTY_DIGEST = digest_of(b"")


class LocalReading:
    """What one session reads of its pair."""

    def __init__(self, pair: OpenPair, fetched: FetchedValues) -> None:
        self._pair = pair
        self._fetched = fetched
        self._note: Callable[[str], None] | None = None
        self._copies: frozenset[str] = frozenset()
        self._copies_at = -1
        self._asked = 0

    def note_reads(self, note: Callable[[str], None]) -> None:
        """Tells something of each copy that is read from now on."""
        self._note = note

    def read_here_and_note(self, key: str) -> tuple[int, bytes] | None:
        """Likewise `read_here`, where reads are noted."""
        found = self.read_here(key)
        if found is not None and self._note is not None:
            self._note(key)
        return found

    def read_here(self, key: str) -> tuple[int, bytes] | None:
        """Returns timestamp and value of a key whose visible value lies intact in the Booklet file.

        None means nothing: `lookup` knows every other place, and damage.
        """
        pair = self._pair
        place = find_place(pair.journal, key)
        if place is None:
            return None
        timestamp_us, digest, offset_bytes, length_bytes = place
        value = pair.file.read(offset_bytes, length_bytes)
        return (timestamp_us or 0, value) if digest_of(value) == digest else None

    def has_copy(self, key: str) -> bool:
        """Whether the Booklet file has the value that a reader of a key sees, before what is uncommitted.

        Only for a session that has the lock: until it commits itself, no other changes the journal. Where it asks
        for a large part of the keys meanwhile, they are read together, in an eighth of the time.
        """
        journal = self._pair.journal
        changes = journal.raw.total_changes
        if changes == self._copies_at:
            if key in self._copies:
                return True
        else:
            self._copies, self._copies_at, self._asked = frozenset(), changes, 0
        self._asked += 1
        n_keys = self._pair.file.header.n_keys
        if not self._copies and self._asked * ASKED_PART > n_keys and n_keys <= MOST_COPIES:
            self._copies = keys_with_place(journal)
        return find_place(journal, key) is not None

    def lookup(self, key: str) -> tuple[Entry | None, bytes | None]:
        """Returns a key's entry, None when a reader sees none, with its value if that is here."""
        journal = self._pair.journal
        entry = find_entry(journal, key)
        while entry is not None and entry.digest is not None:
            value = self.read(entry)
            if value is not None or self._pair.writable:
                return entry, value
            again = find_entry(self._pair.journal, key)
            if again == entry:
                return entry, None
            entry = again
        return None, None

    def read(self, entry: Entry) -> bytes | None:
        """Returns the value that a reader of this entry sees, if an intact copy is on this machine.

        Returns:
            The encoded value, its digest checked; None when there is no copy, or a damaged one.
        """
        digest = entry.digest
        if digest is None:
            return None
        waiting = self.waiting_value(entry.key, digest)
        if waiting is not None:
            return waiting
        if entry.local_digest == digest:
            value = self.read_at(entry)
            if digest_of(value) == digest:
                if self._note is not None:
                    self._note(entry.key)
                return value
            moved = self._read_again(entry, digest)
            if moved is not None:
                return moved
        held = held_value(self._pair.journal, entry.key, digest)
        return held if held is not None and digest_of(held) == digest else None

    def is_intact(self, entry: Entry) -> bool:
        """True when the value that a reader of this entry sees is on this machine, whatever its size."""
        if entry.digest is None or entry.local_digest != entry.digest:
            return self.read(entry) is not None
        region = self._pair.file.region(entry.local_offset_bytes or 0, entry.local_length_bytes or 0)
        return digest_of_chunks(region.chunks()) == entry.digest or self.read(entry) is not None

    def waiting_value(self, key: str, digest: bytes) -> bytes | None:
        """Returns a value of that digest where no disk has to be read for it."""
        return b"" if digest == _EMPTY_DIGEST else self._fetched.find(key, digest)

    def read_at(self, entry: Entry) -> bytes:
        """Returns what lies where an entry has its copy, unchecked."""
        return self._pair.file.read(entry.local_offset_bytes or 0, entry.local_length_bytes or 0)

    def _read_again(self, entry: Entry, digest: bytes) -> bytes | None:
        """Reads a value again whose bytes are not at the place of an entry that may be out of date.

        The value is damaged only if its place is still that one: another thread may have written the key or
        rewritten the file since the entry was read, and so may a writer beside a reader.
        """
        followed = not self._pair.writable and self._pair.follow_file()
        now = find_entry(self._pair.journal, entry.key)
        if now is None or now.local_digest != digest:
            return None
        if followed or _place_of(now) != _place_of(entry):
            value = self.read_at(now)
            if digest_of(value) == digest:
                return value
        if not followed:
            self._fetched.note_damaged(entry.key)
        return None


def _place_of(entry: Entry) -> tuple[object, ...]:
    return entry.local_offset_bytes, entry.local_length_bytes
