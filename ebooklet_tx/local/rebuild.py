"""Rebuilding the Booklet file from the journal: after a crash, a prune, or damage.

Owns `<file>.rebuild` while it is being written. The invariant: the journal's transaction makes the
new file the current one; before it the old file and the old places hold, after it the new file is
found by its generation, under its temporary name or its final one. Both steps can be repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebooklet_tx.errors import UnsupportedFormatError
from ebooklet_tx.local.booklet.block_writer import Value
from ebooklet_tx.local.booklet.file_header import grown_header
from ebooklet_tx.local.booklet.layout import DEFAULT_N_BUCKETS, POINTER_BYTES
from ebooklet_tx.local.booklet.value_file import FileState, ValueFile, create_file, new_append_number
from ebooklet_tx.local.commit import Copy, file_facts, record_places
from ebooklet_tx.local.files.file_calls import fsync_folder, storage_errors
from ebooklet_tx.local.files.own_files import is_file
from ebooklet_tx.local.journal.entries import PENDING_SET, Entry, entries_where, find_entries
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.journal.operations import DROP_EMPTY
from ebooklet_tx.records import digest_of, digest_of_chunks

LARGE_VALUE_BYTES = 16 * 2**20
"""Values above this are copied a piece at a time."""

_KEYS_AT_ONCE = 2000


@dataclass(slots=True)
class RebuildReport:
    """What a rebuild kept, and the keys whose only copy it found damaged."""

    kept: int = 0
    dropped: int = 0
    refetchable: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def rebuild_path(path: Path) -> Path:
    """Returns the name under which a rebuilt file waits to be put in place."""
    return path.with_name(path.name + ".rebuild")


def rebuild(
    file: ValueFile,
    journal: Journal,
    *,
    keep: str = "1",
    keys: Sequence[str] | None = None,
    n_buckets: int | None = None,
    header: bytes | None = None,
) -> tuple[ValueFile, RebuildReport]:
    """Writes a new file of the journal's current local values, to be put in the old one's place.

    From here on the journal means the new file. The caller continues with it, and calls `put_in_place` on
    it before anything is appended to it.

    Values whose bytes no longer have their digest are left out: they are fetched again when the
    remote has them, and otherwise reported as lost.

    Args:
        file: The locked old file; the new one stands behind it.
        journal: Its journal.
        keep: SQL over `entry`; entries for which it is false lose their local copy.
        keys: The only keys whose copies stay, in the order in which they are written; None for those of `keep`,
            in the order of key.
        n_buckets: How many hash buckets the new file has, or None for as many as the old one.
        header: The header of another database's Booklet, whose uuid and serializer the new file has.

    Returns:
        The new file, locked, and a report.

    Raises:
        LocalStorageError: There is no room for a second copy; the old state is intact.
    """
    report = RebuildReport()
    if n_buckets is None and file.header.n_buckets * POINTER_BYTES > file.state().length_bytes:
        # An index lies within its file: this number is damage, and would be allocated.
        n_buckets = DEFAULT_N_BUCKETS
    model = grown_header(file.header, n_buckets) if header is None else header
    new = create_file(rebuild_path(file.path), model, rights=file.rights())
    try:
        number = new_append_number()
        copied: list[Copy] = []
        if keys is None:
            kept = {entry.key for entry in entries_where(journal, f"local_digest IS NOT NULL AND ({keep})")}
            entries = _entries_among(journal, kept, report)
        else:
            kept = set(keys)
            entries = _entries_in_order(journal, keys, report)
        offsets = new.append(
            number,
            (),
            _sound_values(file, entries, copied, report),
            expected_keys=len(kept),
        )
        state = new.state_to_record()
        with storage_errors(new.path, "write"):
            # From the transaction on the old file's places are forgotten: this one must be found.
            fsync_folder(new.path.parent)
        with journal.transaction() as connection:
            raw = driver(connection)
            raw.execute(
                "UPDATE entry SET local_timestamp_us = NULL, local_digest = NULL, "
                "local_offset_bytes = NULL, local_length_bytes = NULL WHERE local_digest IS NOT NULL"
            )
            record_places(raw, zip(copied, offsets, strict=True))
            raw.execute(DROP_EMPTY)
            put_meta(connection, file_facts(new, state, number) | _identity_facts(file, new))
    except BaseException:
        new.close()
        raise
    new.stands_behind, new.recorded = file, state
    return new, report


def _identity_facts(old: ValueFile, new: ValueFile) -> dict[str, bytes | None]:
    """Says whose file the new one is, and by what to know the old one until it has been replaced."""
    changes = new.header.uuid != old.header.uuid and any(old.generation)
    return {"file_uuid": new.header.uuid, "replaced_generation": old.generation if changes else None}


def is_file_of(facts: Mapping[str, Any], file: ValueFile) -> bool:
    """Whether a journal's facts are of a file: of this one, or of the one that stands behind it."""
    if facts.get("file_uuid") in (None, file.header.uuid) or facts.get("file_generation") == file.generation:
        return True
    # A rebuild that changes the uuid, and whose process died before it was put in place.
    return facts.get("replaced_generation") == file.generation and is_file(rebuild_path(file.path))


