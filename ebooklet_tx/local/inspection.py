"""Looking at a local pair without changing a byte of it.

The invariant: nothing is written, made, renamed or repaired, SQLite's own side files
included, and no session is kept waiting for longer than the look takes.

A read-only SQLite connection to a WAL journal makes `-wal` and `-shm`, or rewrites them. So a
journal at rest is read as immutable, one with an unfinished WAL through a copy, and only one that a
writer or this process has open, whose side files are in use already, is read in place.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ebooklet_tx.errors import Error, JournalDamagedError, JournalUnusableError, LocalMissingError
from ebooklet_tx.limits import METADATA_KEY_BYTES
from ebooklet_tx.local.booklet.layout import BLOCK_HEAD_BYTES, HEADER_BYTES, POINTER_BYTES
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.files.file_calls import size_of, storage_errors
from ebooklet_tx.local.files.own_files import PUT_BACK, check_no_link, is_file
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.integrity.commit_mark import missing_commits, read_mark
from ebooklet_tx.local.journal.integrity.lost_commits import commit_count
from ebooklet_tx.local.journal.journal import journal_path, side_files
from ebooklet_tx.local.journal.merged import packs_of_forks
from ebooklet_tx.local.journal.schema import REVISION, STALE
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors
from ebooklet_tx.local.plain_edits import missing_keys
from ebooklet_tx.local.rebuild import is_file_of, rebuild_path
from ebooklet_tx.local.recovery import as_recorded
from ebooklet_tx.local.unwritable.private_journal import reading_journal
from ebooklet_tx.records import digest_of

_DIGEST_OF_NOTHING = digest_of(b"")
_WRITER_WAIT_SECONDS = 5.0

Query: TypeAlias = Callable[[sqlite3.Connection], list[Any]]


@dataclass(slots=True)
class Inspection:
    """What a local pair looks like from outside.

    Attributes:
        in_use: Whether a session has the file open for writing; guard and edits then mean nothing.
        journal: `current`, `missing`, `damaged`, `unusable` when it is sound but no journal of ours, `older`,
            `newer`, or `foreign` when it belongs to another file.
        journal_detail: Why the journal can't be used, when it can't.
        guard: None, `complete` for a finished append whose guard still stands, or `torn`.
        edited: Whether another program has changed the file since the last session.
        rebuild: None, `finished` for a rebuilt file that waits to be put in place, or `partial`.
        intents: (commit id, seq, begun at in microseconds) of pushes whose outcome is not known.
        facts: The journal's `meta` table.
    """

    path: Path
    file_bytes: int = 0
    journal_bytes: int = 0
    uuid: str = ""
    in_use: bool = False
    journal: str = "missing"
    journal_detail: str | None = None
    guard: str | None = None
    edited: bool = False
    rebuild: str | None = None
    adopted: bool = False
    key_count: int = 0
    pending_sets: int = 0
    pending_deletes: int = 0
    pending_bytes: int = 0
    conflicts: list[Any] = field(default_factory=list)
    staged_bytes: int = 0
    dead_bytes: int | None = None
    intents: list[tuple[str, int, int]] = field(default_factory=list)
    packs_arrived: int = 0
    packs_unfinished: int = 0
    lost_keys: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def inspect_pair(
    path: Path, *, conflicts: Query | None = None, check_values: bool = False, facts_only: bool = False
) -> Inspection:
    """Looks at a Booklet file and its journal.

    Args:
        path: The Booklet file.
        conflicts: Finds the conflicts in a journal's database, for `Inspection.conflicts`.
        check_values: Whether pending values are read and held to their digests, for `lost_keys`.
        facts_only: Whether nothing is counted, so that the look takes no longer for a larger database.

    Raises:
        LocalMissingError: There is no such file.
        UnsupportedFormatError: It is no Booklet that can be used here.
        LocalStorageError: The disk refuses, or another process keeps the journal locked.
    """
    if size_of(path) is None:
        way_out = PUT_BACK if size_of(journal_path(path)) else "check the path"
        raise LocalMissingError(2, f"{path} does not exist; {way_out}", path=path)
    with contextlib.closing(ValueFile.open(path, writable=False)) as file:
        found = Inspection(path, uuid=file.header.uuid.hex())
        found.file_bytes = file.state().length_bytes
        found.in_use = not file.try_share()
        location = journal_path(path)
        check_no_link(location)
        found.journal_bytes = sum(_size(part) for part in _parts(location))
        try:
            if _size(location) or _size(_parts(location)[1]):
                mark = read_mark(side_files(location).mark)
                with sqlite_errors(location), reading_journal(location, in_use=found.in_use) as raw:
                    missing = missing_commits(mark, commit_count(raw))
                    _inspect_journal(found, file, raw, conflicts, check_values, facts_only=facts_only)
                if missing:
                    found.journal_detail = f"the journal lacks {missing} acknowledged commits: its WAL is damaged"
        except (JournalDamagedError, JournalUnusableError) as error:
            found.journal = "damaged" if isinstance(error, JournalDamagedError) else "unusable"
            found.journal_detail = str(error)
        _inspect_file(found, file)
    return found


def _parts(location: Path) -> tuple[Path, Path]:
    return location, location.with_name(location.name + "-wal")


def _size(path: Path) -> int:
    with storage_errors(path, "look at"):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


def _inspect_journal(
    found: Inspection,
    file: ValueFile,
    raw: sqlite3.Connection,
    conflicts: Query | None,
    check_values: bool,
    *,
    facts_only: bool,
) -> None:
    revision = migrate.current_revision(raw, journal_path(found.path))
    if revision is None:
        found.journal_detail = "the journal is empty"
        return
    # Later revisions keep this table's shape: it holds the revision's name.
    with contextlib.suppress(sqlite3.OperationalError):
        found.facts = dict(raw.execute("SELECT name, value FROM meta").fetchall())
    if revision != REVISION:
        found.journal = "newer" if revision > REVISION else "older"
        found.journal_detail = f"the journal has revision {revision}, this ebooklet_tx works with {REVISION}"
        return
    if not is_file_of(found.facts, file):
        found.journal = "foreign"
        found.facts = {}
        found.journal_detail = "the journal belongs to another file"
        return
    found.journal = "current"
    found.adopted = "adopted" in found.facts
    if facts_only:
        return
    _count(found, file, raw)
    if conflicts is not None:
        found.conflicts = conflicts(raw)
    found.missing_keys = missing_keys(raw)
    if check_values:
        found.lost_keys = _lost_keys(file, raw)


def _count(found: Inspection, file: ValueFile, raw: sqlite3.Connection) -> None:
    found.key_count, found.pending_sets, found.pending_deletes, found.pending_bytes, live_bytes = raw.execute(
        "SELECT coalesce((SELECT value FROM meta WHERE name = 'base_key_count'), 0) + coalesce(sum(CASE WHEN "
        "key != '' AND pending != 0 THEN (pending = 1) "
        "- (CASE WHEN known THEN remote_digest ELSE base_digest END IS NOT NULL) END), 0), "
        "coalesce(sum(pending = 1), 0), coalesce(sum(pending = 2), 0), "
        "coalesce(sum(CASE pending WHEN 1 THEN pending_length_bytes END), 0), "
        f"coalesce(sum(CASE WHEN local_digest IS NOT NULL AND NOT ({STALE}) THEN "
        "local_length_bytes + ? + CASE key WHEN '' THEN ? ELSE length(CAST(key AS BLOB)) END END), 0) "
        "FROM entry",
        (BLOCK_HEAD_BYTES, len(METADATA_KEY_BYTES)),
    ).fetchone()
    index_bytes = HEADER_BYTES + file.header.n_buckets * POINTER_BYTES
    found.dead_bytes = max(0, found.file_bytes - index_bytes - live_bytes)
    (found.staged_bytes,) = raw.execute("SELECT coalesce(sum(length(value)), 0) FROM staged").fetchone()
    found.intents = raw.execute("SELECT commit_id, seq, begun_at_us FROM intent ORDER BY begun_at_us").fetchall()
    merged = packs_of_forks(raw)
    uploads = raw.execute("SELECT name, etag FROM upload").fetchall()
    arrived = [etag is not None for name, etag in uploads if name not in merged]
    found.packs_arrived, found.packs_unfinished = arrived.count(True), arrived.count(False)


def _lost_keys(file: ValueFile, raw: sqlite3.Connection) -> list[str]:
    """Returns the keys of pending values of which no sound copy is left, here or in a pack that arrived."""
    cursor = raw.execute(
        "SELECT e.key, e.pending_digest, e.local_digest, e.local_offset_bytes, e.local_length_bytes, "
        "coalesce(s.value, i.value) FROM entry AS e "
        "LEFT JOIN staged AS s ON s.key = e.key AND s.digest = e.pending_digest "
        "LEFT JOIN inline_value AS i ON i.digest = e.pending_digest "
        "WHERE e.pending != 0 AND e.pending = 1 AND e.pending_digest IS NOT e.remote_digest AND NOT EXISTS ("
        "SELECT 1 FROM place AS p JOIN upload AS u ON u.object = p.object "
        "WHERE p.number = e.pending_number AND u.etag IS NOT NULL) ORDER BY e.key"
    )
    lost = []
    for key, digest, local_digest, offset, length, held in cursor:
        sound = digest == _DIGEST_OF_NOTHING or (held is not None and digest_of(bytes(held)) == digest)
        if not sound and local_digest == digest:
            sound = digest_of(file.read(offset, length)) == digest
        if not sound:
            lost.append(key)
    return lost


def _inspect_file(found: Inspection, file: ValueFile) -> None:
    known = found.journal == "current"
    waiting = rebuild_path(found.path)
    if is_file(waiting):
        found.rebuild = "finished" if known and _generation(waiting) == _known_generation(found) else "partial"
    guard = file.guard_number()
    if guard is not None and not found.in_use:
        found.guard = "complete" if known and guard == found.facts.get("applied_append") else "torn"
    settled = known and found.guard is None and found.rebuild != "finished" and not found.in_use
    found.edited = settled and "file_uuid" in found.facts and not as_recorded(file, found.facts)


def _known_generation(found: Inspection) -> object:
    return found.facts.get("file_generation", b"")


def _generation(path: Path) -> bytes | None:
    with contextlib.suppress(Error), contextlib.closing(ValueFile.open(path, writable=False)) as file:
        return file.generation
    return None
