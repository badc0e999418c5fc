"""One machine's half of a database: value file, journal and overlay behind one face.

Owns the overlay of uncommitted writes, and the life of a session on its files: opening, committing, closing. The
parts below it own the rest: `open_pair` the open files, `fetched_values` what waits to be kept, `reading` what is
read.

One file although long: it is the one face that the other rooms see, and hands on to its parts.

What changes the pair holds `mutex` by itself. A caller holds it where several uses belong together, and where it
touches `overlay`, `read_here` or `lookup`.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import LocalIntegrityError, LocalStorageError, ReadOnlyError
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.booklet.file_header import header_with_uuid
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.bounded_copies import BoundedCopies
from ebooklet_tx.local.commit import Fetched, FetchedColumns, stage
from ebooklet_tx.local.fetched_values import FetchedValues
from ebooklet_tx.local.journal.entries import Entry, find_entries, find_entry, stale_keys
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.remote_objects import drop_unused_objects
from ebooklet_tx.local.journal.staged import has_staged
from ebooklet_tx.local.open_by_lock import lock_and_open, open_to_read, release_after
from ebooklet_tx.local.open_pair import OpenPair
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.local.pair_files import remove_made
from ebooklet_tx.local.piece_cache import PieceCache
from ebooklet_tx.local.reading import LocalReading
from ebooklet_tx.local.recovery import RecoveryReport
from ebooklet_tx.records import digest_of
from ebooklet_tx.values.serializers import Serializer, resolve_stored

_log = logging.getLogger("ebooklet_tx")

STAGE_COMMIT_BYTES = 256 * 1024
"""A commit up to this size goes into the journal alone."""

STAGED_LIMIT_BYTES = 4 * 2**20
"""Staged values are moved into the Booklet file when they are more than this."""

STAGED_LIMIT_KEYS = 20_000


class LocalStore:
    """A locked (writer) or unlocked (reader) pair of value file and journal.

    Attributes:
        overlay: What the session wrote since its last commit.
        created: Whether this session made the file.
    """

    def __init__(
        self, path: Path, *, writable: bool, buffer_bytes: int = 2**22, report: RecoveryReport | None = None
    ) -> None:
        self.path = path
        self.overlay = Overlay()
        self.created = False
        self._pair = OpenPair(path, report or RecoveryReport(), writable=writable)
        self._fetched = FetchedValues(self._pair, max(buffer_bytes, 1))
        self._reading = LocalReading(self._pair, self._fetched)
        # Without a step between: this is done for each value that is read, and each key that is deleted.
        self.read_here = self._reading.read_here
        self.has_copy = self._reading.has_copy
        self._is_ended = False

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
            ending: Is given the step that closes both files, before they are opened.

        Raises:
            LocalMissingError: There is no file and `create` is False.
            LocalStorageError: The disk refuses, or the journal can't be used now; both are as they were.
            LockTimeoutError: Another session kept the lock.
        """
        store = cls(path, writable=True, buffer_bytes=buffer_bytes, report=report)
        if ending is not None:
            ending.add(store.abandon)
        try:
            store.created = lock_and_open(
                store._pair,
                create=create,
                start_anew=start_anew,
                value_serializer=value_serializer,
                n_buckets=n_buckets,
                timeout_seconds=timeout_seconds,
                header=header,
                replace_journal=replace_journal,
            )
        except BaseException:
            store.abandon()
            raise
        return store

    @classmethod
    def open_reader(cls, path: Path, *, buffer_bytes: int = 2**22, ending: Ending | None = None) -> LocalStore:
        """Opens an existing pair for reading; it is locked only for the moment of reconciling it.

        Raises:
            LocalMissingError: File or journal is missing, or the journal was never filled because its
                maker was killed; open a writer to make or adopt them.
            LocalIntegrityError: They don't belong together, or the journal is proven damaged; open a writer
                to set the journal aside.
            LostCommitsError: Acknowledged commits are missing; open a writer to set right what can be.
            LocalStorageError: The system refuses, now.

        Where nothing beside the file can be written, the journal is read into a copy of this session's own, and
        what is fetched is not kept.
        """
        store = cls(path, writable=False, buffer_bytes=buffer_bytes)
        if ending is not None:
            ending.add(store.abandon)
        try:
            open_to_read(store._pair)
        except BaseException as error:
            release_after(store._pair, error)
            raise
        return store

    def to_reader(self) -> LocalStore:
        """Gives the lock back and becomes a reader; nothing may be uncommitted."""
        self._pair.writable = False
        self.file.unlock()
        return self

    def close(self) -> None:
        """Commits, moves everything staged into the Booklet file, and closes both files.

        When it raises, both are closed all the same; what was committed before is intact. When it is
        interrupted, what was written goes into the journal alone. Twice is no error; where a second interrupt
        came in between, the second call finishes.
        """
        try:
            self._end_writing()
        except Exception:
            self._is_ended = True
            self.abandon()
            raise
        except BaseException:
            self._end_interrupted()
            raise
        self._is_ended = True
        self.abandon()

    def _end_writing(self) -> None:
        if self._is_ended or not self._pair.is_open:
            return
        if self.writable:
            self._commit_at_close()
            self._drop_unused_objects()
        elif self._fetched:
            self._fetched.write()
        self._keep_within()
        self._keep_read_times()
        self.keep_pieces()

    def _end_interrupted(self) -> None:
        try:
            if self.writable and self.overlay:
                stage(self.journal, self.overlay)
                self.overlay.forget()
        except (LocalStorageError, LocalIntegrityError) as error:
            lost = counted(len(self.overlay.operations), "write")
            _log.warning("lost %s to %s: %s", lost, self.path, error)
        self._is_ended = True
        self.abandon()

    def _commit_at_close(self) -> None:
        try:
            self.commit(fold=True)
        except LocalStorageError as error:
            if error.errno == errno.ESTALE and self.overlay and self.journal.is_current():
                # The file is not what it was, and the journal is: what the session holds goes with it otherwise.
                stage(self.journal, self.overlay)
                _log.warning("%s kept in %s", counted(len(self.overlay.operations), "change"), self.journal.path)
            raise

    def _drop_unused_objects(self) -> None:
        try:
            drop_unused_objects(self.journal, self.file.header.n_keys)
        except LocalStorageError as error:
            _log.warning("%s was not made smaller: %s", self.journal.path, error)

    def abandon(self) -> None:
        """Closes both files without committing anything."""
        self._pair.release()

    def undo_creation(self) -> None:
        """Closes both files, and removes them where this session has made them; for a failed opening."""
        file = self._pair.open_file
        if self.created and file is not None and file.locked:
            if self._pair.is_open:
                self.journal.close()
            remove_made(file)
        self.abandon()

    def forget_in_child(self) -> None:
        """In a forked child: drops what belongs to the parent, without touching the disk."""
        self._pair.forget_in_child()

    def limit(self, max_bytes: int) -> None:
        """Keeps the Booklet file within a bound from now on, as far as what is pending allows."""
        if self._pair.is_private:
            return
        bound = BoundedCopies(self._pair, max_bytes)
        self._fetched.use_bound(bound)
        self._reading.note_reads(bound.note)
        self.read_here = self._reading.read_here_and_note
        self._keep_within()

    def _keep_within(self) -> None:
        """Drops copies where the file exceeds its bound, if lock and disk allow."""
        bound = self._fetched.bound
        if bound is None or self.file.state().length_bytes <= bound.max_bytes:
            return
        try:
            self.try_maintain(bound.keep_within)
        except LocalStorageError as error:
            _log.warning("%s was not trimmed: %s", self.path, error)

    def _keep_read_times(self) -> None:
        """Notes in the journal which copies were read last, if lock and disk allow."""
        bound = self._fetched.bound
        if bound is None or not bound.has_news:
            return
        try:
            self.try_maintain(bound.save)
        except LocalStorageError as error:
            _log.warning("what was read last of %s was not noted: %s", self.path, error)

    def check_keeps(self) -> None:
        """Makes sure that values can be kept on this machine.

        Raises:
            ReadOnlyError: Nothing beside the file can be written.
        """
        if self._pair.is_private:
            raise ReadOnlyError(
                f"no value can be kept in {self.path}: {self.path.parent} can't be written by this user; values "
                "can be read all the same; to keep them, give a file_path in a folder that can be written",
                path=self.path,
            )

    def has_room_for(self, length_bytes: int) -> bool:
        """Whether a value of this size can be kept at all."""
        bound = self._fetched.bound
        return bound is None or length_bytes <= bound.max_bytes // 2

    # -- its parts -------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._pair.writable

    @property
    def report(self) -> RecoveryReport:
        """What opening the pair found and did."""
        return self._pair.report

    @property
    def mutex(self) -> threading.RLock:
        return self._pair.mutex

    @property
    def file(self) -> ValueFile:
        return self._pair.file

    @property
    def journal(self) -> Journal:
        return self._pair.journal

    def serializer(self, given: Any) -> Serializer:
        """Returns the serializer that the file names; `given` is needed for a class of the user's."""
        return resolve_stored(self.file.header.value_serializer_code, given, str(self.path))

    # -- uncommitted writes ----------------------------------------------------------------

    def written(self, prefix: str = "", after: str = "") -> dict[str, bytes | None]:
        """Returns the uncommitted value, None if deleted, of each key behind `after` that has a prefix."""
        with self.mutex:
            return {
                key: value
                for key, (value, _) in self.overlay.operations.items()
                if key > after and key.startswith(prefix)
            }

    def written_of(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """Returns the uncommitted value, None if deleted, of those keys that have one."""
        with self.mutex:
            operations = self.overlay.operations
            return {key: operations[key][0] for key in keys if key in operations}

    # -- committing ------------------------------------------------------------------------

    def commit(self, *, fold: bool = False) -> None:
        """Makes the overlay durable; with `fold`, moves all that is staged into the Booklet file too.

        When it raises, the last commit is intact and the overlay is unchanged, so that it can be
        called again.
        """
        if not self.writable:
            raise ReadOnlyError(f"{self.path} is open for reading; open it with flag 'w'")
        with self.mutex:
            self._commit(fold=fold)

    def _commit(self, *, fold: bool) -> None:
        pair = self._pair
        pair.check_names()
        small = not fold and self.overlay.waiting_bytes <= STAGE_COMMIT_BYTES
        if self.overlay and small:
            stage(self.journal, self.overlay, pair.pieces)
            pair.staged_bytes += self.overlay.waiting_bytes
            pair.staged_keys += len(self.overlay.operations)
            self.overlay.forget()
        is_full = pair.staged_bytes > STAGED_LIMIT_BYTES or pair.staged_keys > STAGED_LIMIT_KEYS
        if self.overlay or (fold and self._unfolded()):
            self._fetched.append_with(self.overlay)
        elif is_full:
            self._unload_journal()

    def fold_committed(self) -> None:
        """Brings the Booklet file to what a reader sees, if the disk allows; all of it is durable already."""
        with self.mutex:
            if not self.overlay and self._unfolded():
                self._unload_journal()

    def _unload_journal(self) -> None:
        """Moves what is staged into the Booklet file; it is durable already, so this may fail."""
        try:
            self._fetched.append_with(self.overlay)
        except (LocalStorageError, LocalIntegrityError) as error:
            staying = counted(self._pair.staged_keys, "value stays", "values stay")
            _log.warning("%s in the journal for now: %s", staying, error)

    def _unfolded(self) -> bool:
        return bool(has_staged(self.journal) or self._fetched or self._pair.in_flux or stale_keys(self.journal))

    # -- values from the remote --------------------------------------------------------------

    def keep(self, fetched: Iterable[Fetched]) -> None:
        """Notes values from the remote; many together are written to the Booklet file at a time."""
        with self.mutex:
            self._fetched.keep(fetched)

    def keep_once(self, fetched: Fetched) -> None:
        """Like `keep`, unless that value is noted already."""
        with self.mutex:
            self._fetched.keep_once(fetched)

    def write_fetched(self) -> None:
        """Writes values from the remote that wait, if lock and disk allow; they are right for the base alone."""
        with self.mutex:
            if self._fetched:
                self._fetched.write()

    def keep_now(self, fetched: FetchedColumns, epoch: int) -> None:
        """Writes values from the remote at once, if lock and disk allow; see `FetchedValues.keep_now`."""
        with self.mutex:
            self._fetched.keep_now(fetched, epoch)

    def keep_large(self, fetched: Fetched) -> bool:
        """Writes a value that lies in another file now; False when another session has the lock.

        Raises:
            LocalStorageError: The disk is full or failing; the last commit is intact.
        """
        with self.mutex:
            return self._fetched.keep_large(fetched)

    def index_epoch(self) -> int:
        """Returns a number that changes when anything but the place of a value may have changed."""
        with self.mutex:
            return self._fetched.index_epoch()

    @property
    def pieces(self) -> PieceCache:
        """Pieces of the remote's index, to be asked before the store is."""
        return self._pair.pieces

    def keep_pieces(self) -> None:
        """Writes pieces that wait to the journal, if the lock allows; otherwise the oldest are dropped."""
        if not self.pieces.is_waiting:
            return

        def work() -> None:
            with self.journal.transaction() as transaction:
                self.pieces.write(transaction)

        with self.mutex:
            try:
                if not self.try_maintain(work):
                    self.pieces.drop_oldest()
            except LocalStorageError as error:
                _log.warning("pieces of the remote's index were not kept: %s", error)
                self.pieces.drop_oldest()

    # -- the pair as a whole -----------------------------------------------------------------

    def try_maintain(self, work: Callable[[], object], wait_seconds: float = 0.0) -> bool:
        """Runs work that needs the lock, in a session that reads too; False when another has the lock."""
        with self.mutex:
            return self._pair.try_maintain(work, wait_seconds)

    def prune(self, keep: str = "1") -> int:
        """Rewrites the Booklet file without dead bytes; returns how many blocks it has less.

        These are the values that were replaced or deleted, and those that lost their copy.

        Args:
            keep: SQL over `entry`; entries for which it is false lose their local copy. Pending
                values are kept whatever it says.
        """
        self.commit(fold=True)
        dead = self.file.count_dead_blocks()
        return dead + self._pair.rebuild(keep=f"(pending != 0) OR ({keep})")

    def prune_to(self, max_bytes: int) -> int:
        """Likewise, and drops the copies that were read longest ago until the file is no larger than that.

        Args:
            max_bytes: What is pending stays even where it alone exceeds this.
        """
        self.commit(fold=True)
        dead = self.file.count_dead_blocks()
        bound = self._fetched.bound or BoundedCopies(self._pair, max_bytes)
        return dead + bound.apply(bound.plan(max_bytes))

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
        self._pair.rebuild(header=header)

    def take_uuid(self, uuid: bytes) -> None:
        """Makes the pair one of the database of another uuid, in one step; all that it holds stays.

        Raises:
            LocalStorageError: There is no room for a second copy of the file. It can be called again.
        """
        if self.file.stands_behind is not None:
            self._pair.rebuild()
        self._pair.rebuild(header=header_with_uuid(self.file.header, uuid))

    # -- reading ---------------------------------------------------------------------------

    def entry(self, key: str) -> Entry | None:
        """Returns what the journal says of a key; None when it has never heard of it."""
        return find_entry(self.journal, key)

    def lookup(self, key: str) -> tuple[Entry | None, bytes | None]:
        """Returns a key's entry, None when a reader sees none, with its value if that is here."""
        return self._reading.lookup(key)

    def read(self, entry: Entry) -> bytes | None:
        """Returns the value that a reader of this entry sees, if an intact copy is on this machine."""
        with self.mutex:
            return self._reading.read(entry)

    def is_intact(self, entry: Entry) -> bool:
        """True when the value that a reader of this entry sees is on this machine, whatever its size."""
        with self.mutex:
            return self._reading.is_intact(entry)

    def read_copy(self, key: str, digest: bytes) -> bytes | None:
        """Returns the value of that digest from the Booklet file's copy of a key, if it is intact."""
        with self.mutex:
            entry = self.entry(key)
            if entry is None or entry.local_digest != digest:
                return None
            value = self._reading.read_at(entry)
        return value if digest_of(value) == digest else None

    def read_copies(self, wanted: Mapping[str, bytes]) -> Iterator[bytes | None]:
        """Likewise for many keys, each with its digest, in their order; one value is in memory at once."""
        entries = find_entries(self.journal, list(wanted))
        for key, digest in wanted.items():
            entry = entries.get(key)
            value = None
            if entry is not None and entry.local_digest == digest:
                with self.mutex:
                    value = self._reading.read_at(entry)
                if digest_of(value) != digest:
                    # It is damaged, or was moved since.
                    value = self.read_copy(key, digest)
            yield value

    def waiting_value(self, key: str, digest: bytes) -> bytes | None:
        """Returns a value of that digest where no disk has to be read for it."""
        return self._reading.waiting_value(key, digest)
