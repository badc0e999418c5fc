"""What collect deletes, what it keeps, and for how long."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ebooklet_tx.errors import (
    InvalidArgumentError,
    LockLostError,
    LockTimeoutError,
    OfflineError,
    ReadOnlyError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.root import decode_root, encode_root
from ebooklet_tx.maintenance import checking
from ebooklet_tx.maintenance import collect as collecting
from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.commit import packing
from tests.campaigns import amounts
from tests.pairs import limit_tails, with_tail
from tests.store_wrappers import CountingStore, Fault, FaultyStore, GatedStore, PassingStore
from tests.yard import Yard, value

NOTE = "db.d/garbage"


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


@pytest.fixture
def stale(yard: Yard) -> Yard:
    """A remote with one pack that was garbage from hour 1 on, and one live."""
    yard.push({"k": value("old")}, at_hours=0)
    yard.push({"k": value("new")}, at_hours=1)
    return yard


@pytest.fixture
def small_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows are enough for an index object."""
    limit_tails(monkeypatch, 300)


def dead_pack(yard: Yard) -> str:
    """The pack of the first push."""
    return yard.keys("pack")[0]


def test_nothing_goes_from_a_remote_without_garbage(yard: Yard) -> None:
    yard.push({"k": value(1)})
    report = yard.collect(at_hours=1000)
    assert (report.live.objects, report.young.objects, report.deleted.objects) == (1, 0, 0)
    assert report.live.size_bytes == len(yard.store.objects[dead_pack(yard)].data)
    assert NOTE not in yard.store.objects
    assert yard.fresh_contents() == {"k": value(1)}


def test_garbage_goes_once_the_root_has_stood_for_the_grace_period(stale: Yard) -> None:
    pack = dead_pack(stale)
    report = stale.collect(at_hours=24.9)
    assert (report.young_names, report.deleted_names) == ((pack,), ())
    assert pack in stale.store.objects
    report = stale.collect(at_hours=25)
    assert (report.young_names, report.deleted_names) == ((), (pack,))
    assert report.deleted.size_bytes > 6000
    assert pack not in stale.store.objects
    assert stale.fresh_contents() == {"k": value("new")}
    assert "deleted    1 object," in report.words()
    json.dumps(report.to_dict())


def test_an_old_pack_that_has_died_lately_is_kept_for_readers_of_the_older_root(yard: Yard) -> None:
    yard.push({"k": value("old"), "other": value(2)}, at_hours=0)
    with yard.open("reader", "r") as reader:
        yard.push({"k": value("new")}, at_hours=100)
        report = yard.collect(at_hours=100.5)
        assert report.deleted.objects == 0
        assert reader["k"] == value("old")


def test_on_a_busy_remote_the_note_tells_since_when_garbage_is_garbage(stale: Yard) -> None:
    pack = dead_pack(stale)
    assert stale.collect(at_hours=2).young_names == (pack,)
    for hours in range(3, 26):
        stale.push({"other": str(hours).encode()}, at_hours=hours)
    # The root is minutes old; the note says that the pack was garbage in hour 1.
    assert stale.collect(at_hours=25.1).deleted_names == (pack,)
    assert stale.collect(at_hours=25.2).deleted_names == ()
    assert NOTE not in stale.store.objects


