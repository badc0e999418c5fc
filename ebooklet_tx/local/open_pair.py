"""A Booklet file and its journal, open together.

Owns both while they are open, and knows whether an append may have left the guard in the file. The invariant: the
file is the one that the journal means. Where an append or a replacement was cut short, the file that the journal
means is found again before anything is read or written.

Only a session that holds the file's lock changes file or journal; one without it takes the lock for a moment.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ebooklet_tx.errors import LetGoError, LocalIntegrityError, LocalStorageError
from ebooklet_tx.local.booklet.value_file import FileState, IndexDamagedError, ValueFile, put_in_place
from ebooklet_tx.local.commit import NOTHING_FETCHED, Fetched, FetchedColumns, append
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.staged import count_staged
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.local.pair_files import LOCK_POLL_SECONDS, open_unlocked, try_open_locked
from ebooklet_tx.local.piece_cache import PieceCache
from ebooklet_tx.local.rebuild import finished_rebuild, rebuild
from ebooklet_tx.local.recovery import RecoveryReport, reconcile, report_rebuild

_log = logging.getLogger("ebooklet_tx")


class OpenPair:
    """An open value file and its journal.

    Attributes:
        path: The Booklet file's path.
        writable: Whether the session holds the file's lock from open to close.
        report: What opening it found and did.
        mutex: The session's; the journal uses the same.
        pieces: Pieces of the remote's index that the journal keeps.
        is_private: Whether the journal is a copy of this session's own, as the folder can't be written.
        in_flux: Whether the guard may be in the file.
        staged_keys: How many values wait in the journal for the Booklet file.
        staged_bytes: How large they are together.
    """

    def __init__(self, path: Path, report: RecoveryReport, *, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self.report = report
        self.mutex = threading.RLock()
        self.is_private = False
        self.in_flux = False
        self.staged_keys = 0
        self.staged_bytes = 0
        self._file: ValueFile | None = None
        self._journal: Journal | None = None
        self.pieces = PieceCache()
        self._is_replacing = False

    # -- what is open ----------------------------------------------------------------------

    @property
    def file(self) -> ValueFile:
        if self._is_replacing:
            # In its turn: the thread that replaces it holds the mutex, and may read from the file by then.
            with self.mutex:
                if self._is_replacing:
                    self._end_replacing()
        if self._file is None:
            raise LetGoError(0, f"{self.path} is not open; open the database again", path=self.path)
        return self._file

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            raise LetGoError(0, f"{self.path} is not open; open the database again", path=self.path)
        return self._journal

    @property
    def is_open(self) -> bool:
        """Whether a journal is open."""
        return self._journal is not None

    @property
    def open_file(self) -> ValueFile | None:
        """The file, where one is open."""
        return self._file

    def use_file(self, file: ValueFile | None) -> ValueFile | None:
        """Owns a file from now on."""
        self._file = file
        return file

    def use_journal(self, journal: Journal) -> None:
        """Owns a journal from now on."""
        journal.mutex = self.mutex
        self._journal = journal
        self.pieces.use(journal)

    def release(self) -> None:
        """Closes both without committing anything; twice is no error."""
        try:
            if self._journal is not None:
                self._journal.close()
                self._journal = None
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def forget_in_child(self) -> None:
        """In a forked child: drops what belongs to the parent, without touching the disk."""
        if self._file is not None:
            self._file.forget_in_child()
        if self._journal is not None:
            self._journal.forget_in_child()
        self._file = None
        self._journal = None

    # -- one sound state -------------------------------------------------------------------

    def reconcile(self, file: ValueFile) -> None:
        """Brings a locked file and the journal to one sound state, and owns what comes of it."""
        self._file, journal = reconcile(file, self.journal, self.report)
        self.use_journal(journal)
        self.staged_keys, self.staged_bytes = count_staged(journal)

    def check_names(self) -> None:
        """Checks that what is about to be committed can be found again under the pair's names.

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

    def _check_journal_is_there(self) -> None:
        """Checks in a reader that the locked file's journal is the one that it reads.

        Raises:
            LocalStorageError: A session with flag "n" has made another pair, or the journal was set aside. What
                is known here says nothing of what lies there now, and does not belong there.
        """
        if not self.journal.is_current():
            raise LocalStorageError(
                errno.ESTALE,
                f"{self.path} was replaced while it was open for reading, or its journal was; this session still "
                "reads what was there before, and can't move on or keep anything: close it, and open it again",
            )

    def append(
        self, overlay: Overlay, fetched: Iterable[Fetched] = (), absent: FetchedColumns = NOTHING_FETCHED
    ) -> None:
        """Commits an overlay, and all that is staged, into the Booklet file and the journal.

        Args:
            overlay: What was written.
            fetched: Values from the remote; those that are still current, and have no copy in the file, are kept.
            absent: More of them, of which the caller knows both.
        """
        fetched = list(fetched)
        if self.in_flux:
            self._end_flux()
        self.in_flux = True
        try:
            released = append(self.file, self.journal, overlay, fetched, absent, self.pieces)
        except IndexDamagedError as error:
            _log.warning("%s", error)
            self.rebuild()
            self.in_flux = True
            released = append(self.file, self.journal, overlay, fetched, absent, self.pieces)
        self.in_flux = not released
        self.staged_bytes = self.staged_keys = 0

    def _end_flux(self) -> None:
        """Takes the guard off where the journal has what the append wrote; otherwise rebuilds the file."""
        file, guard, facts = self.file, self.file.guard_number(), self.journal.all_meta()
        same_file = file.stands_behind is None and facts.get("file_generation") == file.generation
        if same_file and guard is None:
            # The append did not get as far as changing the file.
            self.in_flux = False
        elif same_file and guard == facts.get("applied_append"):
            file.release(FileState(0, int(facts["file_mtime_ns"]), 0))
            self.in_flux = False
        else:
            self.rebuild()

    def rebuild(
        self,
        keep: str = "1",
        header: bytes | None = None,
        *,
        keys: Sequence[str] | None = None,
        n_buckets: int | None = None,
    ) -> int:
        """Replaces the file by a rebuilt one; returns how many local copies were dropped.

        When it raises, the journal's last state is intact and the session continues with the file that
        the journal means, which may still have to get its name.

        Args:
            keep: SQL over `entry`; entries for which it is false lose their local copy.
            header: For the new file, if it is to be another database's.
            keys: The only keys whose copies stay, in the order in which they are written; None for all.
            n_buckets: How many hash buckets the new file has; None for as many as the old one.
        """
        dropped = 0
        old = self.file
        self.in_flux = True
        if old.stands_behind is None:
            self._is_replacing = True
            self._file, outcome = rebuild(
                old, self.journal, keep=keep, keys=keys, n_buckets=n_buckets, header=header
            )
            self._is_replacing = False
            report_rebuild(outcome, self.report)
            dropped = outcome.dropped
        put_in_place(self.file)
        self.in_flux = False
        return dropped

    def follow_file(self) -> bool:
        """In a reader: changes to the file that the journal now means; True when it is another."""
        if self.is_private:
            # The copy is of this file, whatever takes its name.
            return False
        if self.journal.get_meta("file_generation") == self.file.generation and self.file.is_current():
            return False
        self._is_replacing = True
        self._end_replacing()
        return True

    def _end_replacing(self) -> None:
        """Changes to the file that the journal means, where replacing the old one was cut short."""
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

    def try_maintain(self, work: Callable[[], object], wait_seconds: float = 0.0) -> bool:
        """Runs work that needs the lock, in a session that reads too; False when another has the lock.

        A session with a journal of its own needs none: it writes to nothing else.

        Raises:
            LocalStorageError: Another session has replaced the pair, or the journal is gone; nothing was changed.
        """
        if self.writable or self.is_private:
            work()
            return True
        # An interrupt may have left it locked.
        self.file.unlock()
        deadline = time.monotonic() + wait_seconds
        while (writer := try_open_locked(self.path)) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_POLL_SECONDS)
        try:
            self._check_journal_is_there()
        except BaseException:
            writer.close()
            raise
        try:
            self.file.close()
            self._file = writer
            self.reconcile(writer)
            self.in_flux = False
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
