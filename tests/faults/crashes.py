"""Folders as a crash leaves them, made without one: an open session's files are put back behind its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def end_as_by_a_crash(database: Any, folder: Path) -> None:
    """Closes a database and leaves its folder as it was before."""
    kept = {path: (path.read_bytes(), path.stat()) for path in folder.rglob("*") if path.is_file()}
    database.close()
    for path in folder.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    for path, (data, status) in kept.items():
        put_back(path, data, status)


def put_back(path: Path, data: bytes, status: os.stat_result | None = None) -> None:
    """Gives a file its bytes, in place: the journal knows the Booklet file by its inode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()
    if status is not None:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
