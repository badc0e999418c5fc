"""Many keys changed by one commit: told at once, recorded by the hundred, and just as one by one."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.local import reading
from ebooklet_tx.local.journal import intents
from ebooklet_tx.local.journal.connections import connected, insert_many
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.local.local_store import LocalStore
from tests.pairs import Bench, pending

STATEMENT = (
    "INSERT INTO t(shared, one, two, again)",
    "({s0}, {0}, {1}, {0})",
    "ON CONFLICT(one) DO UPDATE SET two = excluded.two",
)


@pytest.fixture
def raw() -> Iterator[sqlite3.Connection]:
    with connected(":memory:") as raw:
        raw.execute("CREATE TABLE t(shared, one PRIMARY KEY, two, again)")
        yield raw


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_many_rows_are_what_single_rows_are(raw: sqlite3.Connection, count: int) -> None:
    # A key that comes twice is met in the order of the rows, in one statement and across two.
    rows = [(number % 97, number) for number in range(count)]
    insert_many(raw, STATEMENT, ("s",), [[one for one, _ in rows], [two for _, two in rows]])
    expected = {("s", one, two, one) for one, two in dict(rows).items()}
    assert set(raw.execute("SELECT * FROM t")) == expected


def test_rows_of_many_columns_fit_the_parameters_of_any_sqlite(raw: sqlite3.Connection) -> None:
    columns = [f"c{number}" for number in range(30)]
    raw.execute(f"CREATE TABLE wide({', '.join(columns)})")
    raw.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    values = ", ".join(f"{{{number}}}" for number in range(30))
    insert_many(raw, ("INSERT INTO wide", f"({values})", ""), (), [[number] * 70 for number in range(30)])
    assert raw.execute("SELECT count(*) FROM wide").fetchone() == (70,)


def test_changes_of_many_keys_survive(tmp_path: Path) -> None:
    generator = random.Random(1)
    keys = [f"key {number}" for number in range(700)]
    store = LocalStore.open_writer(tmp_path / "a.blt", create=True)
    expected: dict[str, bytes] = {}
    for _ in range(4):
        changed = {key: generator.choice([None, generator.randbytes(30)]) for key in generator.sample(keys, 350)}
        for key, value in changed.items():
            if value is not None or key in expected:
                store.overlay.put(key, value, 7)
        expected = {**expected, **{key: value for key, value in changed.items() if value is not None}}
        expected = {key: value for key, value in expected.items() if changed.get(key, b"") is not None}
        store.commit(fold=True)
        entries = {entry.key: entry for entry in entries_where(store.journal, "pending = 1")}
        assert {key: store.read(entry) for key, entry in entries.items()} == expected
        numbers = [entry.pending_number for entry in entries.values()]
        assert len(set(numbers)) == len(numbers)
        assert store.file.scan().damage == []
        assert store.file.header.n_keys == len(expected)
    store.close()


def test_keys_are_told_together_once_many_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    genuine = reading.find_place
    monkeypatch.setattr(
        reading, "find_place", lambda journal, key: (looked_up.append(key), genuine(journal, key))[1]
    )
    keys = [f"key {number}" for number in range(320)]
    with ebooklet_tx.open("memory://bulk", tmp_path / "a.blt", "n", value_serializer="bytes") as db:
        db.update(dict.fromkeys(keys, b"value"))
        db.sync()
        looked_up.clear()
        for key in keys[:200]:
            del db[key]
        assert len(looked_up) < 30
        with pytest.raises(KeyError):
            del db["none"]
        with pytest.raises(KeyError):
            del db[keys[0]]
        db[keys[0]] = b"again"
        db.sync()
        # What was told before the commit counts no more.
        del db[keys[0]]
        with pytest.raises(KeyError):
            del db[keys[1]]
        del db[keys[200]]
        db.sync()
        assert sorted(db) == sorted(keys[201:])


@pytest.mark.parametrize("at_once", [1, 2, 7, 100])
def test_a_commit_is_taken_in_by_ranges_of_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(intents, "_KEYS_AT_ONCE", at_once)
    bench = Bench(tmp_path)
    values = {f"k{number:02}": b"%d" % number for number in range(14)}
    with bench.open("a", "c") as db:
        db.set_metadata({"unit": "m3/s"})
        db.update(values)
        assert db.changes().push()
        assert pending(db) == {}
        # Of some keys only, and with deletes among them.
        db.update({"k03": b"again", "new": b"new", "k13": b"last"})
        del db["k00"], db["k05"]
        db.changes().push()
        assert pending(db) == {}
        changed = {**values, "k03": b"again", "new": b"new", "k13": b"last"}
        wanted = {key: value for key, value in changed.items() if key not in ("k00", "k05")}
        assert dict(db) == wanted
    with bench.open("b", "r") as db:
        assert (dict(db.items()), db.get_metadata()) == (wanted, {"unit": "m3/s"})
