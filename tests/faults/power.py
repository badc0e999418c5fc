"""A model of a disk that loses power: what was not fsynced may be there, be missing, or be torn.

It stands behind the calls with which this package changes the Booklet file and the folder. SQLite's own
file is not modelled but copied as it is at each moment: what SQLite has synced survives, which is what
`synchronous=FULL` promises and SQLite's own tests hold.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.faults.scenarios import FILE

SECTOR_BYTES = 512
_JOURNAL_FILES = (f"{FILE}.journal", f"{FILE}.journal-wal", f"{FILE}.journal-mark")


@dataclass(frozen=True)
class _Write:
    offset_bytes: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        end = self.offset_bytes + len(self.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        content[self.offset_bytes : end] = self.data

    def torn(self, chance: random.Random) -> _Write:
        """Returns this write cut off between two sectors."""
        first = SECTOR_BYTES - self.offset_bytes % SECTOR_BYTES
        cuts = range(first, len(self.data), SECTOR_BYTES)
        return _Write(self.offset_bytes, self.data[: chance.choice(cuts)]) if cuts else self


@dataclass(frozen=True)
class _Truncate:
    size_bytes: int

    def apply(self, content: bytearray) -> None:
        del content[self.size_bytes :]

    def torn(self, chance: random.Random) -> _Truncate:
        return self


@dataclass
class _Inode:
    durable: bytes = b""
    waiting: list[_Write | _Truncate] = field(default_factory=list)

    def after_loss(self, keep: float, chance: random.Random) -> bytes:
        """Returns what is left when each waiting change is kept with some probability."""
        content = bytearray(self.durable)
        for change in self.waiting:
            if chance.random() < keep:
                tear = 0.0 < keep < 1.0 and chance.random() < 0.3
                (change.torn(chance) if tear else change).apply(content)
        return bytes(content)

    def sync(self) -> None:
        self.durable = self.after_loss(1.0, random.Random(0))
        self.waiting = []


@dataclass(frozen=True)
class Moment:
    """All that is known of the disk at one moment, and how far the scenario had come."""

    inodes: dict[int, _Inode]
    names: dict[str, int]
    waiting_names: list[tuple[str, int | None]]
    journal: dict[str, bytes]
    begun: int
    done: int

    @property
    def certain(self) -> bool:
        """True when nothing waits: there is only one state that power loss can leave."""
        return not self.waiting_names and not any(inode.waiting for inode in self.inodes.values())

    def write_to(self, folder: Path, keep: float, chance: random.Random) -> None:
        """Makes files of what may be left."""
        names = dict(self.names)
        # A file system keeps the order of changes to one folder.
        count = sum(1 for _ in self.waiting_names if chance.random() < keep)
        for name, number in self.waiting_names[:count]:
            if number is None:
                names.pop(name, None)
            else:
                names[name] = number
        made: dict[int, Path] = {}
        for name, number in names.items():
            if number in made:
                os.link(made[number], folder / name)
                continue
            made[number] = folder / name
            made[number].write_bytes(self.inodes[number].after_loss(keep, chance))
        for name, data in self.journal.items():
            (folder / name).write_bytes(data)


def seem_untouched(folder: Path) -> None:
    """Gives the Booklet file the inode and the time that the journal expects, as after a real loss."""
    path = folder / FILE
    if not path.exists() or not (folder / _JOURNAL_FILES[0]).exists():
        return
    journal = sqlite3.connect(folder / _JOURNAL_FILES[0], isolation_level=None)
    with contextlib.closing(journal), contextlib.suppress(sqlite3.OperationalError):
        journal.execute("UPDATE meta SET value = ? WHERE name = 'file_inode'", (path.stat().st_ino,))
        row = journal.execute("SELECT value FROM meta WHERE name = 'file_mtime_ns'").fetchone()
        if row is not None:
            os.utime(path, ns=(row[0], row[0]))


class Disk:
    """Records the changes that this process makes to the data files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moments: list[Moment] = []
        self.begun = -1
        self.done = -1
        self._inodes: dict[int, _Inode] = {}
        self._names: dict[str, int] = {}
        self._waiting_names: list[tuple[str, int | None]] = []
        for path in folder.iterdir():
            if self._is_ours(path):
                self._names[path.name] = path.stat().st_ino
                self._inodes[path.stat().st_ino] = _Inode(path.read_bytes())

    def left_unsynced(self, path: Path, before: bytes) -> None:
        """Says that another program has changed a file since it was durable as `before`, and never synced it."""
        now = path.read_bytes()
        changed: list[_Write | _Truncate] = [
            _Write(offset, now[offset : offset + SECTOR_BYTES])
            for offset in range(0, len(now), SECTOR_BYTES)
            if now[offset : offset + SECTOR_BYTES] != before[offset : offset + SECTOR_BYTES]
        ]
        if len(now) < len(before):
            changed.append(_Truncate(len(now)))
        self._inodes[path.stat().st_ino] = _Inode(before, changed)

    def remember(self) -> None:
        """Notes the present as a moment at which power may be lost."""
        journal = {}
        for name in _JOURNAL_FILES:
            with contextlib.suppress(FileNotFoundError):
                journal[name] = (self.folder / name).read_bytes()
        self.moments.append(
            Moment(
                copy.deepcopy(self._inodes),
                dict(self._names),
                list(self._waiting_names),
                journal,
                self.begun,
                self.done,
            )
        )

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Watches the calls of this process; its fsyncs only take place in the model."""
        with contextlib.ExitStack() as stack:
            for name in ("open", "pwrite", "ftruncate", "fsync", "link", "unlink", "replace"):
                watcher = getattr(self, f"_{name}")
                stack.enter_context(mock.patch.object(os, name, _bound(watcher, getattr(os, name))))
            yield

    def _is_ours(self, path: Any) -> bool:
        path = Path(path)
        return path.parent == self.folder and path.name.startswith(FILE) and ".journal" not in path.name

    def _inode(self, fd: int) -> _Inode | None:
        return self._inodes.get(os.fstat(fd).st_ino)

    def _open(self, genuine: Any, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        changes = self._is_ours(path) and bool(flags & (os.O_CREAT | os.O_TRUNC))
        existed = changes and Path(path).exists()
        if changes:
            self.remember()
        fd: int = genuine(path, flags, *arguments, **options)
        if changes and existed and flags & os.O_TRUNC:
            self._inodes[os.fstat(fd).st_ino].waiting.append(_Truncate(0))
        elif changes and not existed:
            number = os.fstat(fd).st_ino
            # A number may be used again after its file has gone; older moments have their own copy.
            self._inodes[number] = _Inode()
            self._waiting_names.append((Path(path).name, number))
        return fd

    def _pwrite(self, genuine: Any, fd: int, data: Any, offset: int) -> int:
        inode = self._inode(fd)
        if inode is not None:
            self.remember()
        written: int = genuine(fd, data, offset)
        if inode is not None:
            inode.waiting.append(_Write(offset, bytes(data)[:written]))
        return written

    def _ftruncate(self, genuine: Any, fd: int, size: int) -> None:
        inode = self._inode(fd)
        if inode is not None:
            self.remember()
        genuine(fd, size)
        if inode is not None:
            inode.waiting.append(_Truncate(size))

    def _fsync(self, genuine: Any, fd: int) -> None:
        inode = self._inode(fd)
        is_folder = os.fstat(fd).st_ino == self.folder.stat().st_ino
        if inode is None and not is_folder:
            return
        self.remember()
        if inode is not None:
            inode.sync()
        else:
            for name, number in self._waiting_names:
                if number is None:
                    self._names.pop(name, None)
                else:
                    self._names[name] = number
            self._waiting_names = []

    def _link(self, genuine: Any, source: Any, target: Any, **options: Any) -> None:
        if self._is_ours(target):
            self.remember()
        genuine(source, target, **options)
        if self._is_ours(target):
            self._waiting_names.append((Path(target).name, os.stat(target).st_ino))  # noqa: PTH116

    def _unlink(self, genuine: Any, path: Any, **options: Any) -> None:
        if self._is_ours(path):
            self.remember()
        genuine(path, **options)
        if self._is_ours(path):
            self._waiting_names.append((Path(path).name, None))

    def _replace(self, genuine: Any, source: Any, target: Any, **options: Any) -> None:
        ours = self._is_ours(source) and self._is_ours(target)
        if ours:
            self.remember()
        genuine(source, target, **options)
        if ours:
            # One change: a rename is there or is not.
            self._waiting_names.append((Path(target).name, Path(target).stat().st_ino))
            self._waiting_names.append((Path(source).name, None))


def _bound(watcher: Any, genuine: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        return watcher(genuine, *arguments, **options)

    return call
