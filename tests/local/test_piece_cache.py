"""The cache of pieces of the index: it keeps to its bound, and a write costs what it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.piece_cache import HELD, SPARE_PART, PieceCache
from ebooklet_tx.records import digest_of

BYTES = 1000
BOUND = 32 * BYTES


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A new journal."""
    journal = Journal.open(tmp_path / "j", create=True)
    yield journal
    journal.close()


def cache_of(journal: Journal) -> PieceCache:
    cache = PieceCache(most_bytes=BOUND)
    cache.use(journal)
    return cache


def keep(cache: PieceCache, journal: Journal, numbers: range) -> list[bytes]:
    """Writes a piece for each number, and returns their digests."""
    pieces = [number.to_bytes(2, "big") * (BYTES // 2) for number in numbers]
    cache.put({digest_of(data): data for data in pieces})
    with journal.transaction() as transaction:
        cache.write(transaction)
    return list(map(digest_of, pieces))


def stored(journal: Journal) -> int:
    return int(journal.rows(f"SELECT coalesce(sum(length(bytes)), 0) FROM piece WHERE last_used < {HELD}")[0][0])


def test_those_used_longest_ago_go_first_and_leave_room_for_the_next(journal: Journal) -> None:
    cache = cache_of(journal)
    first = keep(cache, journal, range(1))
    for number in range(1, 32):
        keep(cache, journal, range(number, number + 1))
    assert stored(journal) == BOUND
    assert cache.get(first).keys() == set(first)
    keep(cache, journal, range(32, 33))
    assert stored(journal) == BOUND - BOUND // SPARE_PART
    assert cache.get(first).keys() == set(first)


def test_a_write_that_fits_does_not_go_through_the_table(journal: Journal) -> None:
    cache = cache_of(journal)
    keep(cache, journal, range(20))
    statements: list[str] = []
    journal.raw.set_trace_callback(statements.append)
    for number in range(20, 30):
        keep(cache, journal, range(number, number + 1))
    journal.raw.set_trace_callback(None)
    assert len([text for text in statements if text.lstrip().startswith("INSERT INTO piece")]) == 10
    assert not [text for text in statements if re.search(r"SELECT .*FROM piece", text)]
    assert stored(journal) == 30 * BYTES


def test_what_another_session_keeps_counts(journal: Journal) -> None:
    cache = cache_of(journal)
    keep(cache, journal, range(20))
    other = Journal.open(journal.path, create=False)
    try:
        keep(cache_of(other), other, range(100, 110))
    finally:
        other.close()
    keep(cache, journal, range(20, 30))
    assert stored(journal) <= BOUND


def test_pieces_that_are_released_count_again(journal: Journal) -> None:
    cache = cache_of(journal)
    held = keep(cache, journal, range(30))
    with journal.transaction() as transaction:
        assert cache.hold(transaction, held, {})
    keep(cache, journal, range(30, 60))
    assert stored(journal) == 30 * BYTES
    with journal.transaction() as transaction:
        cache.release_others(transaction, ())
    assert stored(journal) <= BOUND
