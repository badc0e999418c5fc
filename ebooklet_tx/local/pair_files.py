"""Files of a pair: opening them with and without the lock, making them, and removing them.

The invariant: a file that is made, or locked, is the one that its path names. Of two processes
that make one the faster wins, and neither truncates what the other has made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebooklet_tx.errors import LocalIntegrityError, LocalStorageError, LockTimeoutError, ReadOnlyError
from ebooklet_tx.local.booklet.file_header import new_header, stand_in_header
from ebooklet_tx.local.booklet.value_file import ValueFile, create_file, put_in_place
from ebooklet_tx.local.files.file_calls import REFUSED, fsync_folder, size_of, storage_errors
from ebooklet_tx.local.files.own_files import is_file, remove_own, remove_unfinished
from ebooklet_tx.local.files.rights import Rights
from ebooklet_tx.local.journal.integrity.lost_commits import check_unmarked
from ebooklet_tx.local.journal.journal import Journal, is_open_here, journal_path, side_files
from ebooklet_tx.local.rebuild import rebuild_path
from ebooklet_tx.values.serializers import resolve

_REPLACED_TRIES = 100
"""How often a reader looks for a file that a writer beside it keeps replacing."""

LOCK_POLL_SECONDS = 0.02

_FEW_BUCKETS = 11
"""Those of a file that stands in for another while that one is removed."""


def open_locked(path: Path, timeout_seconds: float) -> ValueFile | None:
    """Opens and locks the file that a path names; None when there is none."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        if size_of(path) is None:
            return None
        file = try_open_locked(path)
        if file is not None:
            return file
        if time.monotonic() >= deadline:
            raise LockTimeoutError(
                f"{path} is open for writing in another session; none let go within "
                f"{timeout_seconds:g} seconds; close it, or give a longer lock_timeout"
            )
        time.sleep(LOCK_POLL_SECONDS)


def try_open_locked(path: Path) -> ValueFile | None:
    """One try at locking the file that a path names; None when it is locked or was replaced."""
    try:
        file = ValueFile.open(path, writable=True)
    except LocalStorageError as error:
        if size_of(path) is None:
            return None
        if error.errno not in REFUSED:
            raise
        raise ReadOnlyError(f"{path} can't be opened for writing: {error}") from error
    try:
        if file.try_lock() and file.is_current():
            # Another session may have changed the header between our open and our lock.
            file.refresh()
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def open_unlocked(path: Path, journal: Journal) -> ValueFile:
    """Opens the file whose generation the journal means, also while it waits to be renamed."""
    waiting = rebuild_path(path)
    for _ in range(_REPLACED_TRIES):
        generation = journal.get_meta("file_generation")
        refusal: LocalStorageError | None = None
        for candidate in (path, *([waiting] if is_file(waiting) else []), path):
            try:
                file = ValueFile.open(candidate, writable=False)
            except LocalStorageError as error:
                # The next one may be the file; if none is, this one might have been.
                refusal = refusal if error.errno == errno.ENOENT else error
                continue
            if file.generation == generation:
                return file
            file.close()
        if journal.get_meta("file_generation") == generation:
            break
        # A writer beside has replaced the file in between.
    if refusal is not None:
        raise refusal
    raise LocalIntegrityError(f"{path} is not the file that its journal describes; open it with flag 'w'")


def check_wal_at_rest(path: Path) -> None:
    """Looks through a WAL that no mark vouches for, unless a writer has the lock.

    Raises:
        LostCommitsError: It has lost acknowledged commits.
    """
    location = journal_path(path)
    files = side_files(location)
    if not size_of(files.wal) or size_of(files.mark) or is_open_here(location):
        return
    with contextlib.closing(ValueFile.open(path, writable=False)) as file:
        if file.try_share():
            check_unmarked(location, files.wal, files.mark)


