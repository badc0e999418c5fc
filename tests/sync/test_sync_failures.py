"""Pull, push and recovery when the moment is against them: roots that move, go, come back, or were fenced."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import MISSING, ConflictError
from ebooklet_tx.errors import RemoteMissingError, TransientStoreError
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.intents import read_intents
from ebooklet_tx.local.journal.remote_objects import object_ref
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.wrapper import PassingStore
from ebooklet_tx.sync.pull import pull as pull_module
from ebooklet_tx.sync.read import ranges
from tests import doors
from tests.pairs import LARGE, Bench, history, limit_tails, make, many_large, pending, push, root_of
from tests.store_wrappers import CountingStore, Fault, HookedStore, faulty

QUICK = RetryPolicy.without_backoff()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 60)


def hooked(key: str, stores: list[HookedStore], kind: str = "put") -> Callable[[ObjectStore], ObjectStore]:
    """Wraps with a store whose hook is set later."""

    def wrap(inner: ObjectStore) -> ObjectStore:
        stores.append(HookedStore(inner, key, kind=kind))
        return stores[-1]

    return wrap


def killed() -> None:
    raise KeyboardInterrupt


# -- reading beside others -----------------------------------------------------------------------


def test_each_way_a_value_can_be_found_after_its_pack_has_gone(bench: Bench) -> None:
    make(bench, {"moved": LARGE, "deleted": LARGE[1:], "small now": LARGE[2:]})
    now = {"moved": LARGE[3:], "deleted": None, "small now": b"1"}
    readers = {key: bench.open(f"reader of {key}", "r") for key in now}
    push(bench, "a", {"moved": now["moved"], "deleted": None})
    # Alone, so that it rides in the index.
    push(bench, "a", {"small now": now["small now"]})
    bench.objects("pack")[0].unlink()
    for key, reader in readers.items():
        with reader:
            assert reader.get(key) == now[key]


@pytest.mark.usefixtures("small_tails")
def test_a_pull_that_another_overtakes_begins_again(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    stores: list[HookedStore] = []
    with bench.open("b", "w", wrap_store=hooked("db.d/index/*", stores, kind="get_range")) as db:
        db["k5 mine"] = b"1"
        push(bench, "a", {f"k{number}": b"x" * 100 for number in range(10)})

        def overtake() -> None:
            push(bench, "a", {"newest": b"2"})
            assert db.changes().pull().changed

        stores[0].after = overtake
        db.changes().pull()
        assert stores[0].after is None
        assert read_base(db._session.journal).seq == root_of(bench).manifest.seq
        assert (db["newest"], db["k9"], pending(db)) == (b"2", b"x" * 100, {"k5 mine": "set"})


@pytest.mark.usefixtures("small_tails")
def test_runs_that_were_never_merged_are_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebooklet_tx.index.merging.RUN_RATIO", 0)
    monkeypatch.setattr("ebooklet_tx.sync.commit.builder.MERGE_BYTES", 0)
    monkeypatch.setattr("ebooklet_tx.sync.commit.builder.MERGE_FACTOR", 0)
    expected: dict[str, bytes] = {}
    for number in range(5):
        values = {f"k{number} {at}": b"%d" % at * 60 for at in range(5)} | {"same": b"%d" % number}
        make(bench, values)
        expected |= values
    assert len(root_of(bench).manifest.runs) >= 3
    assert bench.fresh_contents() == expected


def test_a_history_that_was_restored_and_went_on_is_read_anew(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    make(bench, {"a": b"1"})
    with bench.open("b", "w"), bench.open("c", "w"):
        pass
    backup = bench.root.read_bytes()
    push(bench, "b", {"lost with the backup": b"1"})
    bench.root.write_bytes(backup)
    for number in range(3):
        push(bench, "c", {f"since {number}": b"1"})
    assert bench.contents("b") == {"a": b"1"} | {f"since {number}": b"1" for number in range(3)}
    assert "does not lead on from commit 2" in caplog.text


def test_an_object_that_the_journal_does_not_know_is_named(bench: Bench) -> None:
    make(bench, {"large": LARGE})
    with bench.open("a", "r") as db, pytest.raises(RemoteMissingError, match="names no object 999; run recover"):
        object_ref(db._session.journal, 999)


# -- pushing beside others -----------------------------------------------------------------------


def test_a_read_back_that_a_pull_overtakes_pulls_again(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    stores: list[HookedStore] = []
    with bench.open("b", "w", wrap_store=hooked("db", stores, kind="get")) as db:
        db["mine"] = b"1"
        push(bench, "a", {"theirs": b"2"})
        # The first root that this push reads is the one that it reads back when its swap is refused.
        stores[0].after = lambda: db.changes().pull()
        assert db.changes().push()
        assert stores[0].after is None
        assert pending(db) == {}
    assert bench.fresh_contents() == {"k": b"0", "theirs": b"2", "mine": b"1"}
    assert history(bench) == [(1, 0)] * 3


def test_a_pull_that_dies_while_it_takes_our_commit_in_is_done_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(bench, {"k": b"0"})
    with bench.open("b", "w", wrap_store=faulty(Fault(1, KeyboardInterrupt(), after=True, kind="put"))) as db:
        db["mine"] = b"1"
        with pytest.raises(KeyboardInterrupt):
            db.changes().push()
        with monkeypatch.context() as patch:
            patch.setattr(pull_module, "put_meta", lambda *_: killed())
            with pytest.raises(KeyboardInterrupt):
                db.changes().pull()
        # Our commit becomes the base in one transaction, or not at all.
        assert (read_base(db._session.journal).seq, pending(db)) == (1, {"mine": "set"})
        assert len(read_intents(db._session.journal)) == 1
        db["more"] = b"2"
        assert db.changes().push()
    assert bench.fresh_contents() == {"k": b"0", "mine": b"1", "more": b"2"}
    assert history(bench) == [(1, 0)] * 3


def test_a_replacement_of_what_was_deleted_meanwhile_is_forgotten_and_pushed(bench: Bench) -> None:
    make(bench, {"old": b"0"}, "x")
    lost = Fault(1, KeyboardInterrupt(), kind="put")
    with bench.open("a", "n", wrap_store=faulty(lost)) as db:
        db["new"] = b"1"
        with pytest.raises(KeyboardInterrupt):
            db.changes().push()
        assert len(read_intents(db._session.journal)) == 1
    bench.root.unlink()
    with bench.open("a", "c") as db:
        # It was to replace a root that is gone: it can't arrive any more.
        assert read_intents(db._session.journal) == []
        assert db.changes().push()
    assert bench.fresh_contents() == {"new": b"1"}


# -- fences --------------------------------------------------------------------------------------


def test_a_lock_taken_over_before_the_first_push_needs_no_fence(bench: Bench) -> None:
    with (
        bench.open("a", lock="exclusive") as first,
        bench.open("b", lock="exclusive", force_lock=True) as second,
    ):
        second["k"] = b"second"
        assert not bench.root.exists()
        assert second.changes().push()
        first["k"] = b"first"
        with pytest.raises(ebooklet_tx.Error):
            first.changes().push()
    assert bench.fresh_contents() == {"k": b"second"}


def test_a_fence_is_raised_on_top_of_a_commit_that_came_first(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    with bench.open("a", "w", lock="exclusive"):
        stores: list[HookedStore] = []

        def wrap(inner: ObjectStore) -> ObjectStore:
            stores.append(HookedStore(inner, "db", before=lambda: push(bench, "c", {"theirs": b"1"})))
            return stores[-1]

        with bench.open("b", "w", lock="exclusive", force_lock=True, wrap_store=wrap) as second:
            assert stores[0].before is None
            assert root_of(bench).manifest.fence == read_base(second._session.journal).fence == 1
            second["mine"] = b"2"
            assert second.changes().push()
    assert bench.fresh_contents() == {"k": b"0", "theirs": b"1", "mine": b"2"}


# -- recovering ----------------------------------------------------------------------------------


def interrupted(bench: Bench, values: dict[str, bytes], *, after: bool) -> None:
    """A session that ends in the swap of its push."""
    fault = Fault(1, KeyboardInterrupt(), after=after, kind="put")
    with bench.open("a", "w", wrap_store=faulty(fault)) as db:
        db.update(values)
        with pytest.raises(KeyboardInterrupt):
            db.changes().push()


def test_a_conflict_that_comes_up_while_a_push_is_resumed_is_reported(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    interrupted(bench, {"k": b"ours"}, after=False)
    report = doors.recover(
        bench.path(),
        retry=QUICK,
        wrap_store=lambda inner: HookedStore(inner, "db", before=lambda: push(bench, "b", {"k": b"theirs"})),
    )
    assert (report.needs_decision, report.failed, report.pushed) == (True, False, None)
    assert [conflict.key for conflict in report.conflicts] == ["k"]
    assert bench.fresh_contents() == {"k": b"theirs"}
    with bench.open("a", "w") as db:
        assert db["k"] == b"ours"
        with pytest.raises(ConflictError):
            db.changes().push()


@pytest.mark.parametrize("gone", [True, False])
def test_a_dry_run_says_what_became_of_a_push(bench: Bench, monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    make(bench, {"k": b"0"})
    interrupted(bench, {"mine": b"1"}, after=True)
    if gone:
        bench.root.unlink()
    else:
        # Another commit lies on top, and the tail has gone into an index object: the history tells all the same.
        limit_tails(monkeypatch, 0)
        push(bench, "b", {"theirs": b"2"})
        assert not root_of(bench).tail
    report = ebooklet_tx.recover(bench.path(), dry_run=True, retry=QUICK)
    assert (len(report.dropped), len(report.applied), report.failed) == (int(gone), int(not gone), False)


def damage(bench: Bench, values: dict[str, bytes]) -> None:
    """Damages the head of one block, which the walk over the file sees, and all of another value."""
    data = bytearray(bench.path().read_bytes())
    head = data.index(b"k01" + values["k01"][:20]) - 32
    data[head : head + 13] = bytes(13)
    value = data.index(values["k02"])
    data[value : value + 100] = bytes(100)
    bench.path().write_bytes(bytes(data))


def test_damaged_copies_of_pushed_values_are_fetched_again(bench: Bench) -> None:
    values = many_large(4)
    make(bench, values)
    damage(bench, values)
    counts: list[CountingStore] = []

    def wrap(inner: ObjectStore) -> ObjectStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    report = doors.recover(bench.path(), retry=QUICK, wrap_store=wrap)
    assert (report.failed, report.lost_keys) == (False, ())
    assert report.refetched_keys == len(report.damaged_keys) > 0
    for pack in bench.objects("pack"):
        pack.unlink()
    assert bench.contents("a") == values


def test_a_fetch_that_fails_in_a_recovery_is_a_failure_and_no_loss(bench: Bench) -> None:
    values = many_large(4)
    make(bench, values)
    damage(bench, values)
    unreachable = [Fault(at, TransientStoreError("no answer"), kind="get_range") for at in range(1, 50)]
    report = doors.recover(bench.path(), retry=QUICK, wrap_store=faulty(*unreachable))
    assert report.failed
    assert "no answer" in (report.failure or "")
    assert report.lost_keys == ()
    assert bench.contents("a") == values


# -- conflicts -----------------------------------------------------------------------------------


def test_what_is_missing_is_one_of_a_kind() -> None:
    assert pickle.loads(pickle.dumps({"theirs": MISSING}))["theirs"] is MISSING
    assert (bool(MISSING), repr(MISSING)) == (False, "MISSING")


def test_values_in_a_conflict_that_can_not_be_fetched_name_the_side(bench: Bench) -> None:
    make(bench, {"k": LARGE})
    with bench.open("b", "w") as db:
        db["k"] = b"ours"
        push(bench, "a", {"k": LARGE[1:]})
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        (conflict,) = caught.value.conflicts
        assert conflict.ours == b"ours"
        for pack in bench.objects("pack"):
            pack.unlink()
        with pytest.raises(ebooklet_tx.Error, match="remote value"):
            conflict.theirs  # noqa: B018
        assert db["k"] == b"ours"


class UnpluggedStore(PassingStore):
    """Refuses every read of a pack once `unplugged`, and counts those."""

    unplugged = False
    asked = 0

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        if self.unplugged and "/pack/" in key:
            self.asked += 1
            raise TransientStoreError("the cable is out")
        return send()


def test_a_store_that_can_t_be_reached_is_not_asked_for_each_value(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "MAX_RANGE_BYTES", 50_000)
    make(bench, many_large(20) | {"small": b"s"})
    stores: list[UnpluggedStore] = []

    def wrap(inner: ObjectStore) -> ObjectStore:
        stores.append(UnpluggedStore(inner))
        return stores[-1]

    with bench.open("b", "r", wrap_store=wrap, retry=QUICK) as db:
        store = stores[0]
        store.unplugged = True
        with pytest.raises(ebooklet_tx.OfflineError, match="the cable is out"):
            db["k00"]
        # What one value costs, for each range that is on its way, and no more.
        at_most = store.asked * db._session.remote.threads
        for ask in (db.load_items, lambda: dict(db.get_items(many_large(20)))):
            store.asked = 0
            with contextlib.suppress(ebooklet_tx.OfflineError):
                failures = ask()
                assert set(failures) == set(many_large(20)) | {"small"}
                assert all("the cable is out" in reason for reason in failures.values())
            assert 0 < store.asked <= at_most
        store.unplugged = False
        assert db.load_items() == {}
        assert dict(db.items()) == many_large(20) | {"small": b"s"}
