"""The base as the journal records it, and facts with their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebooklet_tx.local.journal import facts
from ebooklet_tx.local.journal.base import Base, base_facts, read_base
from ebooklet_tx.local.journal.journal import Journal, put_meta
from ebooklet_tx.local.journal.pending.detachment import is_deletion_begun, note_deletion
from ebooklet_tx.records import CommitWay

BASE = Base(
    seq=3,
    etag='"e"',
    commit_id="c" * 32,
    key_count=5,
    fence=2,
    tombstone_floor=1,
    root=b"the root",
    commits=CommitWay("quoted", "endpoint", "bucket"),
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path / "f.journal", create=True)
    yield journal
    journal.close()


def record(journal: Journal, base: Base) -> None:
    with journal.transaction() as transaction:
        put_meta(transaction, base_facts(base))


def test_what_is_recorded_of_a_base_is_read_back(journal: Journal) -> None:
    assert read_base(journal) == Base()
    for base in (BASE, Base(seq=4, commit_id="d" * 32), Base(seq=1, commit_id="e" * 32, format=1)):
        record(journal, base)
        assert read_base(journal) == base


def test_a_database_that_was_pushed_before_types_were_noted_is_a_booklet(journal: Journal) -> None:
    assert facts.known_type(journal) is None
    record(journal, BASE)
    assert facts.known_type(journal) == "booklet"
    facts.note_type(journal, "group")
    assert facts.known_type(journal) == "group"


def test_a_replaced_remote_is_no_longer_to_be_replaced(journal: Journal) -> None:
    facts.note_replacing(journal, kept_uuid="u" * 32)
    assert (facts.is_replacing(journal), facts.kept_uuid(journal)) == (True, "u" * 32)
    with journal.transaction() as transaction:
        put_meta(transaction, facts.REPLACED)
    assert (facts.is_replacing(journal), facts.kept_uuid(journal)) == (False, None)


def test_a_deletion_counts_for_the_base_that_it_names(journal: Journal) -> None:
    record(journal, BASE)
    note_deletion(journal)
    assert is_deletion_begun(journal)
    record(journal, Base(seq=4, commit_id="d" * 32))
    assert not is_deletion_begun(journal)
