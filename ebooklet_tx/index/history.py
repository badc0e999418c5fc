"""The history of commits: the newest in the root, older ones in objects of their own.

The invariant: of the last commits, of which a root always has the ids, and of those whose records are kept, it
can be told which commit had a number. Of older ones nothing can be told, which is never taken for an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ebooklet_tx.errors import ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.formats.history import decode_history, encode_history, history_ref, plan_history
from ebooklet_tx.formats.index_records import HistoryRef
from ebooklet_tx.formats.manifest import Manifest
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.root import KEEP_RECENT
from ebooklet_tx.limits import MAX_HISTORY_BYTES
from ebooklet_tx.records import CommitRecord, ObjectRef
from ebooklet_tx.stores.object_store import ObjectStore

_log = logging.getLogger("ebooklet_tx")

HORIZON_COMMITS = 1000
HORIZON_US = 24 * 3600 * 10**6
"""Tombstones are kept for this many commits and this long, so that copies which lag behind hear of them."""


@dataclass(frozen=True, slots=True)
class History:
    """What a manifest says of the history."""

    recent: tuple[tuple[int, str], ...]
    records: tuple[CommitRecord, ...]
    histories: tuple[HistoryRef, ...]


class HistoryReader:
    """Reads the history that a root names."""

    def __init__(self, store: ObjectStore, names: ObjectNames) -> None:
        self._store = store
        self._names = names

    def records(self, manifest: Manifest) -> Iterator[CommitRecord]:
        """Yields the records of commits, newest first.

        Raises:
            ObjectMissingError: A part of the history is gone.
            RemoteIntegrityError: A part is damaged.
        """
        yield from manifest.records
        for ref in reversed(manifest.histories):
            yield from reversed(self.part(ref))

    def newest(self, manifest: Manifest, limit: int) -> list[CommitRecord]:
        """Returns so many records, newest first; fewer where a part of the older history is gone or damaged."""
        found = list(manifest.records[:limit])
        for ref in reversed(manifest.histories):
            if len(found) >= limit:
                break
            records = _sound_part(self, ref)
            if records is None:
                break
            found += reversed(records)
        return found[:limit]

    def part(self, ref: HistoryRef) -> tuple[CommitRecord, ...]:
        """Returns the records of one object, oldest first."""
        key = self._names.object(ref.name)
        blob = self._store.get(key, max_bytes=MAX_HISTORY_BYTES)
        if blob is None:
            raise RemoteIntegrityError(f"the store gives nothing for {key!r}", object_name=key)
        return decode_history(blob.data, ref=ref)

    def commit_at(self, manifest: Manifest, seq: int) -> str | None:
        """Returns the id of the commit of a number; None where the history does not go back so far."""
        for number, commit_id in manifest.recent:
            if number == seq:
                return commit_id
        for record in manifest.records:
            if record.seq == seq:
                return record.commit_id
        for ref in manifest.histories:
            if ref.first_seq <= seq <= ref.last_seq:
                return next((record.commit_id for record in self.part(ref) if record.seq == seq), None)
        return None


def extended(
    base: Manifest | None,
    record: CommitRecord,
    reader: HistoryReader,
    *,
    new_name: Callable[[], str],
    put: Callable[[str, bytes], ObjectRef],
) -> History:
    """Returns the history with one more commit, writing older records out where the root has enough of them."""
    if base is None:
        return History(((record.seq, record.commit_id),), (record,), ())
    recent = ((record.seq, record.commit_id), *base.recent)[:KEEP_RECENT]
    if len(base.records) < KEEP_RECENT:
        return History(recent, (record, *base.records), base.histories)
    older = tuple(reversed(base.records))
    dropped, joined = plan_history(base.histories, len(older))
    kept = base.histories[dropped:]
    for ref in reversed(kept[len(kept) - min(joined, len(kept)) :]):
        records = _sound_part(reader, ref)
        if records is None:
            break
        older, kept = (*records, *older), kept[:-1]
    name = new_name()
    data = encode_history(older)
    stored = put(name, data)
    ref = history_ref(data, stored.name, older)._replace(etag=stored.etag)
    return History(recent, (record,), (*kept, ref))


def _sound_part(reader: HistoryReader, ref: HistoryRef) -> tuple[CommitRecord, ...] | None:
    """Returns the records of one object; None where it is gone or damaged, which no commit has to fail for."""
    try:
        return reader.part(ref)
    except (ObjectMissingError, RemoteIntegrityError) as error:
        _log.warning("a part of the history, %s, can't be read: %s", ref.name, error)
        return None


def horizon_seq(base: Manifest, reader: HistoryReader, *, now_us: int) -> int:
    """Returns the commit up to which tombstones may be dropped: old enough by number and by time."""
    behind = base.seq - HORIZON_COMMITS
    oldest_kept = min((record.seq for record in base.records), default=base.seq)
    if behind <= 0 or behind >= oldest_kept or not base.histories:
        return 0
    for ref in base.histories:
        if ref.first_seq <= behind <= ref.last_seq:
            records = [record for record in _sound_part(reader, ref) or () if record.seq <= behind]
            old = [record.seq for record in records if record.committed_at_us <= now_us - HORIZON_US]
            return max(old, default=ref.first_seq - 1 if records else 0)
    return 0


__all__ = ["History", "HistoryReader", "extended", "horizon_seq"]
