"""What reading needs of a session: the local store, the remote, and a way to move to a newer base.

The invariant: the local store is used while its mutex is held, and no request to the remote is made meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.journal.entries import PENDING_NONE, Entry, find_entries, find_entries_in_order
from ebooklet_tx.local.journal.staged import has_staged
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.session import Session


class Reader(NamedTuple):
    """Where values are read from, and kept.

    Attributes:
        local: This machine's half of the database.
        remote: The other half.
        pull: Moves the local store to the remote's newest commit.
    """

    local: LocalStore
    remote: Remote
    pull: Callable[[], object]

    def entries(self, keys: Sequence[str], *, in_order: bool = False) -> dict[str, Entry]:
        """Looks many keys up; with `in_order` they are about all that there are from the first to the last."""
        journal = self.local.journal
        with journal.reading():
            return find_entries_in_order(journal, keys) if in_order else find_entries(journal, keys)

    def lookup(self, key: str) -> tuple[Entry | None, bytes | None]:
        """Returns a key's entry, None when a reader sees none, with its value if that is on this machine."""
        with self.local.mutex:
            entry, value = self.local.lookup(key)
            if entry is not None and value is not None:
                self._keep_pushed(entry, value)
        return entry, value

    def values_here(self, keys: Sequence[str], entries: dict[str, Entry]) -> tuple[dict[str, bytes], list[Entry]]:
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
                if entry.local_digest != digest and entry.remote_object is not None and not anything_staged:
                    value = self.local.waiting_value(key, digest)
                else:
                    value = self.local.read(entry)
                    if value is not None:
                        self._keep_pushed(entry, value)
                if value is None:
                    missing.append(entry)
                else:
                    values[key] = value
        return values, missing

    def keep(self, fetched: Sequence[Fetched]) -> None:
        """Notes fetched values, to be written to the Booklet file many at a time."""
        with self.local.mutex:
            self.local.keep(fetched)

    def _keep_pushed(self, entry: Entry, value: bytes) -> None:
        """Keeps a pushed value that was read from the journal, so that a plain booklet sees it as well."""
        if entry.pending == PENDING_NONE and entry.local_digest != entry.digest and not self.remote.offline:
            self.local.keep_once(Fetched(entry.key, entry.timestamp_us, entry.digest or b"", value))


def reader_of(session: Session) -> Reader:
    """Returns what reading needs of a session."""
    return Reader(session.local, session.remote, partial(pull, session))
