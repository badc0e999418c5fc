"""Many keys overwritten or deleted by one commit: each row becomes what a commit of few keys makes of it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebooklet_tx.local.journal import operations, schema
from ebooklet_tx.local.journal.operations import BASE_ADOPTED, record_deletes, record_placed_sets
from ebooklet_tx.local.journal.pending import existing_rows
from ebooklet_tx.local.journal.pending.existing_rows import kind_of_most

KEYS = [f"k{number:03}" for number in range(240)]
DIGESTS = [bytes([number]) * 16 for number in range(3)]


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing_rows, "MANY_KEYS", 20)


@pytest.fixture
def new_journal() -> Iterator[Callable[[], sqlite3.Connection]]:
    made: list[sqlite3.Connection] = []

    def make() -> sqlite3.Connection:
        made.append(sqlite3.connect(":memory:", isolation_level=None))
        for statement in schema.CREATE:
            made[-1].execute(statement)
        return made[-1]

    yield make
    for raw in made:
        raw.close()


def some_entry(key: str, generator: random.Random) -> dict[str, Any]:
    """Returns the columns of an entry in one of the states that there are."""
    choice = generator.choice
    entry: dict[str, Any] = {"key": key, "known": choice([0, 7, 7])}
    if entry["known"]:
        entry |= {
            "remote_seq": 3,
            "remote_timestamp_us": choice([5, 6]),
            "remote_digest": choice([None, *DIGESTS]),
        }
        entry |= {"remote_offset_bytes": choice([None, 9]), "remote_length_bytes": choice([None, 4])}
    if choice([True, True, False]):
        entry |= {"local_digest": choice(DIGESTS), "local_timestamp_us": 5, "local_offset_bytes": 9}
        entry |= {"local_length_bytes": 2}
    entry["pending"] = choice([0, 0, 0, 1, 2])
    if entry["pending"]:
        entry |= {"pending_timestamp_us": 5, "pending_number": choice(range(99)), "base_kind": choice(range(4))}
        entry |= {
            "base_at": choice([None, "x"]),
            "base_digest": choice([None, *DIGESTS]),
            "base_seq": choice([1, 2]),
        }
    if entry["pending"] == 1:
        entry |= {"pending_digest": choice(DIGESTS), "pending_length_bytes": 3}
    return entry


def some_sets(generator: random.Random) -> list[list[Any]]:
    keys = generator.sample(KEYS, 200)
    choices: list[list[Any]] = [DIGESTS, [5, 6], [1, 4]]
    return [keys, *([generator.choice(some) for _ in keys] for some in choices), list(range(len(keys)))]


Change = Callable[[sqlite3.Connection, list[list[Any]]], None]


def set_all(raw: sqlite3.Connection, columns: list[list[Any]]) -> None:
    record_placed_sets(raw, *columns)


def delete_all(raw: sqlite3.Connection, columns: list[list[Any]]) -> None:
    record_deletes(raw, sorted(zip(columns[0], columns[2], strict=True)))


def delete_all_with_copies(raw: sqlite3.Connection, columns: list[list[Any]]) -> None:
    record_deletes(raw, sorted(zip(columns[0], columns[2], strict=True)), gone=True)


@pytest.mark.parametrize("change", [set_all, delete_all, delete_all_with_copies])
@pytest.mark.parametrize("base_at", [None, "y'z"])
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_row_is_what_the_upsert_makes_of_it(
    new_journal: Callable[[], sqlite3.Connection],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    is_open: bool,
    base_at: str | None,
    change: Change,
) -> None:
    generator = random.Random(seed)
    entries = [some_entry(key, generator) for key in KEYS if generator.random() < 0.85]
    columns = some_sets(generator)
    found = []
    for kind in (None, *operations._KINDS):
        raw = new_journal()
        if base_at is not None:
            raw.execute("INSERT INTO meta VALUES ('base_commit_id', ?)", (base_at,))
        if is_open:
            raw.execute("INSERT INTO intent VALUES ('c', 1, NULL, NULL, 50, 0, 1)")
        for entry in entries:
            marks = ", ".join("?" * len(entry))
            raw.execute(f"INSERT INTO entry({', '.join(entry)}) VALUES ({marks})", list(entry.values()))
        monkeypatch.setattr(operations, "kind_of_most", lambda *_, kind=kind: kind)
        change(raw, columns)
        assert raw.execute(f"SELECT count(*) FROM entry WHERE NOT {schema.SOUND_ROW}").fetchone() == (0,)
        found.append([raw.execute(f"SELECT * FROM {table}").fetchall() for table in sorted(schema.TABLES)])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"known": 7, "remote_digest": DIGESTS[0]}, "known"),
        ({"known": 7}, None),
        ({"remote_digest": DIGESTS[0]}, None),
        ({"pending": 1}, "pending"),
        ({"pending": 1, "known": 7, "remote_digest": DIGESTS[0]}, "pending"),
        ({"pending": 1, "base_kind": BASE_ADOPTED}, None),
        ({"pending": 2}, None),
    ],
)
def test_what_kind_of_keys_they_are_is_told_by_some(
    new_journal: Callable[[], sqlite3.Connection], entry: dict[str, Any], expected: str | None
) -> None:
    raw = new_journal()
    assert kind_of_most(raw, KEYS, operations._KINDS) is None
    names, marks = ", ".join(entry), ", ".join("?" * len(entry))
    raw.executemany(
        f"INSERT INTO entry(key, {names}) VALUES (?, {marks})", [(key, *entry.values()) for key in KEYS[::2]]
    )
    assert kind_of_most(raw, KEYS[::2], operations._KINDS) == expected
    assert kind_of_most(raw, KEYS[1::2], operations._KINDS) is None
    assert kind_of_most(raw, KEYS[:38:2], operations._KINDS) is None, "few keys"


@pytest.mark.parametrize("count", range(1, 20))
def test_any_number_of_keys_can_count_as_many(
    new_journal: Callable[[], sqlite3.Connection], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(existing_rows, "MANY_KEYS", 1)
    raw = new_journal()
    raw.executemany("INSERT INTO entry(key, pending) VALUES (?, 1)", [(key,) for key in KEYS[:count]])
    assert kind_of_most(raw, KEYS[:count], operations._KINDS) == "pending"


def test_nothing_is_left_in_the_connection(new_journal: Callable[[], sqlite3.Connection]) -> None:
    raw = new_journal()
    raw.executemany("INSERT INTO entry(key, known, remote_digest) VALUES (?, 7, x'00')", [(key,) for key in KEYS])
    columns = some_sets(random.Random(1))
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.Error):
        record_placed_sets(raw, columns[0], [object() for _ in KEYS[:200]], *columns[2:])  # type: ignore[misc]
    raw.execute("ROLLBACK")
    raw.execute("BEGIN IMMEDIATE")
    record_placed_sets(raw, *columns)
    raw.execute("COMMIT")
    assert raw.execute("SELECT count(*) FROM sqlite_temp_schema").fetchone() == (0,)
    assert raw.execute("SELECT count(*) FROM entry WHERE pending = 1").fetchone() == (200,)
