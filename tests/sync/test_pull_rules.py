"""What a root means for a journal: rules of moving the base, by plain values and by an index of a dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from ebooklet_tx.formats.manifest import Manifest
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.index.difference import Holdings
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.intents import Intent
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.journal.operations import record_sets
from ebooklet_tx.local.journal.pending.pull_view import PullView
from ebooklet_tx.records import IndexRow, ObjectRef, digest_of
from ebooklet_tx.sync.pull.identity import Identity, may_join, replacing_uuid
from ebooklet_tx.sync.pull.move_base import outcomes_of, plan_move

BASE = Base(seq=7, etag="e7", commit_id="seven")
MANIFEST = Manifest(
    uuid="u" * 32,
    type="booklet",
    seq=9,
    commit_id="nine",
    parent="eight",
    committed_at_us=0,
    writer="host:1",
    fence=0,
    value_serializer=None,
    key_count=20,
    tombstone_floor=3,
    n_buckets=12007,
    recent=((9, "nine"), (8, "eight"), (7, "seven")),
    records=(),
    histories=(),
    runs=(),
)
HERE = Identity("a.blt", "a" * 32, "booklet", None)
THERE = Identity("'db'", "b" * 32, "booklet", None)
ROOT = ObjectRef("", "e9", 100)
VIEW = PullView(Base(), (), False, bytes.fromhex("a" * 32), False)


@dataclass
class DictIndex:
    """The index of one commit, as a dict of rows; notes what it is asked for."""

    manifest: Manifest = MANIFEST
    rows: dict[str, int] = field(default_factory=dict)
    asked: list[object] = field(default_factory=list)
    ref: ObjectRef = ROOT

    def commit_at(self, seq: int) -> str | None:
        return dict(self.manifest.recent).get(seq)

    def _row(self, key: str) -> LocatedRow:
        value = key.encode()
        row = IndexRow(key, self.rows[key], 1, digest_of(value), None, None, len(value), value)
        return LocatedRow(row, self.ref)

    def lookup(self, keys: Iterable[str]) -> dict[str, LocatedRow]:
        self.asked.append(sorted(keys))
        return {key: self._row(key) for key in keys if key in self.rows}

    def changes_since(self, seq: int, holdings: Holdings) -> dict[str, LocatedRow]:
        self.asked.append(seq)
        changed = [key for key, at in self.rows.items() if at > seq]
        return {key: self._row(key) for key in holdings.of(changed)}


def as_index(index: DictIndex | None) -> CommitIndex:
    return cast(CommitIndex, index)


def intent(commit_id: str, seq: int = 8, base_etag: str | None = "e7") -> Intent:
    return Intent(commit_id, seq, base_etag, "seven", 5, replaces=False)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal on commit 7 with two keys that were written blindly there."""
    opened = Journal.open(tmp_path / "x.journal", create=True)
    with opened.transaction() as transaction:
        put_meta(transaction, {"base_commit_id": "seven", "base_seq": 7})
        record_sets(driver(transaction), [(key, digest_of(b"ours"), 1, 4) for key in ("changed", "quiet")])
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("manifest", "leads", "full"),
    [
        (MANIFEST, True, False),
        (replace(MANIFEST, tombstone_floor=7), True, False),
        (replace(MANIFEST, tombstone_floor=8), True, True),
        (replace(MANIFEST, recent=((9, "nine"), (8, "eight"), (7, "another"))), False, True),
        (replace(MANIFEST, recent=((9, "nine"), (8, "eight"))), False, True),
        (replace(MANIFEST, seq=7, commit_id="another", recent=((7, "another"),)), False, True),
        (replace(MANIFEST, seq=6, commit_id="six", recent=((6, "six"),)), False, True),
    ],
)
def test_every_key_becomes_unknown_where_rows_do_not_tell_the_difference(
    journal: Journal, manifest: Manifest, leads: bool, full: bool
) -> None:
    new = DictIndex(manifest)
    move = plan_move(journal, BASE, as_index(DictIndex()), as_index(new), ())
    assert (move.leads, move.full) == (leads, full)
    # The newer index is read only for its later rows.
    assert new.asked == ([] if full else [7])


def test_a_first_pull_makes_every_key_unknown(journal: Journal) -> None:
    move = plan_move(journal, Base(), None, as_index(DictIndex()), ())
    assert (move.leads, move.full, move.found) == (False, True, {})


def test_bases_are_looked_up_where_the_commit_that_tells_them_is_left(journal: Journal) -> None:
    old, new = DictIndex(rows={"changed": 2, "quiet": 3}), DictIndex(rows={"changed": 8, "quiet": 3, "other": 9})
    move = plan_move(journal, BASE, as_index(old), as_index(new), ())
    assert list(move.changed) == ["changed"]
    assert old.asked == [["changed"]]
    assert move.found is not None
    assert [item.row.seq for item in move.found.values()] == [2]
    # Where nothing leads on, all of them are.
    old.asked.clear()
    plan_move(journal, BASE, as_index(old), as_index(DictIndex(replace(MANIFEST, tombstone_floor=9))), ())
    assert old.asked == [["changed", "quiet"]]


def test_a_commit_of_ours_that_took_place_is_what_later_ones_lead_on_from(journal: Journal) -> None:
    new = DictIndex(replace(MANIFEST, recent=((9, "nine"), (8, "ours"), (7, "seven"))), rows={"changed": 8})
    move = plan_move(journal, BASE, as_index(DictIndex()), as_index(new), [intent("ours")])
    assert move.standing == (8, "ours")
    assert (move.leads, new.asked, move.changed) == (True, [8], {})


@pytest.mark.parametrize(
    ("pushed", "fate"),
    [
        (intent("nine", 9), "applied"),
        (intent("eight"), "applied"),
        (intent("lost"), "dropped"),
        (intent("late", 10, "e9"), None),
        (intent("early", 5), "lost"),
    ],
)
def test_a_push_is_told_by_the_history_alone(pushed: Intent, fate: str | None) -> None:
    outcomes = outcomes_of([pushed], as_index(DictIndex()))
    told: dict[str, Any] = {name: getattr(outcomes, name) for name in ("applied", "dropped", "lost")}
    assert {name for name, found in told.items() if found} == ({fate} if fate else set())


@pytest.mark.parametrize(
    ("view", "there", "joins"),
    [
        (VIEW, THERE, True),
        (VIEW, replace(THERE, uuid=HERE.uuid), False),
        (VIEW, replace(THERE, type="group"), False),
        (VIEW, replace(THERE, serializer="pickle"), False),
        (replace(VIEW, base=BASE), THERE, False),
        (replace(VIEW, origin_uuid=None), THERE, False),
        (replace(VIEW, origin_uuid=b"c" * 16), THERE, False),
        (replace(VIEW, detached=True), THERE, False),
    ],
)
def test_a_file_joins_while_nobody_has_a_copy_of_it(view: PullView, there: Identity, joins: bool) -> None:
    assert may_join(HERE, there, view) is joins


def test_a_replacement_keeps_the_uuid_of_its_own_kind_alone() -> None:
    assert replacing_uuid(HERE, THERE, None) == THERE.uuid
    assert replacing_uuid(replace(HERE, uuid=THERE.uuid), THERE, None) is None
    group = replace(THERE, type="group")
    assert replacing_uuid(HERE, group, None) is None
    assert replacing_uuid(HERE, None, None) is None
    for kept, there in ((HERE.uuid, None), (HERE.uuid, group), (None, replace(group, uuid=HERE.uuid))):
        assert replacing_uuid(HERE, there, kept) not in (None, HERE.uuid, THERE.uuid)
