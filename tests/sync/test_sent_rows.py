"""What a push keeps of the rows whose values it sends."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.records import IndexRow, ObjectRef, digest_of
from ebooklet_tx.sync.commit import publish, sent_rows
from ebooklet_tx.sync.commit.sent_rows import SentRows
from ebooklet_tx.sync.forks.spill import Held, Spill
from tests.pairs import Bench

PACKS = {name: ObjectRef(name, f'"{name}"', 10_000) for name in ("pack/a", "pack/b")}
KEYS = [f"k{number:03}é" for number in range(23)]
STAMPS = [2**50 + number for number in range(23)]
DIGESTS = [digest_of(key.encode()) for key in KEYS]
LENGTHS = [number * 2**30 for number in range(23)]
OFFSETS = [number * 41 for number in range(23)]


def add(sent: SentRows, start: int, end: int) -> None:
    sent.add(KEYS[start:end], STAMPS[start:end], DIGESTS[start:end], LENGTHS[start:end])


@pytest.mark.parametrize("held_bytes", [0, 300, 2**20])
def test_rows_come_back_as_they_were_packed(monkeypatch: pytest.MonkeyPatch, held_bytes: int) -> None:
    monkeypatch.setattr(sent_rows, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(sent_rows, "HELD_BYTES", held_bytes)
    sent = SentRows()
    for start, end in ((0, 1), (1, 9), (9, 10), (10, 23)):
        add(sent, start, end)
    sent.add_pack("pack/a", OFFSETS[:12])
    assert not sent.is_whole(23, PACKS)
    sent.add_pack("pack/b", OFFSETS[12:])
    assert sent.is_whole(23, PACKS)
    assert not sent.is_whole(24, PACKS)
    assert not sent.is_whole(23, {"pack/a": PACKS["pack/a"]})
    names = ["pack/a"] * 12 + ["pack/b"] * 11
    columns = zip(KEYS, [7] * 23, STAMPS, DIGESTS, names, OFFSETS, LENGTHS, strict=True)
    found = [item for batch in sent.batches(7, PACKS) for item in batch.rows()]
    assert [item.row for item in found] == [IndexRow(*row) for row in columns]
    assert [item.ref for item in found] == [PACKS[name] for name in names]
    sent.close()


@pytest.mark.parametrize("parts", [((0, 5), (4, 9)), ((5, 9), (0, 5))])
def test_rows_out_of_order_are_not_given(parts: tuple[tuple[int, int], ...]) -> None:
    sent = SentRows()
    for start, end in parts:
        add(sent, start, end)
    sent.add_pack("pack/a", OFFSETS[:9])
    assert not any(sent.is_whole(count, PACKS) for count in range(11))


def test_rows_of_which_one_part_is_out_of_order_are_not_given() -> None:
    sent = SentRows()
    sent.add(["b", "a"], [1, 1], DIGESTS[:2], [1, 1])
    sent.add_pack("pack/a", OFFSETS[:2])
    assert not sent.is_whole(2, PACKS)


def test_a_full_disk_ends_no_push(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(sent_rows, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(Spill, "put", refuse)
    sent = SentRows()
    add(sent, 0, 9)
    add(sent, 9, 23)
    sent.add_pack("pack/a", OFFSETS)
    assert not sent.is_whole(23, PACKS)


def test_no_row_is_missing_where_the_disk_is_full_for_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, calls = Spill.put, itertools.count()

    def refuse_later(self: Spill, value: bytes) -> Held:
        if next(calls):
            raise OSError(28, "no space left on device")
        return genuine(self, value)

    monkeypatch.setattr(sent_rows, "_ROWS_AT_ONCE", 20)
    monkeypatch.setattr(Spill, "put", refuse_later)
    sent = SentRows()
    add(sent, 0, 20)
    add(sent, 20, 23)
    sent.add_pack("pack/a", OFFSETS)
    assert not sent.is_whole(23, PACKS)


def test_a_full_disk_is_told_where_a_value_is_put_and_not_where_the_file_is_closed() -> None:
    spill = Spill(0)
    held = spill.put(b"a" * 900)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="large"):
            spill.put(b"b" * 200)
        assert spill.read(held) == b"a" * 900
        spill.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- in a push -----------------------------------------------------------------------------------


@pytest.fixture
def read_keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that commits read from the journal."""
    found: list[str] = []
    genuine = publish._batches_of

    def noting(pages: Any, *rest: Any) -> Iterator[Any]:
        for batch in genuine(pages, *rest):
            found.extend(batch.columns[0])
            yield batch

    monkeypatch.setattr(publish, "_batches_of", noting)
    return found


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("with_metadata", [False, True])
def test_a_first_push_reads_no_row_twice(
    tmp_path: Path, read_keys: list[str], descending: bool, with_metadata: bool
) -> None:
    bench = Bench(tmp_path)
    values = {f"k{number:04}": bytes([number % 251]) * 50 for number in range(1500)}
    # Equal values lie in a pack once.
    expected: dict[str, Any] = dict(sorted(values.items(), reverse=descending))
    with bench.open("a") as db:
        db.update(expected)
        if with_metadata:
            db.set_metadata({"a": 1})
        db.changes().push()
    metadata = [""] if with_metadata else []
    assert read_keys == metadata + (sorted(values) if descending else [])
    assert bench.fresh_contents() == expected | ({"": {"a": 1}} if with_metadata else {})
    read_keys.clear()
    with bench.open("a") as db:
        assert list(db) == sorted(values)
        db["k0003"] = b"x" * 20_000
        del db["k0004"]
        db["z"] = b"1"
        db.changes().push()
    assert read_keys == ["k0003", "k0004", "z"]
    del expected["k0004"]
    assert bench.fresh_contents() == expected | {"k0003": b"x" * 20_000, "z": b"1"} | (
        {"": {"a": 1}} if with_metadata else {}
    )
