"""The folder of a directory store, and those below it: made, listed, made durable, removed when empty.

Owns the knowledge of which folders have durable entries.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.connection import RESERVED_NAME_PREFIX
from ebooklet_tx.stores.directory.files import sync_folder


class Folders:
    """A store's folder with the folders below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: dict[Path, int] = {}

    def make_root(self) -> None:
        """Makes the store's folder, durably; it is no error if it exists."""
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.is_dir()]
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)

    def sync(self, folder: Path) -> None:
        """Makes the entries of `folder` durable, and the entries of the folders that lead to it."""
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
            while folder != self.root:
                # By inode: a folder that was removed and made again needs its entry written again.
                inode = folder.stat().st_ino
                if self._durable.get(folder) != inode:
                    sync_folder(folder.parent)
                    self._durable[folder] = inode
                folder = folder.parent

    def remove_empty(self, folder: Path) -> Path:
        """Removes `folder` and those above it while they are empty; returns the first that is kept."""
        while folder != self.root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            folder = folder.parent
        return folder

    def keys(self, prefix: str, folder_key: str = "") -> Iterator[str]:
        """Yields the keys below a folder that begin with `prefix`, in the order of their UTF-8 bytes."""
        try:
            with os.scandir(self.root / folder_key) as entries:
                found = sorted(
                    (_key_of(folder_key, entry), entry.is_dir(follow_symlinks=False)) for entry in entries
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, is_folder in found:
            key = os.fsdecode(name)
            if key.rstrip("/").rpartition("/")[2].startswith(RESERVED_NAME_PREFIX) or not _is_text(name):
                continue
            if is_folder and (key.startswith(prefix) or prefix.startswith(key)):
                yield from self.keys(prefix, key)
            elif not is_folder and key.startswith(prefix):
                yield key


def _key_of(folder_key: str, entry: os.DirEntry[str]) -> bytes:
    # A folder sorts with the slash that follows its name in its objects' keys.
    slash = "/" if entry.is_dir(follow_symlinks=False) else ""
    return os.fsencode(f"{folder_key}{entry.name}{slash}")


def _is_text(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
