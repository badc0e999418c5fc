"""Pending operations and what is known of the remote: bases, numbers, intents, and moves of the base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.local.journal.intents import (
    Intent,
    add_intent,
    apply_intent,
    drop_intents,
    lose_intent,
    read_intents,
)
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.journal.known import (
    apply_rows,
    drop_done,
    forget_known,
    keys_to_look_up,
    keys_with_unknown_base,
    learn,
    lose_bases,
    set_bases,
)
from ebooklet_tx.local.journal.operations import BASE_LOST, discard, record_deletes, record_sets
from ebooklet_tx.records import ObjectRef, RemoteSide, digest_of

A, B, C = (digest_of(value) for value in (b"a", b"b", b"c"))
PACK = ObjectRef("pack/" + "0" * 32, "etag", 100)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    path = tmp_path / "a.blt.journal"
    (tmp_path / "a.blt").touch()
    journal = Journal.open(path, create=True)
    yield journal
    journal.close()


def row(journal: Journal, key: str) -> dict[str, Any]:
    names = [name for _, name, *_ in journal.rows("PRAGMA table_info(entry)")]
    found = journal.rows(f"SELECT {', '.join(names)} FROM entry WHERE key = ?", (key,))
    return dict(zip(names, found[0], strict=True)) if found else {}


def base(journal: Journal, commit_id: str, seq: int = 1, floor: int = 0) -> None:
    with journal.transaction() as transaction:
        put_meta(transaction, {"base_commit_id": commit_id, "base_seq": seq, "base_tombstone_floor": floor})


def sets(journal: Journal, *rows: tuple[str, bytes]) -> None:
    with journal.transaction() as transaction:
        record_sets(driver(transaction), [(key, digest, 5, 1) for key, digest in rows])


def deletes(journal: Journal, *keys: str) -> None:
    with journal.transaction() as transaction:
        record_deletes(driver(transaction), [(key, 6) for key in keys])


def side(key: str, digest: bytes | None, seq: int = 1, stamp: int = 1) -> RemoteSide:
    return RemoteSide(
        key, seq, stamp, digest, PACK if digest else None, 0 if digest else None, 1 if digest else None
    )


def learned(journal: Journal, commit_id: str, *sides: RemoteSide | None, keys: tuple[str, ...] = ()) -> bool:
    found: dict[str, RemoteSide | None] = {each.key: each for each in sides if each is not None}
    found |= dict.fromkeys(keys)
    with journal.transaction() as transaction:
        return learn(driver(transaction), found, commit_id=commit_id)


def test_without_a_remote_everything_is_known(journal: Journal) -> None:
    sets(journal, ("k", A))
    assert row(journal, "k") | {"known": 1, "pending": 1, "base_kind": 0, "base_at": None} == row(journal, "k")
    assert keys_to_look_up(journal) == []
    deletes(journal, "k")
    assert row(journal, "k") == {}


def test_a_blind_write_keeps_an_unknown_base(journal: Journal) -> None:
    base(journal, "c1")
    sets(journal, ("k", A), ("", A))
    assert keys_to_look_up(journal) == ["", "k"]
    sets(journal, ("k", B))
    assert row(journal, "k")["base_kind"] == 1
    assert not learned(journal, "c0", side("k", C))
    assert learned(journal, "c1", side("k", C), keys=("",))
    now = row(journal, "k")
    assert (now["base_digest"], now["base_kind"], now["remote_digest"]) == (C, 0, C)
    assert now["known"]
    assert keys_to_look_up(journal) == []


def test_a_blind_delete_of_what_is_not_there_goes_once_that_is_known(journal: Journal) -> None:
    base(journal, "c1")
    deletes(journal, "k")
    assert row(journal, "k")["pending"] == 2
    learned(journal, "c1", keys=("k",))
    with journal.transaction() as transaction:
        drop_done(driver(transaction))
    assert row(journal, "k") == {}


def test_an_applied_intent_is_the_remote_side_of_its_keys(journal: Journal) -> None:
    base(journal, "c1")
    sets(journal, ("kept", A), ("again", A), ("gone", A), ("undone", A))
    learned(journal, "c1", keys=("kept", "again", "gone", "undone"))
    intent = Intent("c2", 2, "e1", "c1", 4, replaces=False)
    with journal.transaction() as transaction:
        add_intent(driver(transaction), intent, begun_at_us=1)
    sets(journal, ("again", B), ("later", C))
    deletes(journal, "gone")
    with journal.transaction() as transaction:
        assert discard(driver(transaction), ["undone"]) == 1
    assert read_intents(journal) == [intent]
    with journal.transaction() as transaction:
        raw = driver(transaction)
        raw.execute("UPDATE entry SET local_digest = ?, local_offset_bytes = 0, local_length_bytes = 1", (A,))
        apply_intent(raw, intent, root=ObjectRef("", "e2", 9))
        drop_intents(raw)
    kept, again, gone, later = (row(journal, key) for key in ("kept", "again", "gone", "later"))
    assert (kept["pending"], kept["remote_digest"], kept["remote_seq"]) == (0, A, 2)
    assert kept["known"]
    assert (again["pending"], again["pending_digest"], again["base_digest"]) == (1, B, A)
    assert again["base_at"] == "c2"
    assert again["remote_digest"] == A
    assert (gone["pending"], gone["base_digest"]) == (2, A)
    assert (later["base_kind"], later["base_at"]) == (1, "c2")
    assert row(journal, "undone") == {}


def test_a_later_push_of_the_same_base_says_what_it_sent_itself(journal: Journal) -> None:
    base(journal, "c1")
    sets(journal, ("again", A), ("twice", A), ("undone", A))
    learned(journal, "c1", keys=("again", "twice", "undone"))
    first = Intent("c2", 2, "e1", "c1", 3, replaces=False)
    second = Intent("c2b", 2, "e1", "c1", 5, replaces=False)
    with journal.transaction() as transaction:
        add_intent(driver(transaction), first, begun_at_us=1)
        driver(transaction).execute("UPDATE entry SET local_digest = ?", (C,))
    sets(journal, ("again", B), ("twice", B))
    with journal.transaction() as transaction:
        discard(driver(transaction), ["undone"])
        add_intent(driver(transaction), second, begun_at_us=2)
    sets(journal, ("twice", C))
    with journal.transaction() as transaction:
        raw = driver(transaction)
        apply_intent(raw, second, root=ObjectRef("", "e2", 9))
        drop_intents(raw)
        assert raw.execute("SELECT count(*) FROM pushed_version").fetchone() == (0,)
    again, twice, undone = (row(journal, key) for key in ("again", "twice", "undone"))
    assert (again["pending"], again["remote_digest"]) == (0, B)
    assert (twice["pending"], twice["pending_digest"], twice["base_digest"]) == (1, C, B)
    assert twice["remote_digest"] == B
    assert (undone["pending"], undone["remote_digest"]) == (0, None)


def test_a_lost_intent_leaves_bases_that_nothing_says(journal: Journal) -> None:
    base(journal, "c1")
    sets(journal, ("k", A))
    intent = Intent("c2", 2, "e1", "c1", 1, replaces=False)
    with journal.transaction() as transaction:
        add_intent(driver(transaction), intent, begun_at_us=1)
    sets(journal, ("k", B), ("other", B))
    with journal.transaction() as transaction:
        lose_intent(driver(transaction), intent)
    assert (row(journal, "k")["base_kind"], row(journal, "other")["base_kind"]) == (BASE_LOST, 1)


def test_a_pull_corrects_what_is_known_and_moves_bases_on(journal: Journal) -> None:
    base(journal, "c1")
    sets(journal, ("same", A), ("changed", A), ("blind", A))
    learned(journal, "c1", side("same", B), side("changed", B))
    with journal.transaction() as transaction:
        assert keys_with_unknown_base(driver(transaction), "c1") == ["blind"]
        set_bases(driver(transaction), {"blind": side("blind", B)})
        apply_rows(
            driver(transaction),
            {"changed": side("changed", C, seq=2), "blind": side("blind", C, seq=2), "none": side("none", C)},
            left="c1",
            reached="c2",
        )
        put_meta(transaction, {"base_commit_id": "c2"})
    same, changed, blind = (row(journal, key) for key in ("same", "changed", "blind"))
    assert (same["base_at"], same["remote_digest"]) == ("c2", B)
    assert (changed["base_at"], changed["base_digest"], changed["remote_digest"]) == ("c1", B, C)
    # What the commits say of a pending key is exact, whether it was looked up or not.
    assert (blind["base_at"], blind["base_digest"], blind["remote_digest"]) == ("c1", B, C)
    assert blind["known"]
    assert row(journal, "none") == {}
    assert keys_to_look_up(journal) == []


@pytest.mark.parametrize(("seq", "remote_seq", "inferred"), [(3, 2, True), (3, 4, False), (None, 2, False)])
def test_a_lost_base_is_inferred_from_an_unchanged_remote(
    journal: Journal, seq: int | None, remote_seq: int, inferred: bool
) -> None:
    base(journal, "c3", seq=3)
    sets(journal, ("k", A))
    with journal.transaction() as transaction:
        lose_bases(driver(transaction), ["k"], seq=seq)
        forget_known(driver(transaction))
    base(journal, "c9", seq=9)
    learned(journal, "c9", side("k", B, seq=remote_seq))
    assert (row(journal, "k")["base_kind"], row(journal, "k")["base_digest"]) == (
        (0, B) if inferred else (BASE_LOST, None)
    )