def finished_rebuild(file: ValueFile, journal: Journal) -> ValueFile | None:
    """Opens a finished rebuild that was never put in a locked file's place, as `rebuild` returns it.

    None where there is none. What waits unfinished is removed.
    """
    waiting = rebuild_path(file.path)
    if not is_file(waiting):
        # A link or a folder of that name is not ours.
        return None
    with storage_errors(waiting, "look at"):
        in_place = waiting.samefile(file.path)
    if in_place:
        # A file system without atomic renames left both names: the rebuild is in place already.
        with storage_errors(waiting, "remove"):
            waiting.unlink()
            fsync_folder(waiting.parent)
        return None
    generation = journal.get_meta("file_generation")
    candidate: ValueFile | None = None
    with contextlib.suppress(UnsupportedFormatError):
        candidate = ValueFile.open(waiting, writable=True)
    if candidate is None or generation is None or candidate.generation != generation:
        if candidate is not None:
            candidate.close()
        with storage_errors(waiting, "remove"):
            waiting.unlink()
        return None
    try:
        candidate.try_lock()
        candidate.recorded = FileState(0, int(journal.get_meta("file_mtime_ns")), 0)
    except BaseException:
        candidate.close()
        raise
    candidate.stands_behind = file
    return candidate


def _entries_among(journal: Journal, kept: Container[str], report: RebuildReport) -> Iterator[Entry]:
    """Yields the entries with a copy whose keys are among those to keep, in order of key; counts the others."""
    for entry in entries_where(journal, "local_digest IS NOT NULL"):
        if entry.key in kept:
            yield entry
        else:
            report.dropped += 1


def _entries_in_order(journal: Journal, keys: Sequence[str], report: RebuildReport) -> Iterator[Entry]:
    """Yields the entries with a copy of some keys, in the order of these; counts the others."""
    (copies,) = journal.rows("SELECT count(*) FROM entry WHERE local_digest IS NOT NULL")[0]
    report.dropped += copies
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        found = find_entries(journal, some)
        for entry in map(found.get, some):
            if entry is not None and entry.local_digest is not None:
                report.dropped -= 1
                yield entry


def _sound_values(
    file: ValueFile, entries: Iterable[Entry], copied: list[Copy], report: RebuildReport
) -> Iterator[tuple[str, int, Value]]:
    """Yields the values that go into the new file; notes each as `record_places` takes it."""
    for entry in entries:
        if entry.local_digest is None or entry.local_digest != entry.digest:
            report.dropped += 1
            continue
        value = _value_of(file, entry)
        found = digest_of(value) if isinstance(value, bytes) else digest_of_chunks(value.chunks())
        if found != entry.local_digest:
            # A value that only this machine has is lost; any other can be fetched again.
            lost = entry.pending == PENDING_SET and entry.digest != entry.remote_digest
            (report.lost if lost else report.refetchable).append(entry.key)
            continue
        timestamp_us = entry.local_timestamp_us or 0
        copied.append((entry.key, timestamp_us, entry.local_digest, len(value)))
        report.kept += 1
        yield entry.key, timestamp_us, value


def _value_of(file: ValueFile, entry: Entry) -> Value:
    place = entry.local_offset_bytes or 0, entry.local_length_bytes or 0
    return file.read(*place) if place[1] <= LARGE_VALUE_BYTES else file.region(*place)
