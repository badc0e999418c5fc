"""The value file: a Booklet whose appends are guarded, checked and fsynced.

Owns the Booklet file, the exclusive lock on it and the guard in its first 16 bytes. The invariant:
while the file's index or blocks are being changed, the guard stands in place of the magic, and it
carries the number of the append that put it there. The journal records that number in the same
transaction that records what the append wrote. So a guard whose number the journal knows means
"complete, take the guard off", and any other guard means "rebuild from the journal", whatever the
rest of the file looks like. (A comparison of file lengths can't decide this: an append of deletes
alone changes pointers and no length.) Value bytes below the recorded length are never moved or
overwritten, so they may be read by `os.pread` while the guard stands.

A rebuilt file carries a new random generation in spare bytes of Booklet's header, so that an
offset is never used in a file that it was not recorded for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import (
    LocalIntegrityError,
)
from ebooklet_tx.local.booklet.block_writer import (
    ShortAppendError,
    Value,
    append_blocks,
    write_empty_index,
)
from ebooklet_tx.local.booklet.file_header import read_header, with_magic
from ebooklet_tx.local.booklet.hash_index import ChainDamageError
from ebooklet_tx.local.booklet.layout import (
    APPEND_NUMBER_BYTES,
    APPEND_NUMBER_OFFSET,
    GENERATION_BYTES,
    GENERATION_OFFSET,
    GUARD_PREFIX,
    HEADER_BYTES,
    MAGIC,
    N_BUCKETS_OFFSET,
    Header,
    Scan,
    count_dead_blocks,
    emptied_header,
    parse_header,
    scan_file,
)
from ebooklet_tx.local.booklet.lockable_file import LockableFile, lock_new
from ebooklet_tx.local.files.file_calls import fsync_folder, read_at, storage_error, storage_errors, write_all
from ebooklet_tx.local.files.file_region import FileRegion
from ebooklet_tx.local.files.own_files import create_own, open_file
from ebooklet_tx.local.files.rights import Rights, rights_of

_UNCHECKED_READ_BYTES = 2**20

_open_files: weakref.WeakSet[ValueFile] = weakref.WeakSet()


class IndexDamagedError(LocalIntegrityError):
    """Booklet's index leads astray: the file has to be rebuilt from the journal before an append."""

    kind = "index_damaged"


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file is as it was left: recorded in the journal after each append."""

    length_bytes: int
    mtime_ns: int
    inode: int


def new_append_number() -> bytes:
    """Returns a number that no other append has."""
    return secrets.token_bytes(APPEND_NUMBER_BYTES)


class ValueFile(LockableFile):
    """An open Booklet file: lock, guarded append, positional read.

    `stands_behind` is the old file that still has the name for which a rebuilt one waits; it stays
    locked until then, and `recorded` is how the journal knows the new one. Not thread-safe; its
    session's mutex serialises writes. `read` may run beside anything.
    """

    def __init__(self, path: Path, opened: Descriptor, *, writable: bool) -> None:
        super().__init__(path, opened)
        self.writable = writable
        self.stands_behind: ValueFile | None = None
        self.recorded: FileState | None = None
        self.refresh()
        _open_files.add(self)

    # -- opening ---------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path, *, writable: bool) -> ValueFile:
        """Opens an existing file without locking it.

        Raises:
            UnsupportedFormatError: It is no Booklet of str keys and timestamps, or no file at all.
            LocalStorageError: It is a link, or the system refuses.
        """
        opened = Descriptor()
        try:
            open_file(opened, path, writable=writable)
            return cls(path, opened, writable=writable)
        except BaseException:
            opened.close()
            raise

    def refresh(self) -> None:
        """Reads the header again."""
        self.header = read_header(self._fd, self.path)

    @property
    def generation(self) -> bytes:
        return self.header.generation

    def close(self) -> None:
        """Unlocks and closes; twice is no error."""
        if self.stands_behind is not None:
            self.stands_behind.close()
        super().close()

    # -- reading ---------------------------------------------------------------------------

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Returns the bytes at an offset; fewer when the file ends before."""
        if length_bytes > _UNCHECKED_READ_BYTES:
            # A damaged length is not to be allocated.
            length_bytes = max(0, min(length_bytes, self.state().length_bytes - offset_bytes))
        try:
            data = os.pread(self._fd, length_bytes, offset_bytes)
            return data if len(data) == length_bytes else read_at(self._fd, length_bytes, offset_bytes)
        except OSError as error:
            raise storage_error(error, self.path, "read") from error

    def region(self, offset_bytes: int, length_bytes: int) -> FileRegion:
        """Returns a value as a part of this file, to be read a piece at a time while the file is open."""
        return FileRegion(self._fd, offset_bytes, length_bytes, self.path)

    def scan(self) -> Scan:
        """Walks over the whole file and returns all that it holds."""
        with storage_errors(self.path, "read"):
            return scan_file(self._fd, self.header)

    def count_dead_blocks(self) -> int:
        """Counts the blocks of values that were replaced or deleted, up to the first damage."""
        with storage_errors(self.path, "read"):
            return count_dead_blocks(self._fd, self.header, os.fstat(self._fd).st_size)

    def state(self) -> FileState:
        """Returns size, mtime and inode as they are now."""
        with storage_errors(self.path, "look at"):
            stat = os.fstat(self._fd)
        return FileState(stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def rights(self) -> Rights:
        """Returns who may do what with the file."""
        with storage_errors(self.path, "look at"):
            return rights_of(self._fd)

    def guard_number(self) -> bytes | None:
        """Returns the number of the append whose guard stands, or None when none does."""
        with storage_errors(self.path, "read"):
            mark = read_at(self._fd, 16, 0)
        return mark[8:16] if mark[:8] == GUARD_PREFIX else None

    # -- writing ---------------------------------------------------------------------------

    def append(
        self,
        number: bytes,
        deletes: Iterable[str],
        sets: Iterable[tuple[str, int, Value]],
        *,
        expected_keys: int = 0,
    ) -> list[int]:
        """Guards the file, applies deletes, writes blocks for the sets, checks and fsyncs.

        Afterwards the guard still stands: the caller records the result in the journal, then calls
        `release`. When this raises, the guard stands and the journal's last state is intact.

        Args:
            number: The append's number, from `new_append_number`.
            deletes: Keys whose block is to be dead; one that is not there is passed over.
            sets: (key, timestamp in microseconds, encoded value); `""` is the metadata. A key that has a
                block is to be among the deletes.
            expected_keys: About how many sets there are, for the size of the hash index.

        Returns:
            The offsets of the values, in the order of `sets`.

        Raises:
            LocalStorageError: The disk is full or failing.
            LocalIntegrityError: What was written did not arrive.
            IndexDamagedError: Booklet's index is damaged.
        """
        before = self.state().length_bytes
        removed = set(deletes)
        try:
            with storage_errors(self.path, "append to"):
                write_all(self._fd, GUARD_PREFIX + number, 0)
                os.fsync(self._fd)
                # It stays when the guard goes: a journal that knows another one is of another moment.
                write_all(self._fd, number, APPEND_NUMBER_OFFSET)
                header = self._present_header()
                offsets = append_blocks(self._fd, header, sets, expected_keys=expected_keys, removed=removed)
                self.header = self._present_header()
                os.fsync(self._fd)
        except ChainDamageError as error:
            raise IndexDamagedError(
                f"the hash index of {self.path} is damaged: {error}; the last commit is intact, open the "
                "file again"
            ) from error
        except ShortAppendError as error:
            raise LocalIntegrityError(
                f"{self.path}: an append did not arrive whole: {error}; the last commit is intact, "
                "open the file again"
            ) from error
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, before)
            raise
        return offsets

    def release(self, state: FileState | None = None) -> None:
        """Takes the guard off and leaves the modification time that the journal recorded."""
        with storage_errors(self.path, "write"):
            write_all(self._fd, MAGIC, 0)
            if state is not None:
                os.utime(self._fd, ns=(state.mtime_ns, state.mtime_ns))

    def make_durable(self) -> None:
        """Fsyncs the file and its name: what another program left in them may be in its cache alone.

        Raises:
            LocalStorageError: The disk is failing; nothing was changed.
        """
        with storage_errors(self.path, "sync"):
            os.fsync(self._fd)
            fsync_folder(self.path.parent)

    def renew_generation(self) -> None:
        """Marks the file as another one than any that was recorded, durably."""
        with storage_errors(self.path, "write"):
            write_all(self._fd, secrets.token_bytes(GENERATION_BYTES), GENERATION_OFFSET)
            os.fsync(self._fd)
        self.refresh()

    def state_to_record(self) -> FileState:
        """Returns the state that `release` will leave behind, for the journal's transaction.

        The time lies a random bit before the real one: another program that changes the file
        within the same tick of the file system's clock then still leaves another time.
        """
        state = self.state()
        return FileState(state.length_bytes, state.mtime_ns - 1 - secrets.randbelow(1000), state.inode)

    def _present_header(self) -> Header:
        """Reads the header behind the guard."""
        header = parse_header(read_at(self._fd, HEADER_BYTES, 0))
        if header is None:
            raise LocalIntegrityError(f"{self.path}: the header is gone after an append; run recover on it")
        return with_magic(header, self.header)


