"""Transactions that wait for the fsync of the next one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebooklet_tx.local.journal.integrity.commit_mark import missing_commits, read_mark
from ebooklet_tx.local.journal.integrity.lost_commits import commit_count
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta, side_files


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "a.journal", create=True)
    yield opened
    opened.close()


def note(journal: Journal, name: str, *, durable: bool) -> int:
    """Notes a fact in a transaction; returns how the COMMIT of it syncs, as SQLite says."""
    with journal.transaction(durable=durable) as transaction:
        put_meta(transaction, {name: 1})
        ((level,),) = driver(transaction).execute("PRAGMA synchronous").fetchall()
    return int(level)


def test_each_one_syncs_but_those_that_need_not(journal: Journal) -> None:
    normal, full = 1, 2
    asked = [True, False, False, True, True, False, True]
    assert [note(journal, "a", durable=each) for each in asked] == [full if each else normal for each in asked]


def test_one_that_failed_leaves_the_next_one_durable(journal: Journal) -> None:
    with pytest.raises(ZeroDivisionError), journal.transaction(durable=False):
        raise ZeroDivisionError
    assert note(journal, "a", durable=True) == 2


def test_power_loss_that_takes_one_back_is_no_damage(journal: Journal, tmp_path: Path) -> None:
    note(journal, "kept", durable=True)
    lost = tmp_path / "lost"
    lost.mkdir()
    files = (journal.path, *side_files(journal.path))
    for path in files[:2]:
        shutil.copy(path, lost)
    note(journal, "relaxed", durable=False)
    # The mark may reach the disk before the WAL does.
    mark = side_files(journal.path).mark
    shutil.copy(mark, lost)
    again = Journal.open(lost / journal.path.name, create=False)
    assert (again.get_meta("kept"), again.get_meta("relaxed")) == (1, None)
    again.close()
    assert missing_commits(read_mark(mark), commit_count(journal.raw)) == 0
    note(journal, "next", durable=True)
    assert read_mark(mark) == commit_count(journal.raw)