def create_pair_file(
    path: Path,
    value_serializer: Any,
    n_buckets: int,
    header: bytes | None,
    timeout_seconds: float,
    rights: Rights | None = None,
    *,
    set_aside: Callable[[], object],
) -> tuple[ValueFile, bool]:
    """Makes a new file under a temporary name and links it to its own, unless another process was faster.

    Args:
        path: Its own name.
        value_serializer: For a file without a header.
        n_buckets: Likewise.
        header: The header that it is to have.
        timeout_seconds: How long to wait for the lock where another process was faster.
        rights: Those that it is to have.
        set_aside: Sets a journal aside that lies there alone. It is called while no other session can make a
            pair under these names, whose journal it could be.

    Returns:
        The file at the path, locked, and whether it is the one that was made here.
    """
    serializer = resolve(value_serializer)
    model = header if header is not None else new_header(serializer.code, n_buckets)
    partial = _new_name(path)
    made = create_file(partial, model, rights=rights)
    try:
        with storage_errors(path, "create"):
            if size_of(journal_path(path)) is None:
                faster = not _link_if_free(partial, path)
            else:
                faster = not _link_behind_stand_in(made, path, set_aside)
            partial.unlink(missing_ok=True)
            fsync_folder(path.parent)
    except BaseException:
        made.close()
        raise
    if not faster:
        made.path = path
        return made, True
    made.close()
    file = open_locked(path, timeout_seconds)
    if file is None:
        raise comes_and_goes(path)
    return file, False


def comes_and_goes(path: Path) -> LocalStorageError:
    """Returns the error of a name under which other sessions keep making and removing files."""
    return LocalStorageError(0, f"{path} comes and goes; give another file_path")


def _new_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{time.monotonic_ns()}.new")


def _link_behind_stand_in(made: ValueFile, path: Path, set_aside: Callable[[], object]) -> bool:
    """Puts a new file in its place where a journal lies alone; False where another process was faster.

    As in `remove_pair`, an empty file of another database has the name first, so that dying in between never
    leaves the file beside a journal that could pass for its own.
    """
    partial, waiting = _new_name(path), _stand_in_path(path)
    with contextlib.closing(
        create_file(partial, stand_in_header(made.header, _FEW_BUCKETS), rights=made.rights())
    ) as stand_in:
        if not _link_if_free(partial, path):
            partial.unlink(missing_ok=True)
            return False
        stand_in.path = path
        try:
            made.path = made.path.replace(waiting)
            partial.unlink()
            set_aside()
            made.stands_behind = stand_in
            put_in_place(made)
        except BaseException:
            made.stands_behind = None
            if stand_in.is_named(path):
                path.unlink()
            waiting.unlink(missing_ok=True)
            raise
    return True


def _link_if_free(partial: Path, path: Path) -> bool:
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        # The faster process has removed it already.
        if size_of(path) is not None:
            return False
        raise
    return True


def _stand_in_path(path: Path) -> Path:
    """Returns the name of the file that takes a pair's name while it is removed; the lock's holder makes it."""
    return path.with_name(f"{path.name}.0-0.new")


def has_leftovers(file: ValueFile) -> bool:
    """Whether a second name, or what takes a pair's place, tells that a process died at work on its names."""
    return file.has_second_name() or size_of(_stand_in_path(file.path)) is not None


def remove_leftovers(file: ValueFile) -> None:
    """Removes what sessions left that died while they made this file, now that it is there."""
    with storage_errors(file.path, "remove what was left beside"):
        remove_unfinished(file.path)


def remove_pair(file: ValueFile) -> None:
    """Removes the pair of a locked file, whatever it holds; both are as they were where there is no room.

    An empty file that is locked takes its name until the journal is gone. So no other session can make a pair
    under these names meanwhile, and lose its journal. It is another database's: like a journal alone, one beside
    it is set aside and never adopted.
    """
    path, partial = file.path, _stand_in_path(file.path)
    header = stand_in_header(file.header, _FEW_BUCKETS)
    with storage_errors(path, "remove what was left beside"):
        partial.unlink(missing_ok=True)
    with contextlib.closing(create_file(partial, header, rights=file.rights())) as stand_in:
        try:
            stand_in.stands_behind = file
            put_in_place(stand_in)
        except BaseException:
            stand_in.stands_behind = None
            partial.unlink(missing_ok=True)
            raise
        with storage_errors(path, "remove"):
            _remove_beside(path)
            path.unlink()
            fsync_folder(path.parent)


def remove_made(file: ValueFile) -> None:
    """Removes the pair of a locked file that this session has made, and that holds nothing; needs no room.

    The file goes last: while it has its name, no other session makes a pair under it. Without its journal it is
    an empty database.
    """
    with storage_errors(file.path, "remove"):
        _remove_beside(file.path)
        file.path.unlink()
        fsync_folder(file.path.parent)
    file.close()


def _remove_beside(path: Path) -> None:
    """Removes a pair's journal, and a rebuild that waits; the caller holds the lock of the file at the path."""
    location = journal_path(path)
    remove_own(rebuild_path(path))
    for part in (*side_files(location), location):
        remove_own(part)
    fsync_folder(path.parent)
