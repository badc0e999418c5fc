"""The commit mark: how many commits of a journal were acknowledged, kept where its WAL can't lose it.

Owns `<journal>-mark`. The journal counts its commits in SQLite's `user_version`, from a random number on and
in each commit's own transaction; the mark is written behind it, with no fsync. The invariant: the mark is
never ahead of what SQLite has made durable, so a journal that counts less than its mark has lost commits that
were acknowledged. After power loss the mark may lag, or be missing: then it says less, and nothing wrong. A
clean close, which empties the WAL, removes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import struct
from hashlib import blake2b
from pathlib import Path

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.local.files.file_calls import read_at, storage_errors, write_all

_log = logging.getLogger("ebooklet_tx")

_MAGIC = b"EBTXMARK"
_BODY = struct.Struct("<8sQ")
_DIGEST_BYTES = 8
_MARK_BYTES = _BODY.size + _DIGEST_BYTES
_COUNTS = 2**31
_FIRST_COUNTS = 2**30
_ONE_JOURNAL_COUNTS = 2**20
"""A mark further away than that is another journal's: they begin to count anywhere."""


def count_after(count: int) -> int:
    """Returns what a journal counts to with its next commit; 0 is one that has none yet."""
    if not count:
        return 1 + secrets.randbelow(_FIRST_COUNTS)
    return count % (_COUNTS - 1) + 1


def missing_commits(mark: int | None, count: int) -> int:
    """Returns how many commits are missing, at least, from a journal with this count and this mark."""
    if mark is None:
        return 0
    if not count:
        return 1
    missing = (mark - count) % (_COUNTS - 1)
    return missing if missing < _ONE_JOURNAL_COUNTS else 0


def read_mark(path: Path) -> int | None:
    """Returns the count that a mark names; None where there is none, or one that was torn.

    Raises:
        LocalStorageError: It can't be read.
    """
    with storage_errors(path, "read"), contextlib.closing(Descriptor()) as file:
        try:
            file.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        raw = read_at(file.number, _MARK_BYTES, 0)
    if len(raw) != _MARK_BYTES or _digest(raw[: _BODY.size]) != raw[_BODY.size :]:
        return None
    magic, count = _BODY.unpack_from(raw)
    return int(count) if magic == _MAGIC and 0 < count < _COUNTS else None


class MarkWriter:
    """Writes the mark of one journal; used by the session that holds the value file's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = Descriptor()
        self._failed = False

    def write(self, count: int) -> None:
        """Notes that a commit is acknowledged; where the disk refuses, the mark lags."""
        body = _BODY.pack(_MAGIC, count)
        try:
            if self._file.number < 0:
                self._file.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, self._mode())
            write_all(self._file.number, body + _digest(body), 0)
        except OSError as error:
            # The commit itself is durable.
            if not self._failed:
                _log.warning("%s can't be written, so lost commits would not be noticed: %s", self._path, error)
            self._failed = True

    def close(self) -> None:
        """Closes the file; twice is no error."""
        self._file.close()

    def _mode(self) -> int:
        """The rights of the journal itself."""
        return self._path.with_name(self._path.name.removesuffix("-mark")).stat().st_mode & 0o666


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()
