"""One machine's half of a database: value file, journal and overlay behind one face.

Owns the open `ValueFile`, the open `Journal`, the overlay of uncommitted writes and the fetched
values that wait to be kept. The invariant: whoever changes file or journal holds the file's lock;
a session without it only reads, and takes the lock for a moment to keep what it fetched.

Not thread-safe: `database` and `sync` call it under the session's mutex.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import (
    JournalDamagedError,
    LocalIntegrityError,
    LocalMissingError,
    LocalStorageError,
    LostCommitsError,
    ReadOnlyError,
)
from ebooklet_tx.local.commit import Fetched, Overlay, append, stage
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.files.own_files import check_no_link, narrow_beside
from ebooklet_tx.local.journal.entries import Entry, find_entry, find_place, keys_page, stale_keys
from ebooklet_tx.local.journal.integrity.set_aside import check_damage
from ebooklet_tx.local.journal.journal import Journal, journal_path, side_files
from ebooklet_tx.local.journal.staged import has_staged, held_value
from ebooklet_tx.local.pair_files import (
    LOCK_POLL_SECONDS,
    check_wal_at_rest,
    create_pair_file,
    open_locked,
    open_unlocked,
    remove_leftovers,
    remove_pair,
    try_open_locked,
)
from ebooklet_tx.local.rebuild import finished_rebuild, rebuild
from ebooklet_tx.local.recovery import (
    RecoveryReport,
    as_recorded,
    open_journal,
    reconcile,
    replace_damaged,
    report_rebuild,
    set_journal_aside,
)
from ebooklet_tx.local.value_file import (
    FileState,
    IndexDamagedError,
    ValueFile,
    header_with_uuid,
    put_in_place,
)
from ebooklet_tx.records import digest_of, digest_of_chunks
from ebooklet_tx.values.serializers import Serializer, resolve_stored

_log = logging.getLogger("ebooklet_tx")

STAGE_COMMIT_BYTES = 256 * 1024
"""A commit up to this size goes into the journal alone."""

STAGED_LIMIT_BYTES = 4 * 2**20
"""Staged values are moved into the Booklet file when they are more than this."""

STAGED_LIMIT_KEYS = 20_000
_EMPTY_DIGEST = digest_of(b"")


class LocalStore:
    """A locked (writer) or unlocked (reader) pair of value file and journal."""

    def __init__(self, path: Path, *, writable: bool, buffer_bytes: int = 2**22) -> None:
        self.path = path
        self.writable = writable
        self.overlay = Overlay()
        self.report = RecoveryReport()
        self.created = False
        self._buffer_bytes = max(buffer_bytes, 1)
        self._file: ValueFile | None = None
        self.mutex = threading.RLock()
        self._journal: Journal | None = None
        self._in_flux = False
        self._is_replacing = False
        self._is_ended = False
        self._staged_bytes = 0
        self._staged_keys = 0
        self._fetched: dict[str, Fetched] = {}
        self._fetched_bytes = 0
        self._damaged: set[str] = set()
        self._epoch = 0
        self._epoch_version = (0, 0)

    # -- opening and closing ---------------------------------------------------------------

    @classmethod
    def open_writer(
        cls,
        path: Path,
        *,
        create: bool,
        start_anew: bool = False,
        value_serializer: Any = None,
        n_buckets: int = 12007,
        buffer_bytes: int = 2**22,
        timeout_seconds: float = 300.0,
        header: bytes | None = None,
        replace_journal: bool = False,
        report: RecoveryReport | None = None,
        ending: Ending | None = None,
    ) -> LocalStore:
        """Locks, repairs and opens a pair for writing.

        Args:
            path: The Booklet file.
            create: Whether a missing file is made.
            start_anew: Whether an existing pair gives way to a new, empty one (flag n).
            value_serializer: For a new file.
            n_buckets: For a new file.
            buffer_bytes: How many value bytes wait in memory before they are committed.
            timeout_seconds: How long to wait for another session's lock.
            header: The header of the remote's Booklet for a new file, uuid included.
            replace_journal: Whether the whole journal is looked through for damage, and one that is sound but
                of no use is set aside as well as a damaged one.
            report: Where to go on telling what was done.
            ending: Is given the step that lets go of both files, before they are opened.

        Raises:
            LocalMissingError: There is no file and `create` is False.
            LocalStorageError: The disk refuses, or the journal can't be used now; both are as they were.
            LockTimeoutError: Another session kept the lock.
        """
        store = cls(path, writable=True, buffer_bytes=buffer_bytes)
        store.report = report or store.report
        if ending is not None:
            ending.add(store.abandon)
        # Before anything gives way: a link is not ours to remove, and not to be made a journal of.
        check_no_link(journal_path(path))
        try:
            rights = None
            file = store._file = open_locked(path, timeout_seconds)
            if file is not None and start_anew:
                rights = file.rights()
                remove_pair(file)
                file = None
            if file is None:
                if not create:
                    raise LocalMissingError(2, f"{path} does not exist; open it with flag 'c' to make it")
                if size_of(journal_path(path)) is not None:
                    set_journal_aside(path, store.report)
                file = create_pair_file(path, value_serializer, n_buckets, header, timeout_seconds, rights)
                store._file, store.created = file, True
            # A second name, or the need to make the file, may mean that somebody died making it.
            if store.created or file.has_second_name():
                remove_leftovers(file)
            store._use(open_journal(path, store.report, replace=replace_journal))
            narrow_beside(path, file.rights(), side_files(journal_path(path)))
            if store._reconcile(file):
                return store
        except BaseException:
            store._release()
            raise
        # What was found damaged is out of the way: from here the file speaks for itself.
        store._release()
        again = cls.open_writer(
            path,
            create=False,
            buffer_bytes=buffer_bytes,
            timeout_seconds=timeout_seconds,
            report=store.report,
            ending=ending,
        )
        again.created = store.created
        return again

    def _reconcile(self, file: ValueFile) -> bool:
        """Settles the pair; False where that met damage in the journal, which is then set aside."""
        try:
            self._file, journal = reconcile(file, self.journal, self.report)
            self._use(journal)
            self._count_staged()
        except JournalDamagedError as error:
            self.journal.close()
            replace_damaged(self.path, self.report, error)
            return False
        return True

    @classmethod
    def open_reader(cls, path: Path, *, buffer_bytes: int = 2**22, ending: Ending | None = None) -> LocalStore:
        """Opens an existing pair for reading; it is locked only for the moment of settling it.

        Raises:
            LocalMissingError: File or journal is missing, or the journal was never filled because its
                maker was killed; open a writer to make or adopt them.
            LocalIntegrityError: They don't belong together, or the journal is proven damaged; open a writer
                to set the journal aside.
            LostCommitsError: Acknowledged commits are missing; open a writer to set right what can be.
            LocalStorageError: The system refuses, now.
        """
        store = cls(path, writable=False, buffer_bytes=buffer_bytes)
        if ending is not None:
            ending.add(store.abandon)
        try:
            if size_of(path) is None or size_of(journal_path(path)) is None:
                raise LocalMissingError(2, f"{path} or its journal does not exist; open it with flag 'c'")
            check_wal_at_rest(path)
            store._use(Journal.open(journal_path(path), create=False))
            if store.journal.get_meta("file_uuid") is None:
                raise LocalMissingError(2, f"the journal of {path} is not filled yet; open it with flag 'w'")
            store._file = open_unlocked(path, store.journal)
            if not as_recorded(store._file, store.journal.all_meta()):
                store._reconcile_in_reader()
        except LostCommitsError:
            store._release()
            raise
        except JournalDamagedError as error:
            store._release()
            check_damage(journal_path(path), error)
            raise
        except BaseException:
            store._release()
            raise
        return store

    def _reconcile_in_reader(self) -> None:
        """Takes in what was done to the file, unless a writer is at work, who has done that already."""
        try:
            self.try_maintain(lambda: None)
        except (ReadOnlyError, LocalStorageError) as error:
            # The journal's values can be read all the same.
            _log.warning("%s was changed, and the changes could not be taken in: %s", self.path, error)

    def to_reader(self) -> LocalStore:
        """Gives the lock back and goes on as a reader; nothing may be uncommitted."""
        self.writable = False
        self.file.unlock()
        return self

    def close(self) -> None:
        """Commits, moves everything staged into the Booklet file, and lets go of both files.

        When it raises, both are let go of all the same; what was committed before is intact. When it is
        interrupted, what was written goes into the journal alone. Twice is no error; where a second interrupt
        came in between, the second call finishes.
        """
        try:
            self._end_writing()
        except Exception:
            self._is_ended = True
            self._release()
            raise
        except BaseException:
            self._end_interrupted()
            raise
        self._is_ended = True
        self._release()

    def _end_writing(self) -> None:
        if self._is_ended or self._journal is None:
            return
        if self.writable:
            self._commit_at_close()
        elif self._fetched:
            self._keep_fetched()

    def _end_interrupted(self) -> None:
        try:
            if self.writable and self.overlay:
                stage(self.journal, self.overlay)
                self.overlay.forget()
        except (LocalStorageError, LocalIntegrityError) as error:
            _log.warning("%d writes to %s are lost: %s", len(self.overlay.operations), self.path, error)
        self._is_ended = True
        self._release()

    def _commit_at_close(self) -> None:
        try:
            self.commit(fold=True)
        except LocalStorageError as error:
            if error.errno == errno.ESTALE and self.overlay and self.journal.is_current():
                # The file is not what it was, and the journal is: what the session holds goes with it otherwise.
                stage(self.journal, self.overlay)
                _log.warning("%d changes are kept in %s", len(self.overlay.operations), self.journal.path)
            raise

    def abandon(self) -> None:
        """Lets go of both files without committing anything."""
        self._release()

    def undo_creation(self) -> None:
        """Lets go of both files, and removes them where this session has made them; for a failed opening."""
        file = self._file
        if self.created and file is not None and file.locked:
            if self._journal is not None:
                self._journal.close()
            remove_pair(file)
        self._release()

    def forget_in_child(self) -> None:
        """In a forked child: lets go of what belongs to the parent, without touching the disk."""
        if self._file is not None:
            self._file.forget_in_child()
        if self._journal is not None:
            self._journal.forget_in_child()
        self._file = None
        self._journal = None

    def _release(self) -> None:
        try:
            if self._journal is not None:
                self._journal.close()
                self._journal = None
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    @property
    def file(self) -> ValueFile:
        if self._is_replacing:
            self._end_replacing()
        if self._file is None:
            raise LocalStorageError(0, f"{self.path} is not open; open the database again")
        return self._file

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            raise LocalStorageError(0, f"{self.path} is not open; open the database again")
        return self._journal

    def _use(self, journal: Journal) -> None:
        journal.mutex = self.mutex
        self._journal = journal

    def serializer(self, given: Any) -> Serializer:
        """Returns the serializer that the file names; `given` is needed for a class of the user's."""
        return resolve_stored(self.file.header.value_serializer_code, given, str(self.path))

    # -- committing ------------------------------------------------------------------------

    def commit(self, *, fold: bool = False) -> None:
        """Makes the overlay durable; with `fold`, moves all that is staged into the Booklet file too.

        When it raises, the last commit is intact and the overlay is unchanged, so that it can be
        called again.
        """
        if not self.writable:
            raise ReadOnlyError(f"{self.path} is open for reading; open it with flag 'w'")
        self._check_names()
        small = not fold and self.overlay.waiting_bytes <= STAGE_COMMIT_BYTES
        if self.overlay and (self.overlay.cleared or small):
            stage(self.journal, self.overlay)
            self._staged_bytes += self.overlay.waiting_bytes
            self._staged_keys += len(self.overlay.operations)
            self.overlay.forget()
        crowded = self._staged_bytes > STAGED_LIMIT_BYTES or self._staged_keys > STAGED_LIMIT_KEYS
        if self.overlay or (fold and self._unfolded()):
            self._append()
        elif crowded:
            self._unload_journal()

    def _check_names(self) -> None:
        """Makes sure that what is about to be committed can be found again under the pair's names.

        Raises:
            LocalStorageError: File or journal was deleted or replaced while it was open; nothing was changed.
        """
        behind = self.file.stands_behind
        # One that waits for its name may have got it all the same.
        if not (self.file.is_named(self.path) or (behind is not None and behind.is_named(self.path))):
            gone = self.path
        elif not self.journal.is_current():
            gone = self.journal.path
        else:
            return
        what = "was replaced" if size_of(gone) is not None else "was deleted"
        raise LocalStorageError(
            errno.ESTALE,
            f"{gone} {what} while it was open, so nothing is committed any more; this session still has every "
            "value: put them into another database, or put the file back under its name, and sync again",
        )

    def fold_committed(self) -> None:
        """Brings the Booklet file to what a reader sees, if the disk allows; all of it is durable already."""
        if not self.overlay and self._unfolded():
            self._unload_journal()

    def _unload_journal(self) -> None:
        """Moves what is staged into the Booklet file; it is durable already, so this may fail."""
        try:
            self._append()
        except (LocalStorageError, LocalIntegrityError) as error:
            _log.warning("%d values stay in the journal for now: %s", self._staged_keys, error)

    def _unfolded(self) -> bool:
        return bool(has_staged(self.journal) or self._fetched or self._in_flux or stale_keys(self.journal))

    def _append(self, overlay: Overlay | None = None, lacking: Sequence[Fetched] = ()) -> None:
        overlay = self.overlay if overlay is None else overlay
        if self._in_flux:
            self._end_flux()
        self._in_flux = True
        try:
            released = append(self.file, self.journal, overlay, self._fetched.values(), lacking)
        except IndexDamagedError as error:
            _log.warning("%s", error)
            self._rebuild()
            self._in_flux = True
            released = append(self.file, self.journal, overlay, self._fetched.values(), lacking)
        self._in_flux = not released
        overlay.forget()
        self._fetched.clear()
        self._fetched_bytes = 0
        self._staged_bytes = self._staged_keys = 0

    def _end_flux(self) -> None:
        """Takes the guard off where the journal has what the append wrote; otherwise rebuilds the file."""
        file, guard, facts = self.file, self.file.guard_number(), self.journal.all_meta()
        same_file = file.stands_behind is None and facts.get("file_generation") == file.generation
        if same_file and guard is None:
            # It did not come to a change of the file.
            self._in_flux = False
        elif same_file and guard == facts.get("applied_append"):
            file.release(FileState(0, int(facts["file_mtime_ns"]), 0))
            self._in_flux = False
        else:
            self._rebuild()

    def _rebuild(self, keep: str = "1", header: bytes | None = None) -> int:
        """Replaces the file by a rebuilt one; returns how many local copies were dropped.

        When it raises, the journal's last state is intact and the session goes on with the file that
        the journal means, which may still have to get its name.
        """
        dropped = 0
        old = self.file
        self._in_flux = True
        if old.stands_behind is None:
            self._is_replacing = True
            self._file, outcome = rebuild(old, self.journal, keep=keep, header=header)
            self._is_replacing = False
            report_rebuild(outcome, self.report)
            dropped = outcome.dropped
        put_in_place(self.file)
        self._in_flux = False
        return dropped

    def _end_replacing(self) -> None:
        """Goes over to the file that the journal means, where replacing the old one was cut short."""
        if not self.writable:
            fresh = open_unlocked(self.path, self.journal)
            if self._file is not None:
                self._file.close()
            self._file = fresh
        elif self._file is not None and self.journal.get_meta("file_generation") != self._file.generation:
            new = finished_rebuild(self._file, self.journal)
            if new is None:
                raise LocalIntegrityError(
                    f"the rebuilt file of {self.path} is gone; close the database and open it again, which "
                    "brings file and journal together"
                )
            self._file = new
        self._is_replacing = False

    def _count_staged(self) -> None:
        with self.journal.reading() as raw:
            count, size = raw.execute("SELECT count(*), coalesce(sum(length(value)), 0) FROM staged").fetchone()
        self._staged_keys, self._staged_bytes = count, size

    def keep(self, fetched: Iterable[Fetched]) -> None:
        """Notes values from the remote; many together are written to the Booklet file at a time."""
        for item in fetched:
            if item.key in self._damaged:
                self._damaged.discard(item.key)
                item = item._replace(replaces=True)
            self._fetched[item.key] = item
            self._fetched_bytes += len(item.value)
        if self._fetched_bytes > self._buffer_bytes:
            self._keep_fetched()

    def keep_once(self, fetched: Fetched) -> None:
        """Like `keep`, unless that value is noted already."""
        waiting = self._fetched.get(fetched.key)
        if waiting is None or waiting.digest != fetched.digest:
            self.keep([fetched])

    def index_epoch(self) -> int:
        """Returns a number that is another one once anything but the place of a value may have changed."""
        version = self.journal.version()
        if version != self._epoch_version:
            self._epoch += 1
            self._epoch_version = version
        return self._epoch

    def keep_now(self, fetched: Sequence[Fetched], epoch: int) -> None:
        """Writes values from the remote to the Booklet file at once, if lock and disk allow.

        Args:
            fetched: Values that the file lacked when `index_epoch` was what is given.
            epoch: That number. Where it is another one now, each is looked at again.
        """

        def work() -> None:
            if self.index_epoch() != epoch or self._fetched:
                self._fetched.update((item.key, item) for item in fetched)
                self._append(Overlay())
                return
            self._append(Overlay(), fetched)
            # Nothing but the places of these values has changed by that.
            self._epoch_version = self.journal.version()

        try:
            self.try_maintain(work)
        except LocalStorageError as error:
            _log.warning("%d fetched values were not kept: %s", len(fetched), error)

    def keep_large(self, fetched: Fetched) -> bool:
        """Writes a value that lies in another file to the Booklet file now; False when somebody else writes.

        Raises:
            LocalStorageError: The disk is full or failing; the last commit is intact.
        """

        def work() -> None:
            replaces = fetched.key in self._damaged
            self._fetched[fetched.key] = fetched._replace(replaces=replaces)
            try:
                self._append(Overlay())
            finally:
                # What it lies in is closed by the caller.
                self._fetched.pop(fetched.key, None)
            self._damaged.discard(fetched.key)

        return self.try_maintain(work)

    def _keep_fetched(self) -> None:
        """Writes fetched values if lock and disk allow; otherwise they are fetched again some day."""
        try:
            # What was written and is not committed stays so: a read may take place inside a transaction.
            self.try_maintain(lambda: self._append(Overlay()))
        except LocalStorageError as error:
            # A read must not fail because its copy can't be kept.
            _log.warning("%d fetched values were not kept: %s", len(self._fetched), error)
        self._fetched.clear()
        self._fetched_bytes = 0

    def try_maintain(self, work: Callable[[], object], wait_seconds: float = 0.0) -> bool:
        """Runs work that needs the lock in a session that reads; False when the lock is taken."""
        if self.writable:
            work()
            return True
        # It is locked here where an interrupt came in between.
        self.file.unlock()
        deadline = time.monotonic() + wait_seconds
        while (writer := try_open_locked(self.path)) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_POLL_SECONDS)
        try:
            self.file.close()
            self._file = writer
            self._file, journal = reconcile(writer, self.journal, self.report)
            self._use(journal)
            self._in_flux = False
            self._count_staged()
            work()
        except BaseException:
            # What the journal means may lie under another name, or in no file that is open here.
            self._is_replacing = True
            writer.close()
            if self._file is not None:
                self._file.close()
            self._end_replacing()
            raise
        self.file.unlock()
        return True

    def prune(self, keep: str = "1") -> int:
        """Rewrites the Booklet file without dead bytes; returns how many blocks it has less.

        These are the values that were replaced or deleted, and those that lost their copy.

        Args:
            keep: SQL over `entry`; entries for which it is false lose their local copy. Pending
                values are kept whatever it says.
        """
        self.commit(fold=True)
        dead = self.file.count_dead_blocks()
        return dead + self._rebuild(keep=f"(pending != 0) OR ({keep})")

    def is_unused(self) -> bool:
        """True of a pair in which nothing was ever written, and which stands on no remote commit.

        Such a pair is what a session leaves that dies while it makes one.
        """
        with self.journal.reading() as raw:
            used = raw.execute(
                "SELECT 1 FROM entry UNION ALL SELECT 1 FROM intent "
                "UNION ALL SELECT 1 FROM meta WHERE name IN ('base_seq', 'replace_remote') LIMIT 1"
            ).fetchone()
        return used is None and not self.overlay

    def become(self, header: bytes) -> None:
        """Makes an unused pair one of another database, whose header is given."""
        self._rebuild(header=header)

    def take_uuid(self, uuid: bytes) -> None:
        """Makes the pair one of the database of another uuid, in one step; all that it holds stays.

        Raises:
            LocalStorageError: There is no room for a second copy of the file. It can be called again.
        """
        if self.file.stands_behind is not None:
            self._rebuild()
        self._rebuild(header=header_with_uuid(self.file.header, uuid))

    # -- reading ---------------------------------------------------------------------------

    def entry(self, key: str) -> Entry | None:
        """Returns what the journal says of a key; None when it has never heard of it."""
        return find_entry(self.journal, key)

    def read_here(self, key: str) -> tuple[int, bytes] | None:
        """Returns timestamp and value of a key whose visible value lies intact in the Booklet file.

        None says nothing: `look` knows of every other place, and of damage.
        """
        place = find_place(self.journal, key)
        if place is None:
            return None
        timestamp_us, digest, offset_bytes, length_bytes = place
        value = self.file.read(offset_bytes, length_bytes)
        return (timestamp_us or 0, value) if digest_of(value) == digest else None

    def lookup(self, key: str) -> tuple[Entry | None, bytes | None]:
        """Returns a key's entry, None when a reader sees none, with its value if that is here.

        Beside a writer the bytes can move between the look at the entry and the look for them: then
        the entry has changed, and is looked at again.
        """
        entry = find_entry(self.journal, key)
        while entry is not None and entry.digest is not None:
            value = self.read(entry)
            if value is not None or self.writable:
                return entry, value
            again = find_entry(self.journal, key)
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
            value = self.file.read(entry.local_offset_bytes or 0, entry.local_length_bytes or 0)
            if digest_of(value) == digest:
                return value
            moved = self._read_where_it_lies_now(entry, digest)
            if moved is not None:
                return moved
        held = held_value(self.journal, entry.key, digest)
        return held if held is not None and digest_of(held) == digest else None

    def is_intact(self, entry: Entry) -> bool:
        """True when the value that a reader of this entry sees is on this machine, whatever its size."""
        if entry.digest is None or entry.local_digest != entry.digest:
            return self.read(entry) is not None
        region = self.file.region(entry.local_offset_bytes or 0, entry.local_length_bytes or 0)
        return digest_of_chunks(region.chunks()) == entry.digest or self.read(entry) is not None

    def waiting_value(self, key: str, digest: bytes) -> bytes | None:
        """Returns a value of that digest if it takes no look at the disk."""
        if digest == _EMPTY_DIGEST:
            return b""
        waiting = self._fetched.get(key)
        if waiting is None or waiting.digest != digest or not isinstance(waiting.value, bytes):
            return None
        return waiting.value

    def _follow_file(self) -> bool:
        """In a reader: goes over to the file that the journal now means; True when it is another."""
        if self.journal.get_meta("file_generation") == self.file.generation and self.file.is_current():
            return False
        self._is_replacing = True
        self._end_replacing()
        return True

    def _read_where_it_lies_now(self, entry: Entry, digest: bytes) -> bytes | None:
        """Reads a value again whose bytes are not at the place of an entry that may be out of date.

        The value is damaged only if its place is still that one: another thread may have written the key or
        rewritten the file since the entry was read, and so may a writer beside a reader.
        """
        followed = not self.writable and self._follow_file()
        now = find_entry(self.journal, entry.key)
        if now is None or now.local_digest != digest:
            return None
        if followed or _place_here(now) != _place_here(entry):
            value = self.file.read(now.local_offset_bytes or 0, now.local_length_bytes or 0)
            if digest_of(value) == digest:
                return value
        if not followed:
            self._damaged.add(entry.key)
        return None


def _place_here(entry: Entry) -> tuple[object, ...]:
    return entry.local_offset_bytes, entry.local_length_bytes


def iter_pages(journal: Journal, prefix: str, page_keys: int = 1000) -> Iterator[list[str]]:
    """Yields the visible keys with a prefix in pages, each from its own snapshot."""
    after = ""
    while page := keys_page(journal, after, prefix, page_keys):
        yield page
        after = page[-1]
