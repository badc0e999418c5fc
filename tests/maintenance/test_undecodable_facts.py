"""What a journal says of its remote, where that can't be decoded: damage, and an error of ours."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.local.journal.journal import journal_path


@pytest.mark.parametrize("call", [ebooklet_tx.status, ebooklet_tx.recover, ebooklet_tx.unlock])
@pytest.mark.parametrize("text", ["{", "[1", "\\u00"])
def test_a_place_that_cannot_be_decoded_is_damage(tmp_path: Path, call: Callable[[Path], Any], text: str) -> None:
    remote = ebooklet_tx.DirectoryConnection(tmp_path / "remote", "db")
    path = tmp_path / "a.blt"
    with ebooklet_tx.open(remote, path, "c") as db:
        db["k"] = b"v"
    with contextlib.closing(sqlite3.connect(journal_path(path))) as raw:
        assert raw.execute("UPDATE meta SET value = ? WHERE name = 'connection'", (text,)).rowcount == 1
        raw.commit()
    with pytest.raises(ebooklet_tx.JournalDamagedError, match="where the remote is"):
        call(path)
    with ebooklet_tx.open(remote, path) as db:
        assert db["k"] == b"v"
