"""Compaction: mostly dead packs are written anew, nothing else changes, and nothing is lost on the way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import InvalidArgumentError, OfflineError, ReadOnlyError
from ebooklet_tx.formats.pack import PackBuilder
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.local.journal.inline_values import prune_inline_values
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.remote_objects import object_ref
from ebooklet_tx.maintenance import compact as compacting
from ebooklet_tx.maintenance.compact import compact
from ebooklet_tx.maintenance.merged_root import MergedRoot
from ebooklet_tx.sync.pull.conflicts import ConflictError
from ebooklet_tx.sync.read import near_ranges
from tests.campaigns import amounts
from tests.pairs import limit_tails
from tests.store_wrappers import CountingStore, Fault, FaultyStore, GatedStore, PassingStore
from tests.yard import Yard, value

ADD_ROOT = MergedRoot.add_root


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def make_hollow(yard: Yard) -> dict[str, bytes]:
    """Pushes a pack of ten values and overwrites seven of them; returns what is there then."""
    yard.push({f"k{number}": value(number) for number in range(10)}, at_hours=0)
    newer = {f"k{number}": value(f"newer {number}") for number in range(7)}
    yard.push(newer, at_hours=1)
    return {f"k{number}": value(number) for number in range(7, 10)} | newer


def rows(yard: Yard, copy: str = "looker") -> dict[str, tuple[bytes, int]]:
    """Digest and timestamp of every key, as another machine hears of them."""
    with yard.open(copy, "r") as db:
        return {e.key: (e.digest or b"", e.timestamp_us) for e in entries_where(db._session.journal, "1")}


def test_a_mostly_dead_pack_is_written_anew_and_its_rows_only_move(yard: Yard) -> None:
    expected = make_hollow(yard)
    before, hollow = rows(yard, "before"), yard.keys("pack")[0]
    report = yard.compact()
    assert (report.commits, report.packs, report.moved_keys, report.seq) == (1, 1, 3, 3)
    assert report.moved_bytes == 3 * 6000
    assert report.freed_bytes == len(yard.store.objects[hollow].data)
    assert (report.kept_packs, report.unreadable_keys) == ((), ())
    assert rows(yard, "after") == before
    assert yard.fresh_contents() == expected
    assert yard.collect(at_hours=100).deleted_names == (hollow,)
    assert yard.fresh_contents() == expected
    assert yard.verify(read_values=True).sound
    assert report.to_dict()["packs"] == 1


def test_many_small_packs_become_few_and_stay_so(yard: Yard) -> None:
    expected = {}
    for number in range(compacting.MANY_SMALL_PACKS - 1):
        expected[f"k{number:02}"] = value(number)
        yard.push({f"k{number:02}": value(number)} | {f"x{number:02}": value(-number - 1)}, at_hours=number)
        expected[f"x{number:02}"] = value(-number - 1)
    assert yard.compact().packs == 0
    yard.push({"last": value("last"), "too": value("too")}, at_hours=20)
    expected |= {"last": value("last"), "too": value("too")}
    before, packs = rows(yard, "before"), len(yard.keys("pack"))
    assert packs >= compacting.MANY_SMALL_PACKS
    report = yard.compact()
    assert (report.commits, report.packs) == (1, packs)
    assert len(yard.keys("pack")) == packs + 1
    assert rows(yard, "after") == before
    assert yard.fresh_contents() == expected
    assert yard.compact().packs == 0


def test_the_history_shows_a_compaction_as_a_commit_of_no_change(yard: Yard) -> None:
    make_hollow(yard)
    yard.compact()
    with yard.open("b", "r") as db:
        index = db._session.index.of_base(read_base(db._session.journal))
        assert index is not None
        record = index.manifest.records[0]
        assert (record.seq, record.set_count, record.deleted_count, record.value_bytes) == (3, 0, 0, 0)
        assert len(db) == 10
    assert yard.verify().key_count == 10


def test_there_is_nothing_to_do_where_enough_is_live(yard: Yard) -> None:
    make_hollow(yard)
    assert yard.compact(live_share=0.25).commits == 0
    assert yard.compact(live_share=0.5).commits == 1
    counting = CountingStore(yard.store)
    assert yard.compact(wrap=lambda _store: counting).commits == 0
    assert counting.requests["put"] == 0


def test_packs_are_due_by_name_whatever_their_share(yard: Yard) -> None:
    yard.push({"k": value(1)})
    old = yard.keys("pack")[0]
    assert yard.compact(packs=[old.removeprefix("db.d/")]).packs == 1
    assert yard.collect(grace_seconds=0).deleted_names == (old,)
    assert yard.fresh_contents() == {"k": value(1)}


def test_a_damaged_pack_is_healed_from_the_machine_that_has_its_values(yard: Yard) -> None:
    yard.push({"k": value(1), "other": value(2)})
    old = yard.keys("pack")[0]
    yard.store.put(old, bytes(len(yard.store.objects[old].data)))
    assert not yard.verify(read_values=True, file_path=yard.path()).sound
    assert yard.compact(packs=[old.removeprefix("db.d/")]).moved_keys == 2
    assert yard.verify(read_values=True).sound
    assert yard.fresh_contents() == {"k": value(1), "other": value(2)}


def test_values_that_are_not_here_come_by_joined_reads_and_are_not_kept(yard: Yard) -> None:
    expected = make_hollow(yard)
    counting = CountingStore(yard.store)
    report = yard.compact("other machine", wrap=lambda _store: counting)
    assert report.moved_keys == 3
    assert counting.requests["get_range"] == 1
    with yard.open("other machine", "r") as db:
        assert not list(entries_where(db._session.journal, "local_digest IS NOT NULL"))
    assert yard.fresh_contents() == expected


def test_values_on_this_machine_are_not_read_from_the_remote(yard: Yard) -> None:
    make_hollow(yard)
    counting = CountingStore(yard.store)
    yard.compact(wrap=lambda _store: counting)
    assert counting.requests["get_range"] == 0


def test_far_ranges_are_read_apart_and_equal_values_are_packed_once(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_ranges, "JOIN_GAP_BYTES", 1000)
    first = {f"k{number}": value(number) for number in range(10)} | {"twin": value(0)}
    yard.push(first)
    gone = {f"k{number}": None for number in range(1, 9)}
    yard.push(gone)
    counting = CountingStore(yard.store)
    report = yard.compact("b", wrap=lambda _store: counting)
    assert (report.moved_keys, report.moved_bytes) == (3, 2 * 6000)
    assert counting.requests["get_range"] == 2
    assert yard.fresh_contents() == {"k0": value(0), "k9": value(9), "twin": value(0)}


def test_new_packs_are_full_before_another_is_begun(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_hollow(yard)
    monkeypatch.setattr(compacting, "PACK_BYTES", 13_000)
    old = yard.keys("pack")
    yard.hours = 2
    # Packs over the bound count as those of one large value, so the old one is not due now.
    assert yard.compact().kept_packs == (old[0].removeprefix("db.d/"),)
    monkeypatch.setattr(compacting, "PACK_BYTES", 2**24)
    add = PackBuilder.add_within
    monkeypatch.setattr(PackBuilder, "add_within", lambda *args: add(*args[:-1], args[-1] - 2**24))
    assert yard.compact().packs == 1
    assert len(set(yard.keys("pack")) - set(old)) == 3
    assert yard.fresh_contents() == expected


def test_many_packs_go_by_several_commits(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "KEYS_PER_COMMIT", 5)
    expected = {}
    for push in range(4):
        yard.push({f"{push}-{number}": value((push, number)) for number in range(8)})
        yard.push({f"{push}-{number}": None for number in range(6 - push % 2)})
        expected |= {f"{push}-{number}": value((push, number)) for number in range(6 - push % 2, 8)}
    looks = []

    def add_root(self: MergedRoot, *arguments: Any) -> None:
        looks.append(self)
        ADD_ROOT(self, *arguments)

    monkeypatch.setattr(MergedRoot, "add_root", add_root)
    report = yard.compact()
    assert (report.commits, report.packs, report.moved_keys) == (3, 4, 10)
    assert len(looks) == 2, "the whole index is not gone through for each commit"
    assert yard.fresh_contents() == expected


def test_a_pack_with_a_pending_key_waits(yard: Yard) -> None:
    make_hollow(yard)
    with yard.open() as db:
        db["k8"] = b"not pushed yet"
        report = compact(db._session)
        assert (report.commits, len(report.kept_packs)) == (0, 1)
        db.changes().push()
        assert compact(db._session).packs == 1
    assert yard.fresh_contents()["k8"] == b"not pushed yet"


def test_a_value_that_cannot_be_had_stays_where_it_is(yard: Yard) -> None:
    make_hollow(yard)
    pack = yard.keys("pack")[0]
    data = yard.store.objects[pack].data
    at = data.index(value(8))
    yard.store.put(pack, data[:at] + b"x" * 10 + data[at + 10 :])
    report = yard.compact("b")
    assert report.unreadable_keys == ("k8",)
    assert (report.moved_keys, report.packs) == (2, 0)
    assert report.kept_packs == (pack.removeprefix("db.d/"),)
    assert pack not in yard.collect(at_hours=100).deleted_names
    yard.store.delete(pack)
    assert yard.compact("c").unreadable_keys == ("k8",)
    # The machine that has it heals it.
    assert yard.compact("a").packs == 1
    assert yard.fresh_contents()["k8"] == value(8)


def test_a_pack_cut_short_gives_what_it_has(yard: Yard) -> None:
    make_hollow(yard)
    pack = yard.keys("pack")[0]
    data = yard.store.objects[pack].data
    yard.store.put(pack, data[: data.index(value(9))])
    report = yard.compact("b")
    assert report.unreadable_keys == ("k9",)
    assert report.moved_keys == 2


def test_compact_refuses_what_it_cannot_do(yard: Yard) -> None:
    make_hollow(yard)
    with yard.open("b", "r") as db, pytest.raises(ReadOnlyError):
        compact(db._session)
    with yard.open() as db:
        with db.transaction(), pytest.raises(InvalidArgumentError, match="transaction"):
            compact(db._session)
        for share in (-0.1, 1.1, float("nan")):
            with pytest.raises(InvalidArgumentError, match="live_share"):
                compact(db._session, live_share=share)
    with yard.open("new", "n") as db:
        assert compact(db._session).commits == 0


@pytest.mark.parametrize("conditional", [True, False])
def test_compact_under_a_lock(yard: Yard, conditional: bool) -> None:
    expected = make_hollow(yard)
    with yard.open("b", "w", lock="exclusive", conditional_writes=conditional) as db:
        assert compact(db._session).packs == 1
    assert yard.fresh_contents() == expected


# -- beside other writers ----------------------------------------------------------------------


def moved_beside(yard: Yard, change: Callable[[], object], *, conditional: bool) -> int:
    """Compacts copy "a" while another writer changes something with copy "b"; returns how many keys moved."""
    with yard.open("b", "w"):
        pass
    gate = GatedStore(yard.store, 1, kind="put")

    def run() -> int:
        with yard.open("a", "w", wrap=lambda _store: gate, conditional_writes=conditional) as db:
            return compact(db._session).moved_keys

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        gate.wait_until_stopped()
        change()
        gate.opened.set()
        return future.result()


@pytest.mark.parametrize("conditional", [True, False])
def test_a_key_that_another_writer_changed_meanwhile_keeps_his_row(yard: Yard, conditional: bool) -> None:
    expected = make_hollow(yard)
    moved = moved_beside(yard, lambda: yard.push({"k8": b"his", "k9": None}, "b"), conditional=conditional)
    # k7; and once more, as two thirds of the new pack were dead when it was committed.
    assert moved == 2
    expected["k8"] = b"his"
    del expected["k9"]
    assert yard.fresh_contents() == expected
    assert yard.contents("a") == expected
    assert yard.verify(read_values=True).sound


@pytest.mark.parametrize("conditional", [True, False])
def test_a_key_of_which_another_writer_changed_the_timestamp_alone_keeps_it(
    yard: Yard, conditional: bool
) -> None:
    make_hollow(yard)

    def change() -> None:
        with yard.open("b", "w") as db:
            db.set_timestamp("k8", 1_700_000_000_000_123)
            db.changes().push()

    assert moved_beside(yard, change, conditional=conditional) == 3
    with yard.open("another", "r") as db:
        assert db.get_timestamp("k8") == 1_700_000_000_000_123
    with yard.open("b", "r") as db:
        assert db.get_timestamp("k8") == 1_700_000_000_000_123
    assert yard.verify(read_values=True).sound


def test_a_compaction_that_finds_everything_changed_commits_nothing(yard: Yard) -> None:
    make_hollow(yard)
    with yard.open("b", "w"):
        pass
    gate = GatedStore(yard.store, 2, kind="put")
    with yard.open("a", "w", wrap=lambda _store: gate) as db, ThreadPoolExecutor(1) as pool:
        future = pool.submit(compact, db._session)
        gate.wait_until_stopped()
        yard.push({"k7": b"his", "k8": b"his", "k9": b"his"}, "b")
        gate.opened.set()
        report = future.result()
    assert (report.commits, report.moved_keys, report.packs) == (0, 0, 1)


def test_a_key_set_here_while_a_compaction_commits_stays_pending(yard: Yard) -> None:
    expected = make_hollow(yard)
    gate = GatedStore(yard.store, 2, kind="put")
    with yard.open("a", "w", wrap=lambda _store: gate) as db, ThreadPoolExecutor(1) as pool:
        future = pool.submit(compact, db._session)
        gate.wait_until_stopped()
        db["k8"] = b"ours"
        db.sync()
        gate.opened.set()
        assert future.result().commits == 1
        assert db["k8"] == b"ours"
        assert [change["key"] for change in db.changes().iter_changes()] == ["k8"]
        assert db.changes().push().set_count == 1
    assert yard.fresh_contents() == expected | {"k8": b"ours"}


def test_a_compaction_hides_no_conflict(yard: Yard) -> None:
    make_hollow(yard)
    with yard.open("b", "w") as db:
        db["k8"] = b"ours"
        db.sync()
        yard.push({"k8": value("theirs")}, "a")
        yard.push({f"x{number}": value(number) for number in range(3)}, "a")
        db.changes().pull()
        compact(db._session, live_share=1.0)
        with pytest.raises(ConflictError):
            db.changes().push()
    yard.compact("a", live_share=1.0, packs=[key.removeprefix("db.d/") for key in yard.keys("pack")])
    with yard.open("b", "w") as db, pytest.raises(ConflictError):
        db.changes().push()


def test_a_writer_whose_commits_always_lose_says_so(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "MAX_ROUNDS", 2)
    make_hollow(yard)
    with yard.open("b", "w"):
        pass
    count = 0

    class Beaten(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            nonlocal count
            if (kind, key) == ("put", "db"):
                count += 1
                yard.push({"x": str(count).encode()}, "b")
            return send()

    with pytest.raises(OfflineError):
        yard.compact("a", wrap=Beaten)
    assert count == 2
    assert yard.compact("a").packs == 1


# -- failing at every request ------------------------------------------------------------------


@pytest.mark.parametrize("copy", ["a", "b"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", amounts(2, 1))
def test_a_compaction_that_dies_at_any_request_is_run_again(
    yard: Yard, after: bool, copy: str, step: int
) -> None:
    at = 1 + (after + (copy == "b")) % step - step
    while True:
        at += step
        one = Yard(yard.folder / f"{at}")
        one.folder.mkdir()
        expected = make_hollow(one)
        for reader in ("reader", "b"):
            with one.open(reader, "c"):
                pass
        hollow = one.keys("pack")[0]
        faulty = FaultyStore(one.store, [])
        died = False
        db = one.open(copy, "w", wrap=lambda _store, faulty=faulty: faulty)
        faulty._counts.clear()
        faulty.plan = [Fault(at, KeyboardInterrupt(), after=after)]
        try:
            compact(db._session)
        except KeyboardInterrupt:
            died = True
        # As a killed process leaves them.
        db._session.local.abandon()
        db._closed = True
        db._ending = Ending()
        one.store.close()
        if not died:
            break
        with one.open("reader", "r") as held:
            assert one.collect(at_hours=2, lock=None).deleted.objects == 0
            assert dict(held.items()) == expected
        assert one.fresh_contents() == expected
        report = one.compact(copy)
        assert not report.unreadable_keys
        assert one.fresh_contents() == expected
        assert one.verify(read_values=True).sound
        deleted = one.collect(at_hours=100).deleted_names
        assert hollow in deleted
        assert one.fresh_contents() == expected
        assert one.contents("reader") == expected
        assert one.verify(read_values=True).sound
    assert at > 3


@pytest.mark.parametrize("buried", [False, True])
def test_a_machine_hears_of_its_own_compaction_whose_answer_was_lost(yard: Yard, buried: bool) -> None:
    expected = make_hollow(yard)
    (hollow, _) = yard.keys("pack")
    with yard.open("b", "w") as db:
        assert {key: db[key] for key in ("k7", "k8")} == {key: expected[key] for key in ("k7", "k8")}
    dies = Fault(2, KeyboardInterrupt(), kind="put", after=True)
    with pytest.raises(KeyboardInterrupt):
        yard.compact("b", wrap=lambda store: FaultyStore(store, [dies]))
    if buried:
        yard.push({"x": b"1"}, "c")
        expected["x"] = b"1"
    with yard.open("b", "w") as db:
        db.changes().pull()
        places = {e.key: e.remote_object for e in entries_where(db._session.journal, "known")}
        moved = {object_ref(db._session.journal, places[key] or 0).name for key in ("k7", "k8")}
    assert f"db.d/{moved.pop()}" != hollow
    assert not moved
    assert yard.collect(grace_seconds=0).deleted_names == (hollow,)
    assert yard.contents("b") == expected


def test_a_compaction_merges_the_runs(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 0)
    expected = {}
    with monkeypatch.context() as patch:
        patch.setattr("ebooklet_tx.sync.commit.builder.MERGE_BYTES", 0)
        patch.setattr("ebooklet_tx.sync.commit.builder.MERGE_FACTOR", 0)
        for number in range(4):
            values = {f"k{number} {at}": b"%d" % at for at in range(20)}
            yard.push(values | {"same": b"%d" % number})
            expected |= values | {"same": b"%d" % number}
    old = yard.keys("index")
    assert len(decode_root(yard.store.objects["db"].data, name="root").manifest.runs) > 1
    assert yard.compact().commits == 1
    assert len(decode_root(yard.store.objects["db"].data, name="root").manifest.runs) == 1
    assert yard.fresh_contents() == yard.contents("a") == expected
    assert set(yard.collect(grace_seconds=0).deleted_names) >= set(old)
    assert yard.compact().commits == 0
    assert yard.verify().sound


def test_a_pack_that_arrived_is_not_sent_again(yard: Yard) -> None:
    expected = make_hollow(yard)
    with pytest.raises(OfflineError):
        yard.compact(wrap=lambda store: FaultyStore(store, [Fault(2, OfflineError("cut"), kind="put")]))
    counting = CountingStore(yard.store)
    report = yard.compact(wrap=lambda _store: counting)
    assert (report.resumed_packs, report.packs) == (1, 1)
    assert [key for kind, key in counting.log if kind == "put"] == ["db"]
    assert yard.fresh_contents() == expected


# -- values in the journal ---------------------------------------------------------------------


def inline_count(yard: Yard, copy: str) -> int:
    with closing(sqlite3.connect(f"{yard.path(copy)}.journal")) as raw:
        return int(raw.execute("SELECT count(*) FROM inline_value").fetchone()[0])


def test_inline_values_that_no_operation_is_based_on_are_pruned(yard: Yard) -> None:
    keys = [f"k{number}" for number in range(5)]
    yard.push({key: f"base of {key}".encode() for key in keys})
    with yard.open("b", "w") as db:
        for key in keys:
            db[key] = b"ours"
        yard.push(dict.fromkeys(keys, b"theirs"))
        db.changes().pull()
        # What the remote had when the keys were changed here, to settle the conflicts.
        assert inline_count(yard, "b") == 5
        db.changes().resolve(keys[:3], "theirs")
    assert yard.compact("b").pruned_values == 3
    assert inline_count(yard, "b") == 2
    assert yard.compact("b").pruned_values == 0
    with yard.open("b", "w") as db:
        assert [conflict.base for conflict in db.changes().conflicts()] == [b"base of k3", b"base of k4"]


def test_the_base_and_the_pending_value_of_a_key_stay(yard: Yard) -> None:
    yard.push({"k": b"base"})
    with yard.open("b") as db:
        db["k"] = b"ours"
        db.sync()
        yard.push({"k": b"theirs"})
        db.changes().pull()
        journal: Journal = db._session.journal
        assert prune_inline_values(journal) == 0
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        (conflict,) = caught.value.conflicts
        assert (conflict.base, conflict.ours, conflict.theirs) == (b"base", b"ours", b"theirs")