def test_without_a_note_garbage_of_a_busy_remote_is_kept(stale: Yard) -> None:
    pack = dead_pack(stale)
    stale.push({"other": b"1"}, at_hours=50)
    assert stale.collect(at_hours=50.1).deleted_names == ()
    stale.push({"other": b"2"}, at_hours=60)
    assert stale.collect(at_hours=73.9).deleted_names == ()
    # From here on the note of the first is old enough, though the root is not.
    assert stale.collect(at_hours=74).deleted_names == (pack,)


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"dead_since_us": 1}', b'{"dead_since_us": {"x": "y"}}'])
def test_a_note_that_cannot_be_read_is_written_anew(
    stale: Yard, note: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pack = dead_pack(stale)
    name = pack.removeprefix("db.d/")
    stale.push({"other": b"1"}, at_hours=50)
    stale.store.put(NOTE, note.replace(b'"x"', json.dumps(name).encode()))
    assert stale.collect(at_hours=51).young_names == (pack,)
    assert "can't be read" in caplog.text
    assert list(json.loads(stale.store.objects[NOTE].data)["dead_since_us"]) == [name]


def test_a_note_that_names_other_things_is_no_matter(stale: Yard) -> None:
    stale.store.put(NOTE, b'{"dead_since_us": {"../db": 1, "pack/00": 2}}')
    pack = dead_pack(stale)
    assert stale.collect(at_hours=25).deleted_names == (pack,)
    assert "db" in stale.store.objects


def test_a_note_deleted_by_another_collect_leaves_everything_young(stale: Yard) -> None:
    class Deletes(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if (kind, key) == ("head", NOTE):
                self.inner.delete(NOTE)
            return send()

    report = stale.collect(at_hours=100, wrap=Deletes)
    assert (report.young.objects, report.deleted.objects) == (1, 0)


def test_a_dry_run_writes_nothing_and_goes_by_this_machines_clock(stale: Yard) -> None:
    before = dict(stale.store.objects)
    counting = CountingStore(stale.store)
    report = stale.collect(dry_run=True, wrap=lambda _store: counting)
    assert report.deleted_names == (dead_pack(stale),)
    assert "would go" in report.words()
    assert stale.store.objects == before
    assert set(counting.requests) <= {"get", "head", "list"}


@pytest.mark.usefixtures("small_tail")
def test_index_objects_that_were_merged_away_are_garbage(yard: Yard) -> None:
    for number in range(12):
        yard.push({f"k{number:02}": value(number, 3000)}, at_hours=number / 100)
    index_objects = set(yard.keys("index"))
    report = yard.collect(at_hours=100)
    left = set(yard.keys("index"))
    assert index_objects - left
    assert set(report.deleted_names) == index_objects - left
    assert report.live.objects == len(left) >= 1
    assert yard.fresh_contents() == {f"k{number:02}": value(number, 3000) for number in range(12)}
    assert yard.verify(read_values=True).sound


@pytest.mark.usefixtures("small_tail")
def test_a_pack_that_superseded_rows_alone_name_is_dead(yard: Yard) -> None:
    # Old rows in an index object go on naming the pack when the newer rows lie in the tail.
    yard.push({f"k{number}": value(number) for number in range(60)}, at_hours=0)
    yard.push({f"k{number}": value(-number - 1) for number in range(60)}, at_hours=1)
    assert yard.keys("index")
    yard.push({f"k{number}": b"small" for number in range(60)}, at_hours=2)
    report = yard.collect(at_hours=50)
    assert sum("/pack/" in name for name in report.deleted_names) == 2
    assert yard.keys("pack") == []


def test_strange_names_are_told_of_and_left_alone(stale: Yard) -> None:
    strange = [
        "db.d/pack/short",
        "db.d/pack/" + "A" * 32,
        "db.d/pack/" + "a" * 32 + "/x",
        "db.d/index/" + "a" * 33,
        "db.d/other",
        "db.d/snapshot/a/b",
        "db.d/x",
        "db.d/x.d/pack/" + "b" * 32,
    ]
    near = ["db2", "db.data", "db.d", "db2.d/pack/" + "c" * 32, "dbXd/pack/" + "c" * 32]
    for key in [*strange, *near]:
        stale.store.put(key, b"not ours")
    report = stale.collect(at_hours=1000)
    assert sorted(report.strange_names) == sorted(strange)
    assert report.strange.objects == len(strange)
    assert "left alone" in report.words()
    assert report.deleted.objects == 1
    assert set(strange) | set(near) <= set(stale.store.objects)


def test_what_a_snapshot_names_is_live(stale: Yard) -> None:
    first = Yard(stale.folder / "second")
    first.folder.mkdir()
    first.push({"k": value("old"), **{f"k{n}": value(n, 100) for n in range(300)}}, at_hours=0)
    first.store.put("db.d/snapshot/before", first.store.objects["db"].data)
    kept = {key for key in first.store.objects if "/pack/" in key or "/index/" in key}
    first.push({"k": value("new"), **{f"k{n}": value(-n - 1, 100) for n in range(300)}}, at_hours=1)
    assert first.collect(at_hours=100).deleted.objects == 0
    assert kept <= set(first.store.objects)
    first.store.delete("db.d/snapshot/before")
    first.collect(at_hours=101)
    assert "db" in first.store.objects
    assert not kept & set(first.store.objects)


def test_a_snapshot_deleted_since_it_was_listed_names_nothing(stale: Yard) -> None:
    stale.store.put("db.d/snapshot/one", stale.store.objects["db"].data)

    class Deletes(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if kind == "get" and "snapshot" in key:
                self.inner.delete(key)
            return send()

    assert stale.collect(at_hours=100, wrap=Deletes).deleted.objects == 1


def test_the_root_that_a_deletion_left_goes_as_garbage_does(stale: Yard) -> None:
    left = "db.d/snapshot/deleted-" + "a" * 32
    stale.store.put(left, stale.store.objects["db"].data)
    stale.push({"k": value("newest")}, at_hours=2)
    packs = stale.keys("pack")[:2]
    assert stale.collect(at_hours=3).young_names == (*sorted(packs), left)
    assert stale.collect(at_hours=26).deleted_names == (*sorted(packs), left)


@pytest.mark.parametrize("what", ["index", "tail", "snapshot", "snapshot's index", "foreign snapshot"])
@pytest.mark.usefixtures("small_tail")
def test_with_a_damaged_index_nothing_is_deleted(yard: Yard, what: str) -> None:
    yard.push({f"k{number}": value(number, 100) for number in range(60)}, at_hours=0)
    old_root, old_index = yard.store.objects["db"].data, yard.keys("index")[0]
    yard.push({f"k{number}": value(-number - 1, 100) for number in range(60)}, at_hours=1)
    index_object = yard.keys("index")[-1]
    if what == "index":
        yard.store.put(index_object, yard.store.objects[index_object].data[:-1])
    elif what == "tail":
        yard.push({"small": b"1"}, at_hours=2)
        _damage_the_tail(yard)
    elif what == "snapshot":
        yard.store.put("db.d/snapshot/x", old_root[:-1])
    elif what == "foreign snapshot":
        yard.store.put("db.d/snapshot/x", b"something else")
    else:
        yard.store.put("db.d/snapshot/x", old_root)
        yard.store.delete(old_index)
    before = set(yard.store.objects)
    with pytest.raises(RemoteIntegrityError, match="nothing was deleted"):
        yard.collect(at_hours=100)
    assert before <= set(yard.store.objects)


def _damage_the_tail(yard: Yard) -> None:
    """Replaces the tail by bytes that are none, under a digest that fits."""
    data = yard.store.objects["db"].data
    root = decode_root(data, name="the root")
    yard.store.put("db", with_tail(data, b"x" + root.tail[1:]))


def test_without_a_root_nothing_is_known_to_be_garbage(stale: Yard) -> None:
    stale.store.delete("db")
    with pytest.raises(RemoteMissingError, match="delete_remote"):
        stale.collect(at_hours=1000)
    assert len(stale.keys("pack")) == 2


def test_a_store_that_tells_no_times_keeps_everything(stale: Yard) -> None:
    class Timeless(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            answer = send()
            if kind == "head" and isinstance(answer, StoredObject):
                return StoredObject(answer.key, answer.size_bytes, answer.etag)
            return answer

    assert stale.collect(at_hours=1000, wrap=Timeless).young.objects == 1


def test_a_listing_that_is_finer_than_a_head_makes_nothing_younger(stale: Yard) -> None:
    class WholeSeconds(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            answer = send()
            if kind == "head" and isinstance(answer, StoredObject) and answer.last_modified is not None:
                return replace(answer, last_modified=answer.last_modified.replace(microsecond=0))
            return answer

    stale.hours = 2 + 0.7 / 3600
    stale.store.put("db.d/pack/" + "a" * 32, b"")
    report = stale.collect(grace_seconds=0, wrap=WholeSeconds)
    assert (report.deleted.objects, report.young.objects) == (2, 0)


def test_the_lock_is_waited_for_and_let_go_of(stale: Yard) -> None:
    with stale.open("b", "w", lock="exclusive"), pytest.raises(LockTimeoutError):
        stale.collect(lock_timeout=0)
    assert stale.collect(at_hours=100, lock_timeout=0).deleted.objects == 1
    with stale.open("b", "w", lock="exclusive", lock_timeout=0):
        pass


def test_collect_can_do_without_the_lock(stale: Yard) -> None:
    with stale.open("b", "w", lock="exclusive") as db:
        assert stale.collect(at_hours=100, lock=None).deleted.objects == 1
        assert db["k"] == value("new")


def test_a_collect_that_has_lost_its_lock_deletes_nothing_more(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "DELETES_AT_ONCE", 1)
    for number in range(3):
        yard.push({"k": value(number)}, at_hours=0)
    checks = 0

    def check(_lease: object) -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            raise LockLostError("taken over")

    monkeypatch.setattr("ebooklet_tx.locks.lease.Lease.check", check)
    with pytest.raises(LockLostError):
        yard.collect(at_hours=100)
    assert len(yard.keys("pack")) == 2
    monkeypatch.undo()
    assert yard.collect(at_hours=100).deleted.objects == 1


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf"), 1e10])
def test_a_grace_that_is_none_is_refused(stale: Yard, grace: float) -> None:
    with pytest.raises(InvalidArgumentError, match="grace_seconds"):
        stale.collect(grace_seconds=grace)


def test_what_can_only_be_read_is_refused(yard: Yard) -> None:
    with pytest.raises(ReadOnlyError, match="verify"):
        checking.collect("https://example.invalid/db")
    with pytest.raises(InvalidArgumentError, match="lock"):
        yard.collect(lock="shared")


# -- beside writers ----------------------------------------------------------------------------


def interrupt_push(yard: Yard, values: dict[str, bytes]) -> None:
    """Begins a push whose packs arrive and whose root does not, a little later."""
    yard.hours += 0.01
    with yard.open(wrap=lambda inner: FaultyStore(inner, [Fault(2, OfflineError("cut"), kind="put")])) as db:
        db.update(values)
        with pytest.raises(OfflineError):
            db.changes().push()


def test_the_packs_of_an_interrupted_push_wait_for_the_next(yard: Yard) -> None:
    yard.push({"k": value(0)}, at_hours=0)
    interrupt_push(yard, {"k2": value(2)})
    pack = yard.keys("pack")[-1]
    assert yard.collect(at_hours=5).young_names == (pack,)
    with yard.open() as db:
        result = db.changes().push()
    assert result.resumed_packs == 1
    assert yard.keys("pack")[-1] == pack
    assert yard.collect(at_hours=100).deleted.objects == 0
    assert yard.fresh_contents() == {"k": value(0), "k2": value(2)}


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """This machine's clock, as uploads are dated by it, is so much later from now on."""
    now_us = packing.now_us
    monkeypatch.setattr(packing, "now_us", lambda: now_us() + int(hours * 3600e6))


def test_a_push_that_resumes_late_is_not_robbed_between_its_look_and_its_commit(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race: the push finds its old pack there, a collect deletes it, the push commits."""
    yard.push({"k": value(0)}, at_hours=0)
    interrupt_push(yard, {"k2": value(2)})
    old = yard.keys("pack")[-1]
    later(monkeypatch, 30)
    yard.hours = 30
    gate = GatedStore(yard.store, 1, kind="put")
    with yard.open(wrap=lambda _store: gate) as db, ThreadPoolExecutor(1) as pool:
        push = pool.submit(db.changes().push)
        gate.wait_until_stopped()
        # It has looked, and is about to put the root.
        deleted = yard.collect().deleted_names
        gate.opened.set()
        assert push.result().resumed_packs == 1
    assert deleted == (old,)
    assert yard.fresh_contents() == {"k": value(0), "k2": value(2)}
    assert yard.verify(read_values=True).sound


def test_a_pack_that_was_collected_is_sent_again(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard.push({"k": value(0)}, at_hours=0)
    interrupt_push(yard, {"k2": value(2)})
    later(monkeypatch, 30)
    assert yard.collect(at_hours=30).deleted.objects == 1
    with yard.open() as db:
        assert db.changes().push().resumed_packs == 0
    assert yard.fresh_contents() == {"k": value(0), "k2": value(2)}


def test_a_pack_that_is_collected_before_it_can_be_copied_is_sent_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.push({"k": value(0)}, at_hours=0)
    interrupt_push(yard, {"k2": value(2), "k3": value(3)})
    later(monkeypatch, 30)
    yard.hours = 30

    class CollectsFirst(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if kind == "copy":
                assert yard.collect().deleted_names == (key,)
            return send()

    with yard.open(wrap=CollectsFirst) as db:
        assert db.changes().push()
    assert yard.fresh_contents() == {"k": value(0), "k2": value(2), "k3": value(3)}


@pytest.mark.parametrize("kind", ["list", "get", "head", "put", "delete"])
def test_collect_beside_a_writer_that_commits_at_the_worst_moment(yard: Yard, kind: str) -> None:
    """At every request of a collect with no grace at all, another writer's commit comes in before it."""
    at = 1
    while True:
        inner = Yard(yard.folder / f"{kind}{at}")
        inner.folder.mkdir()
        inner.push({"k": value("old")}, at_hours=0)
        inner.push({"kept": value(1)}, at_hours=0)
        inner.push({"k": value("new")}, at_hours=1)
        inner.push({"other": value(2)}, "b", at_hours=2)
        gate = GatedStore(inner.store, at, kind=kind)
        with ThreadPoolExecutor(1) as pool:
            collection = pool.submit(
                inner.collect, at_hours=3, grace_seconds=0, wrap=lambda _store, gate=gate: gate
            )
            stopped = _stopped_or_done(gate, collection)
            if stopped:
                inner.push({"late": value(at), "k": value("newer")}, "b")
            gate.opened.set()
            collection.result()
        expected = {"kept": value(1), "other": value(2)}
        expected |= {"k": value("newer"), "late": value(at)} if stopped else {"k": value("new")}
        assert inner.fresh_contents() == expected
        assert inner.verify(read_values=True).sound
        if not stopped:
            break
        at += 1
    assert at > 1


def _stopped_or_done(gate: GatedStore, future: object) -> bool:
    done = threading.Event()
    future.add_done_callback(lambda _future: (done.set(), gate.arrived.set()))  # type: ignore[attr-defined]
    gate.arrived.wait(60)
    return not done.is_set()


def test_a_root_that_was_put_back_meanwhile_keeps_what_it_names(stale: Yard) -> None:
    first = stale.store.objects["db"]
    stale.push({"k": value("newest")}, at_hours=2)

    class PutsBack(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if (kind, key) == ("put", NOTE):
                self.inner.put("db", first.data)
            return send()

    report = stale.collect(at_hours=100, wrap=PutsBack)
    assert (report.deleted.objects, report.young.objects) == (1, 1)
    assert stale.fresh_contents() == {"k": value("new")}


@pytest.mark.parametrize("what", ["gone", "damaged"])
@pytest.mark.usefixtures("small_tail")
def test_a_root_that_goes_bad_meanwhile_stops_the_collect(stale: Yard, what: str) -> None:
    class Spoils(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if (kind, key) == ("put", NOTE):
                if what == "gone":
                    self.inner.delete("db")
                else:
                    stale.push({f"k{number}": value(number, 100) for number in range(60)}, "b")
                    self.inner.delete(stale.keys("index")[-1])
            return send()

    expected = RemoteMissingError if what == "gone" else RemoteIntegrityError
    with pytest.raises(expected):
        stale.collect(at_hours=100, wrap=Spoils)
    assert dead_pack(stale) in stale.store.objects


# -- failing at every request ------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", amounts(3, 1))
def test_collect_that_dies_at_any_request_is_run_again(yard: Yard, after: bool, step: int) -> None:
    at = 1 + after % step - step
    while True:
        at += step
        one = Yard(yard.folder / f"{at}")
        one.folder.mkdir()
        one.push({"k": value("old"), "kept": value(1)}, at_hours=0)
        one.push({"k": value("new")}, at_hours=1)
        one.push({"k": value("newer")}, at_hours=2)
        with one.open("reader", "r"):
            pass
        dead = one.keys("pack")[1:2]
        faulty = FaultyStore(one.store, [Fault(at, KeyboardInterrupt(), after=after)])
        try:
            one.collect(at_hours=30, wrap=lambda _store, faulty=faulty: faulty, lock=None)
        except KeyboardInterrupt:
            pass
        else:
            break
        assert one.contents("reader") == {"k": value("newer"), "kept": value(1)}
        assert one.fresh_contents() == {"k": value("newer"), "kept": value(1)}
        assert one.verify(read_values=True).sound
        one.collect(lock=None)
        assert not set(dead) & set(one.store.objects)
        assert one.fresh_contents() == {"k": value("newer"), "kept": value(1)}
    assert at >= 8


@pytest.mark.parametrize("how", ["tickets", "quoted"])
def test_the_lock_is_of_the_kind_that_the_root_wants_whatever_is_said(stale: Yard, how: str) -> None:
    root = decode_root(stale.store.objects["db"].data, name="db")
    manifest = replace(root.manifest, commits=CommitWay(how, "file", ""))
    stale.store.put("db", encode_root(manifest, root.tail))
    report = stale.collect(at_hours=100, conditional_writes=how == "tickets")
    assert report.deleted.objects == 1
    assert [key for key in stale.store.objects if key.startswith("db.lock")] == ["db.lock"] * (how == "quoted")
