"""Taking images into a journal: places name the right objects, and the WAL does not grow without end."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.formats.segment import build_segment, merge_segments, read_segment
from ebooklet_tx.local.journal.index_images import apply_images
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.records import IndexRow, ObjectRef, digest_of

OBJECTS = {
    name: ObjectRef(name, f"etag-{letter}", 10_000) for letter in "abcd" for name in [f"pack/{letter * 32}"]
}
A, B, C, D = OBJECTS


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "x.journal", create=True)
    yield opened
    opened.close()


def row(key: str, seq: int, name: str | None, offset_bytes: int = 0) -> IndexRow:
    if name is None:
        return IndexRow(key, seq, 1, None, None, None, None, None)
    return IndexRow(key, seq, 1, digest_of(key.encode()), name, offset_bytes, 10, None)


def image_of(rows: Sequence[IndexRow]) -> bytes:
    return read_segment(build_segment(rows, OBJECTS, []), name="an image")


def places(journal: Journal) -> dict[str, tuple[int, str | None, int | None]]:
    with journal.reading() as raw:
        rows = raw.execute(
            "SELECT key, remote_seq, name, remote_offset_bytes FROM entry "
            "LEFT JOIN remote_object ON remote_object.id = entry.remote_object"
        )
        return {key: (seq, name, offset) for key, seq, name, offset in rows}


FIRST = [row("a", 1, A, 1), row("b", 1, B, 2), row("c", 1, B, 3)]
SECOND = [row("b", 2, C, 4), row("c", 2, None), row("d", 2, B, 5), row("e", 2, A, 6)]
TOGETHER = {"a": (1, A, 1), "b": (2, C, 4), "c": (2, None, None), "d": (2, B, 5), "e": (2, A, 6)}


def test_objects_that_images_number_differently(journal: Journal) -> None:
    apply_images(journal, [image_of(FIRST), image_of(SECOND)], base_seq=0, facts={"base_seq": 2})
    assert places(journal) == TOGETHER
    apply_images(journal, [image_of([row("a", 3, D, 7), row("f", 3, C, 8)])], base_seq=2, facts={"base_seq": 3})
    assert places(journal) == TOGETHER | {"a": (3, D, 7), "f": (3, C, 8)}


def test_one_after_the_other_is_as_both_together(journal: Journal) -> None:
    apply_images(journal, [image_of(FIRST)], base_seq=0, facts={"base_seq": 1})
    apply_images(journal, [image_of(SECOND)], base_seq=1, facts={"base_seq": 2})
    assert places(journal) == TOGETHER


def test_an_image_whose_numbers_have_gaps(journal: Journal) -> None:
    merged = merge_segments(
        [image_of([row("x", 1, D), *FIRST]), image_of([row("x", 2, None), *SECOND])], drop_tombstones=True
    )
    image = read_segment(merged, name="a merge")
    apply_images(journal, [image, image_of([row("g", 3, B, 9)])], base_seq=0, facts={"base_seq": 3})
    expected = {key: place for key, place in TOGETHER.items() if place[1] is not None}
    assert places(journal) == expected | {"g": (3, B, 9)}


def test_all_anew_over_what_is_known(journal: Journal) -> None:
    apply_images(journal, [image_of(SECOND)], base_seq=0, facts={"base_seq": 2})
    apply_images(journal, [image_of(FIRST)], base_seq=0, facts={"base_seq": 1}, full=True)
    assert places(journal) == {"a": (1, A, 1), "b": (1, B, 2), "c": (1, B, 3)}


def test_the_wal_is_copied_after_the_first_take_in_and_not_in_it(journal: Journal) -> None:
    wal = journal.path.with_name(journal.path.name + "-wal")
    names = [f"{number:032x}" for number in random.Random(1).sample(range(2**60), 3000)]
    journal.raw.execute("PRAGMA wal_autocheckpoint = 10")
    journal.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = journal.path.stat().st_size
    rows = [row(name, 1, A) for name in sorted(names)]
    apply_images(journal, [image_of(rows)], base_seq=0, facts={"base_seq": 1})
    assert journal.path.stat().st_size == before
    assert wal.stat().st_size > 60 * 4096
    assert journal.raw.execute("PRAGMA wal_autocheckpoint").fetchone() == (10,)
    journal.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for seq in range(2, 60):
        apply_images(journal, [image_of([row(names[seq], seq, B)])], base_seq=seq - 1, facts={"base_seq": seq})
    assert wal.stat().st_size < 40 * 4096
    assert len(places(journal)) == 3000


def test_a_take_in_that_fails_leaves_the_journal_and_its_settings(journal: Journal) -> None:
    with journal.transaction() as transaction:
        driver(transaction).execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON entry BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    with pytest.raises(LocalStorageError, match="refused"):
        apply_images(journal, [image_of(FIRST)], base_seq=0, facts={"base_seq": 1})
    assert places(journal) == {}
    assert journal.raw.execute("SELECT count(*) FROM remote_object").fetchone() == (0,)
    assert journal.raw.execute("PRAGMA wal_autocheckpoint").fetchone() == (1000,)
    assert [name for _, name, _ in journal.raw.execute("PRAGMA database_list")] == ["main"]
