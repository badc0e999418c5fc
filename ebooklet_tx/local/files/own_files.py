"""The files that this package makes beside a Booklet file, and the one way to make and remove them.

Owns their names. The invariants: a file comes into being where nothing is (`O_EXCL`), never through a link,
and with no more rights than the Booklet has; what is opened is a file, and no link, pipe or device; and only
a file with a name of ours is ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.errors import InvalidArgumentError, LocalStorageError, UnsupportedFormatError
from ebooklet_tx.local.files.file_calls import fsync_folder, read_at, storage_errors, write_all
from ebooklet_tx.local.files.file_region import CHUNK_BYTES
from ebooklet_tx.local.files.rights import Rights, give, narrow, rights_of

_log = logging.getLogger("ebooklet_tx")

JOURNAL_SUFFIX = ".journal"

PUT_BACK = (
    "its journal is here, and may hold changes that were not pushed: put the file back, as from a backup; "
    "without one, remove what is left of it and open with flag 'c', which keeps the journal under another name "
    "and copies the remote"
)
"""The way out where the file of a journal is gone or cut off."""

_OWN_SUFFIX = re.compile(
    r"\.journal(\.aside-(clean|\d+)(-wal)?|\.before-\w+(\.partial)?)?|\.rebuild|\.(damaged|older)-\d+|\.\d+-\d+\.new"
)
_UNFINISHED_SUFFIX = re.compile(r"\.\d+-\d+\.new")
_LONGEST_SUFFIX_BYTES = len(".journal.aside-1234567890123456-journal")
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4095

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def local_path(file_path: Any) -> Path:
    """Returns the absolute path of a local file, behind a link if it is one.

    Raises:
        InvalidArgumentError: It is no path, or one too long.
        LocalStorageError: It can't be looked at.
    """
    try:
        path = os.fspath(file_path)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidArgumentError(f"file_path must be the path of a local file, not {file_path!r}")
    return usable_path(Path(path).absolute())


def usable_path(path: Path) -> Path:
    """Returns the path of the file that a path names, behind a link if it is one.

    Raises:
        InvalidArgumentError: The name is too long for the names that are made of it.
        LocalStorageError: It can't be looked at; or a journal lies beside the link instead of beside the file.
    """
    _check_length(path)
    with storage_errors(path, "look at"):
        if not path.is_symlink():
            return path
        # Of a link that leads in a circle this is the link, which is refused when it is opened.
        target = Path(os.path.realpath(path))
        _check_length(target)
        stray = path.with_name(path.name + JOURNAL_SUFFIX)
        journal = target.with_name(target.name + JOURNAL_SUFFIX)
        if stray != journal and stray.is_file() and not journal.exists():
            raise LocalStorageError(
                errno.EEXIST,
                f"{path} is a link to {target}, whose journal {stray.name} lies beside the link; nothing was "
                f"changed: move it to {journal}, or away if it belongs to another file",
            )
    return target


def _check_length(path: Path) -> None:
    name_bytes = len(os.fsencode(path.name))
    room = min(
        _MAX_NAME_BYTES - name_bytes - _LONGEST_SUFFIX_BYTES,
        _MAX_PATH_BYTES - len(os.fsencode(path)) - _LONGEST_SUFFIX_BYTES,
    )
    if room < 0:
        raise InvalidArgumentError(
            f"the name of the local file is {-room} bytes too long, as the names of its journal and of what is "
            f"kept beside it are made of it; give a shorter one than {path.name[:60]!r}..."
        )


def open_file(opened: Descriptor, path: Path, *, writable: bool) -> None:
    """Opens an existing file, and nothing but a file; it never waits, as opening a pipe does.

    Raises:
        UnsupportedFormatError: It is a folder, a pipe, a socket or a device.
        LocalStorageError: It is a link; or the system refuses.
    """
    with storage_errors(path, "open"):
        # Before it is opened, too: opening a device can have an effect.
        _check_kind(os.lstat(path), path)
        opened.open(path, os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_RDWR if writable else os.O_RDONLY))
        _check_kind(os.fstat(opened.number), path)


def check_no_link(path: Path) -> None:
    """Makes sure that a file with a name of ours is a file, or is not there.

    Raises:
        UnsupportedFormatError, LocalStorageError: It is something else.
    """
    with storage_errors(path, "look at"):
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        _check_kind(found, path)


def is_file(path: Path) -> bool:
    """True where a path names a file, and no link to one."""
    with storage_errors(path, "look at"):
        try:
            return stat.S_ISREG(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def _check_kind(found: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise LocalStorageError(
            errno.ELOOP,
            f"{path} is a link, which is not followed here; remove it, or put its file in its place",
        )
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise UnsupportedFormatError(f"{path} is {kind}, and not a file; give another file_path")


def can_write_beside(booklet: Path) -> bool:
    """Whether this process may change a Booklet, its journal and their folder, as far as these are there."""
    journal = booklet.with_name(booklet.name + JOURNAL_SUFFIX)
    effective = os.access in os.supports_effective_ids
    with storage_errors(booklet, "look at"):
        there = [path for path in (booklet.parent, booklet, journal) if path.exists()]
        return all(os.access(path, os.W_OK, effective_ids=effective) for path in there)


def create_new(opened: Descriptor, path: Path, rights: Rights | None) -> None:
    """Makes a file where nothing is, with the rights of another or those that the system gives.

    Raises:
        FileExistsError: Something is there, a link perhaps.
        OSError: The system refuses; nothing is left.
    """
    opened.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666 if rights is None else 0o600)
    try:
        refused = [] if rights is None else give(opened.number, rights)
        if refused:
            _log.warning("%s could not be given the %s of the file it goes with", path, ", ".join(refused))
    except BaseException:
        path.unlink()
        raise


def create_own(opened: Descriptor, path: Path, rights: Rights | None) -> None:
    """Like `create_new`, for a name of ours alone: what a session that died left there gives way.

    Raises:
        UnsupportedFormatError, LocalStorageError: Something else than a file is there, and stays; or the
            system refuses.
    """
    check_no_link(path)
    with storage_errors(path, "create"):
        path.unlink(missing_ok=True)
        create_new(opened, path, rights)


def make_beside(path: Path, booklet: Path) -> None:
    """Makes an empty file with the rights of a Booklet, unless one is there.

    Raises:
        UnsupportedFormatError, LocalStorageError: Something else than a file is there; or the system refuses.
    """
    if is_file(path):
        return
    check_no_link(path)
    with storage_errors(path, "create"), contextlib.closing(Descriptor()) as opened:
        rights = rights_of(booklet) if is_file(booklet) else None
        try:
            create_new(opened, path, rights)
        except FileExistsError:
            check_no_link(path)


def copy_new(fd: int, target: Path) -> None:
    """Copies an open file, with its rights, to a place where nothing is; durable when it returns.

    Raises:
        LocalStorageError: The disk refuses; nothing is left.
    """
    with storage_errors(target, "write"), contextlib.closing(Descriptor()) as copied:
        create_new(copied, target, rights_of(fd))
        try:
            position = 0
            while data := read_at(fd, CHUNK_BYTES, position):
                write_all(copied.number, data, position)
                position += len(data)
            os.fsync(copied.number)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        fsync_folder(target.parent)


def remove_own(path: Path) -> None:
    """Removes a file with a name of ours; what is no file is not ours, and stays."""
    if is_file(path):
        path.unlink(missing_ok=True)


def remove_unfinished(booklet: Path) -> None:
    """Removes what sessions left that died while they made a Booklet."""
    for path in _own_files(booklet):
        if _UNFINISHED_SUFFIX.fullmatch(path.name, len(booklet.name)):
            remove_own(path)


def narrow_beside(booklet: Path, rights: Rights, side_files: tuple[Path, ...]) -> None:
    """Takes from a journal, and from all that is kept beside a Booklet, what the Booklet's rights do not give.

    Args:
        booklet: The Booklet.
        rights: Its rights.
        side_files: The files that go with its journal.
    """
    journal = booklet.with_name(booklet.name + JOURNAL_SUFFIX)
    # The rest was made with the rights that the journal had then.
    others = tuple(_own_files(booklet)) if _narrow(journal, rights) else ()
    for path in (*side_files, *others):
        _narrow(path, rights)


def _narrow(path: Path, rights: Rights) -> bool:
    with storage_errors(path, "narrow the rights of"):
        try:
            return narrow(path, rights)
        except PermissionError as error:
            _log.warning("%s may be open to more people than its Booklet, and is another user's: %s", path, error)
            return False


def _own_files(booklet: Path) -> Iterator[Path]:
    """Yields what lies beside a Booklet under a name of ours."""
    with os.scandir(booklet.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(booklet.name)]
    for name in names:
        if _OWN_SUFFIX.fullmatch(name, len(booklet.name)):
            yield booklet.with_name(name)
