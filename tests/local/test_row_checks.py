"""Rows and facts of a journal that no commit leaves: damage, told as such, and never a foreign error."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from ebooklet_tx.errors import Error
from tests.pairs import Bench, make


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("remote_timestamp_us", "text"),
        ("remote_length_bytes", b"bytes"),
        ("local_offset_bytes", b"bytes"),
        ("local_length_bytes", 2**62),
        ("local_length_bytes", -5),
        ("remote_digest", 5),
        ("local_digest", b"short"),
    ],
)
def test_a_column_that_no_commit_leaves_is_damage(tmp_path: Path, column: str, value: object) -> None:
    bench = Bench(tmp_path)
    make(bench, {"key": b"value" * 100})
    raw = sqlite3.connect(bench.journal())
    raw.execute(f"UPDATE entry SET {column} = ?", (value,))
    raw.commit()
    raw.close()
    # What is large or negative can be a length that no file has; the digest of what is read tells then.
    with suppress(Error), bench.open("a", "r") as db:
        assert db["key"] == b"value" * 100
        assert db.load_items() in ({}, ["key"])
        assert next(iter(db.timestamps()))[1] != value


@pytest.mark.parametrize("name", ["base_segments", "base_commits", "base_unknown", "conditional_writes"])
def test_a_fact_that_can_not_be_decoded_is_damage(tmp_path: Path, name: str) -> None:
    bench = Bench(tmp_path)
    make(bench, {"key": b"value"})
    raw = sqlite3.connect(bench.journal())
    raw.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, '[["a\x01'))
    raw.commit()
    raw.close()
    with suppress(Error), bench.open("a", "w") as db:
        assert db["key"] == b"value"
        db["other"] = b"o"
        db.changes().push()