def create_file(path: Path, header: bytes, *, rights: Rights | None = None) -> ValueFile:
    """Makes a new, empty, locked Booklet, durable when it returns.

    Args:
        path: A name that no other process uses; a file that is there is replaced.
        header: 200 bytes that have the uuid, the serializers and the number of buckets that it is to have.
        rights: Those of the file in whose place it is to be put; None for those that the system gives.
    """
    opened = Descriptor()
    try:
        create_own(opened, path, rights)
        fd = opened.number
        lock_new(fd, path)
        with storage_errors(path, "write"):
            # With a generation of its own from the first byte: unfinished, it must not pass for its model.
            write_all(fd, emptied_header(header, secrets.token_bytes(GENERATION_BYTES)), 0)
            write_empty_index(fd, HEADER_BYTES, int.from_bytes(header[N_BUCKETS_OFFSET:][:4], "little"))
            os.fsync(fd)
        made = ValueFile(path, opened, writable=True)
        made.note_locked()
    except BaseException:
        opened.close()
        raise
    return made


def put_in_place(new: ValueFile) -> None:
    """Renames a finished new file over the one that it stands behind, durably; closes that one.

    When it raises it can be called again. The old inode gets a guard first: a plain booklet that has
    it open and waits for its lock then refuses it instead of writing into a file that has no name any
    more.
    """
    old = new.stands_behind
    if old is None:
        return
    with storage_errors(old.path, "replace"):
        if new.guard_number() is not None:
            new.release(new.recorded)
        if new.path != old.path:
            if old.guard_number() is None:
                write_all(old.fd, GUARD_PREFIX + new_append_number(), 0)
            # A rename that was said to have failed may have taken place; so may one that was interrupted.
            if not new.is_named(old.path):
                new.path.replace(old.path)
            new.path = old.path
        fsync_folder(old.path.parent)
    old.close()
    new.stands_behind = None


def _forget_all_in_child() -> None:
    for file in list(_open_files):
        file.forget_in_child()


os.register_at_fork(after_in_child=_forget_all_in_child)

__all__: Sequence[str] = [
    "APPEND_NUMBER_BYTES",
    "FileState",
    "IndexDamagedError",
    "ValueFile",
    "create_file",
    "new_append_number",
    "put_in_place",
]
