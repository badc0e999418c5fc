"""The temporary files of a directory store, in which every object is written first.

Owns the store's folder of temporary files. The invariants: it is a folder and no link to one, and is held open
while it is used, so that no other program can replace it; a file in it is made only under a name that is free;
and only files with names of this package are ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from ebooklet_tx.descriptors import Descriptor, writing_file
from ebooklet_tx.errors import RemoteAccessError

UPLOAD_ID = re.compile(r"[0-9a-f]{32}\.part")

_OWN_NAME = re.compile(r"[0-9a-f]{32}(\.part)?")
_NO_FOLDER = {errno.ENOTDIR, errno.ELOOP}


class TemporaryFile:
    """A name in the folder of temporary files, while that folder is held open."""

    def __init__(self, name: str, folder_fd: int) -> None:
        self.name = name
        self._folder_fd = folder_fd

    def open(self, mode: Literal["x+b", "r+b"]) -> BinaryIO:
        """Opens the file as the built-in function does: "x" makes it; never through a link.

        Raises:
            OSError: The system refuses; it is missing; or it is no file.
        """
        making = os.O_CREAT | os.O_EXCL if mode == "x+b" else 0
        opened = Descriptor()
        opened.open(self.name, os.O_RDWR | making | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder_fd)
        return writing_file(opened)

    def exists(self) -> bool:
        """True while there is a file of that name."""
        try:
            return stat.S_ISREG(os.lstat(self.name, dir_fd=self._folder_fd).st_mode)
        except FileNotFoundError:
            return False

    def rename(self, target: Path) -> None:
        """Moves the file to a path, replacing what is there."""
        os.rename(self.name, target, src_dir_fd=self._folder_fd)

    def remove(self) -> None:
        """Removes the file, if it still exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._folder_fd)


class TemporaryFolder:
    """The folder of temporary files; it is made when it is first needed, in a store's folder that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def new_file(self, suffix: str = "") -> Iterator[TemporaryFile]:
        """Yields a temporary file under a free name; the file itself is not made yet."""
        with self._opened() as fd:
            yield TemporaryFile(secrets.token_hex(16) + suffix, fd)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[TemporaryFile]:
        """Yields the temporary file of a name."""
        with self._opened() as fd:
            yield TemporaryFile(name, fd)

    def remove_older(self, than: float) -> None:
        """Removes this package's files that were last written before a time; the folder may be missing.

        Raises:
            RemoteAccessError: It is a link, or no folder; nothing was removed.
        """
        with contextlib.suppress(FileNotFoundError), self._opened(make=False) as fd:
            for name in filter(_OWN_NAME.fullmatch, os.listdir(fd)):  # noqa: PTH208
                with contextlib.suppress(FileNotFoundError):
                    found = os.lstat(name, dir_fd=fd)
                    if stat.S_ISREG(found.st_mode) and found.st_mtime < than:
                        os.unlink(name, dir_fd=fd)

    @contextlib.contextmanager
    def _opened(self, *, make: bool = True) -> Iterator[int]:
        opened = Descriptor()
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    self.path.mkdir()
            try:
                opened.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise
                raise RemoteAccessError(
                    f"{self.path} is a link or no folder, so no temporary files are made in it, and none are "
                    "removed; nothing was changed: remove it, or ask the user that made it",
                    path=self.path,
                ) from None
            yield opened.number
        finally:
            opened.close()


__all__ = ["UPLOAD_ID", "TemporaryFile", "TemporaryFolder"]
