"""Pull and push between copies of one database: lost answers, other writers, interruptions, conflicts."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ebooklet_tx import ConflictError
from ebooklet_tx.database import Database
from ebooklet_tx.errors import (
    LocalIntegrityError,
    OfflineError,
    PreconditionFailedError,
    RemoteIntegrityError,
    RemoteMissingError,
    TransientStoreError,
    UUIDMismatchError,
)
from ebooklet_tx.remote.root import Root, decode_root
from ebooklet_tx.remote.segment import iter_rows, read_segment
from ebooklet_tx.remote.store import ObjectStore
from ebooklet_tx.sync.conflicts import find_conflicts
from ebooklet_tx.sync.pull import read_intents
from tests.pairs import Bench
from tests.store_wrappers import CountingStore, Fault, FaultyStore, GatedStore, PassingStore

T = TypeVar("T")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def make(bench: Bench, values: dict[str, bytes], copy: str = "a") -> None:
    with bench.open(copy) as db:
        db.update(values)
        db.changes().push()


def push(bench: Bench, copy: str, values: dict[str, bytes | None]) -> None:
    """Another writer's commit."""
    with bench.open(copy, "c") as db:
        for key, value in values.items():
            if value is None:
                del db[key]
            else:
                db[key] = value
        db.changes().push()


def faulty(*faults: Fault) -> Callable[[ObjectStore], FaultyStore]:
    return lambda inner: FaultyStore(inner, faults)


class HookedStore(PassingStore):
    """Calls something once, before or after the first put of an object."""

    def __init__(self, inner: ObjectStore, key: str, *, before: Any = None, after: Any = None) -> None:
        super().__init__(inner)
        self.key = key
        self.before = before
        self.after = after

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        meant = (kind, key) == ("put", self.key)
        before = self.before if meant else None
        if before is not None:
            self.before = None
            before()
        answer = send()
        after = self.after if meant else None
        if after is not None:
            self.after = None
            after()
        return answer


def root_of(bench: Bench) -> Root:
    return decode_root(bench.root.read_bytes(), name="root")


def pending(db: Database) -> dict[str, str]:
    return {change["key"]: change["operation"] for change in db.changes().iter_changes()}


def history(bench: Bench) -> list[tuple[int, int]]:
    """(keys set, keys deleted) of each commit, as a fresh copy learns it."""
    bench._fresh += 1
    with bench.open(f"history{bench._fresh}", "r") as db, db._session.journal.reading() as raw:
        return raw.execute("SELECT set_count, deleted_count FROM commit_log ORDER BY seq").fetchall()


LOST = TransientStoreError("the answer was lost")
OWN_412 = PreconditionFailedError("412")


# -- answers that get lost -----------------------------------------------------------------------


@pytest.mark.parametrize(("error", "after"), [(LOST, True), (LOST, False), (OWN_412, True)])
@pytest.mark.parametrize("first", [True, False])
def test_one_answer_of_the_swap_is_lost(bench: Bench, error: Exception, first: bool, after: bool) -> None:
    if not first:
        make(bench, {"old": b"0"})
    with bench.open(_wrap_store=faulty(Fault(1, error, after=after, kind="put"))) as db:
        db["k"] = b"1"
        result = db.changes().push()
        assert result
        assert result.commit_id == root_of(bench).manifest.commit_id
        assert pending(db) == {}
        assert read_intents(db._session.journal) == []
        assert not db.changes().push()
    expected = {"k": b"1"} if first else {"old": b"0", "k": b"1"}
    assert bench.contents("a") == bench.fresh_contents() == expected
    assert history(bench) == [(1, 0)] * len(expected)


def test_a_refusal_without_a_reason_is_tried_again(bench: Bench) -> None:
    make(bench, {"old": b"0"})
    with bench.open(_wrap_store=faulty(Fault(1, OWN_412, kind="put"))) as db:
        db["k"] = b"1"
        assert db.changes().push()
    assert bench.fresh_contents() == {"old": b"0", "k": b"1"}


class DeafStore(PassingStore):
    """From some request on, writes take effect or not, and no answer comes any more."""

    def __init__(self, inner: ObjectStore, *, applied: bool) -> None:
        super().__init__(inner)
        self.deaf = False
        self.applied = applied

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if not self.deaf:
            return send()
        if self.applied and kind == "put":
            with contextlib.suppress(PreconditionFailedError):
                send()
        raise TransientStoreError("no answer")


@pytest.mark.parametrize("reopen", [True, False])
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("buried", [True, False])
def test_a_push_of_unknown_outcome_is_settled_later(
    bench: Bench, applied: bool, buried: bool, reopen: bool
) -> None:
    make(bench, {"old": b"0"})
    stores = []

    def deaf(inner: ObjectStore) -> DeafStore:
        stores.append(DeafStore(inner, applied=applied))
        return stores[-1]

    db = bench.open(_wrap_store=deaf)
    db["k"] = b"1"
    stores[0].deaf = True
    with pytest.raises(OfflineError, match="later"):
        db.changes().push()
    assert len(read_intents(db._session.journal)) == 1
    if buried:
        push(bench, "b", {"theirs": b"2"})
    stores[0].deaf = False
    if reopen:
        db.close()
        db = bench.open()
        if buried or applied:
            assert pending(db) == ({} if applied else {"k": "set"})
    with db:
        assert bool(db.changes().push()) is not (applied and reopen)
        assert read_intents(db._session.journal) == []
        assert pending(db) == {}
    expected = {"old": b"0", "k": b"1"} | ({"theirs": b"2"} if buried else {})
    assert bench.contents("a") == bench.fresh_contents() == expected
    assert history(bench) == [(1, 0)] * len(expected)


def test_the_read_back_meets_others_on_top_of_ours(bench: Bench) -> None:
    make(bench, {"old": b"0"})

    def bury() -> None:
        push(bench, "b", {"theirs": b"2", "old": b"theirs"})
        raise LOST

    with bench.open(_wrap_store=lambda inner: HookedStore(inner, "db", after=bury)) as db:
        db["k"] = b"1"
        assert db.changes().push()
        assert pending(db) == {}
        assert dict(db.items()) == {"old": b"theirs", "k": b"1", "theirs": b"2"}
    assert history(bench) == [(1, 0), (1, 0), (2, 0)]


# -- another writer in between -------------------------------------------------------------------


def test_another_writer_comes_first(bench: Bench) -> None:
    make(bench, {"old": b"0"})

    def theirs() -> None:
        push(bench, "b", {"theirs": b"2"})

    with bench.open(_wrap_store=lambda inner: HookedStore(inner, "db", before=theirs)) as db:
        db["k"] = b"1"
        assert db.changes().push()
        assert db["theirs"] == b"2"
    assert bench.fresh_contents() == {"old": b"0", "k": b"1", "theirs": b"2"}
    assert history(bench) == [(1, 0)] * 3


def test_another_writer_comes_first_with_the_same_key(bench: Bench) -> None:
    make(bench, {"k": b"0", "l": b"0"})

    def theirs() -> None:
        push(bench, "b", {"k": b"theirs"})

    with bench.open(_wrap_store=lambda inner: HookedStore(inner, "db", before=theirs)) as db:
        db.update({"k": b"ours", "l": b"ours"})
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        (conflict,) = caught.value.conflicts
        assert conflict.key == "k"
        assert pending(db) == {"k": "set", "l": "set"}
        assert db["k"] == b"ours"
        assert bench.fresh_contents() == {"k": b"theirs", "l": b"0"}
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == {"k": b"ours", "l": b"ours"}


def test_two_first_pushes_of_different_databases(bench: Bench) -> None:
    with bench.open("a") as a, bench.open("b") as b:
        a["k"] = b"a"
        b["k"] = b"b"
        a.changes().push()
        with pytest.raises(UUIDMismatchError):
            b.changes().push()
        assert pending(b) == {"k": "set"}
    assert bench.fresh_contents() == {"k": b"a"}


# -- written again while the push is under way ---------------------------------------------------


@contextlib.contextmanager
def stopped_push(bench: Bench, at: int, *, after: bool, flag: str = "c") -> Iterator[tuple[Database, Any]]:
    """A database whose push has come to a gate in another thread; yields a function that ends it."""
    gates = []

    def gated(inner: ObjectStore) -> GatedStore:
        gates.append(GatedStore(inner, at, kind="put", after=after))
        return gates[-1]

    results: list[Any] = []

    def run() -> None:
        try:
            results.append(db.changes().push())
        except BaseException as error:
            results.append(error)

    with bench.open("a", flag, _wrap_store=gated) as db:
        thread = threading.Thread(target=run)

        def begin() -> None:
            thread.start()
            gates[0].wait_until_stopped()

        def end() -> Any:
            gates[0].opened.set()
            thread.join()
            return results[0]

        db.begin, db.end = begin, end  # type: ignore[attr-defined]
        try:
            yield db, None
        finally:
            gates[0].opened.set()
            if thread.ident is not None:
                thread.join()


OLD_STAMP = 1_600_000_000_000_000
LARGE = b"l" * 40_000


@pytest.mark.parametrize("at", ["pack", "root after a pack", "root"])
@pytest.mark.parametrize("after", [True, False])
def test_keys_written_again_during_the_push_stay_pending(bench: Bench, after: bool, at: str) -> None:
    filler = b"" if at == "root" else LARGE
    with bench.open() as db:
        for key in ("again", "deleted", "set back", "untouched", "equal"):
            db.set(key, b"base", timestamp=OLD_STAMP)
        db.changes().push()
    with stopped_push(bench, 2 if at == "root after a pack" else 1, after=after) as (db, _):
        for key in ("again", "deleted", "set back", "equal", "new", "new, deleted"):
            db[key] = b"pushed" + filler
        del db["untouched"]
        db.begin()  # type: ignore[attr-defined]
        db["again"] = b"later"
        db["new"] = b"later"
        db["equal"] = b"pushed" + filler
        db["untouched"] = b"back"
        db["only later"] = b"later"
        db.set("set back", b"base", timestamp=OLD_STAMP)
        del db["deleted"]
        del db["new, deleted"]
        db.sync()
        result = db.end()  # type: ignore[attr-defined]
        if isinstance(result, BaseException):
            raise result
        expected = {
            "again": b"later",
            "new": b"later",
            "equal": b"pushed" + filler,
            "untouched": b"back",
            "only later": b"later",
            "set back": b"base",
        }
        assert dict(db.items()) == expected
        assert len(db) == len(expected)
        assert db.changes().conflicts() == []
        written = {"again", "new", "untouched", "only later", "set back", "deleted", "new, deleted"}
        # Undone before the commit was ready, they are in a second one, which that push made as well.
        assert set(pending(db)) - {"equal"} == (set() if at == "pack" else written)
        db.changes().push()
        assert pending(db) == {}
    assert bench.contents("a") == bench.fresh_contents() == expected
    with bench.open("other", "w") as other:
        other["other"] = b"1"
        other.changes().push()
        assert len(other) == len(expected) + 1


def test_cleared_during_the_push(bench: Bench) -> None:
    make(bench, {"base": b"0"})
    with stopped_push(bench, 1, after=False) as (db, _):
        db["new"] = b"1"
        db.begin()  # type: ignore[attr-defined]
        db.clear()
        db["after"] = b"2"
        db.sync()
        assert db.end()  # type: ignore[attr-defined]
        assert dict(db.items()) == {"after": b"2"}
        db.changes().push()
    assert bench.contents("a") == bench.fresh_contents() == {"after": b"2"}


def test_a_pull_in_another_thread_during_the_push(bench: Bench) -> None:
    make(bench, {"base": b"0"})
    with stopped_push(bench, 1, after=True) as (db, _):
        db["ours"] = b"1"
        db.begin()  # type: ignore[attr-defined]
        push(bench, "b", {"theirs": b"2"})
        db.changes().pull()
        assert dict(db.items()) == {"base": b"0", "ours": b"1", "theirs": b"2"}
        result = db.end()  # type: ignore[attr-defined]
        if isinstance(result, BaseException):
            raise result
        assert dict(db.items()) == {"base": b"0", "ours": b"1", "theirs": b"2"}
        assert len(db) == 3
        assert pending(db) == {}
        db["base"] = b"3"
        db.changes().push()
    assert bench.fresh_contents() == {"base": b"3", "ours": b"1", "theirs": b"2"}
    assert root_of(bench).manifest.key_count == 3


# -- flag n --------------------------------------------------------------------------------------


def test_an_empty_database_replaces_the_remote_in_one_step(bench: Bench) -> None:
    make(bench, {"old": LARGE})
    old_uuid = root_of(bench).manifest.uuid
    with bench.open("a", "n") as db:
        assert dict(db.items()) == {}
        db["new"] = b"1"
        assert bench.fresh_contents() == {"old": LARGE}
    # Not pushed yet: the intent survives the close.
    assert bench.fresh_contents() == {"old": LARGE}
    assert bench.contents("a") == {"new": b"1"}
    with bench.open("a", "w") as db:
        assert dict(db.items()) == {"new": b"1"}
        assert db.changes().push()
        assert not db.changes().push()
        db["more"] = b"2"
        assert db.changes().push()
    assert bench.contents("a") == bench.fresh_contents() == {"new": b"1", "more": b"2"}
    assert root_of(bench).manifest.uuid != old_uuid
    assert root_of(bench).manifest.seq == 3


def test_an_empty_database_may_replace_a_full_one(bench: Bench) -> None:
    make(bench, {"old": b"0"})
    with bench.open("a", "n") as db:
        assert db.changes().push()
    assert bench.fresh_contents() == {}


def test_an_empty_database_where_there_is_none(bench: Bench) -> None:
    with bench.open("a", "n") as db:
        db["k"] = b"1"
        assert db.changes().push()
    assert bench.fresh_contents() == {"k": b"1"}


@pytest.mark.parametrize("buried", [True, False])
def test_a_replacement_whose_answer_is_lost(bench: Bench, buried: bool) -> None:
    make(bench, {"old": b"0"}, "x")

    def lose() -> None:
        if buried:
            push(bench, "b", {"theirs": b"2"})
        raise LOST

    with bench.open("a", "n", _wrap_store=lambda inner: HookedStore(inner, "db", after=lose)) as db:
        db["new"] = b"1"
        assert db.changes().push()
        assert not db.changes().push()
    assert bench.fresh_contents() == {"new": b"1"} | ({"theirs": b"2"} if buried else {})


@pytest.mark.parametrize("buried", [True, False])
def test_a_replacement_killed_after_its_swap(bench: Bench, buried: bool) -> None:
    make(bench, {"old": b"0"}, "x")
    killed = Fault(1, KeyboardInterrupt(), after=True, kind="put")
    with bench.open("a", "n", _wrap_store=faulty(killed)) as db:
        db["new"] = b"1"
        with pytest.raises(KeyboardInterrupt):
            db.changes().push()
    if buried:
        push(bench, "b", {"theirs": b"2"})
    with bench.open("a", "w") as db:
        assert pending(db) == {}
        db.changes().push()
    assert bench.fresh_contents() == {"new": b"1"} | ({"theirs": b"2"} if buried else {})


def test_the_replaced_remote_moves_on_meanwhile(bench: Bench) -> None:
    make(bench, {"old": b"0"}, "x")

    def theirs() -> None:
        push(bench, "x", {"more": b"2"})

    with bench.open("a", "n", _wrap_store=lambda inner: HookedStore(inner, "db", before=theirs)) as db:
        db["new"] = b"1"
        assert db.changes().push()
    assert bench.fresh_contents() == {"new": b"1"}


# -- a remote that is gone, or went back ---------------------------------------------------------


def test_a_deleted_remote_is_reported_and_written_anew_by_force(bench: Bench) -> None:
    values = {"small": b"0", "large": LARGE}
    make(bench, values | {"gone": b"1"})
    db = bench.open("a", "w")
    bench.root.unlink()
    with pytest.raises(RemoteMissingError, match="force_push"):
        db.changes().pull()
    db["new"] = b"1"
    del db["gone"]
    with pytest.raises(RemoteMissingError, match="force_push"):
        db.changes().push()
    assert dict(db.items()) == values | {"new": b"1"}
    for pack in bench.objects("pack"):
        pack.unlink()
    assert db.changes().push(force_push=True)
    db.close()
    assert bench.contents("a") == bench.fresh_contents() == values | {"new": b"1"}


def test_a_deleted_remote_is_reported_at_open(bench: Bench) -> None:
    make(bench, {"k": b"1"})
    bench.root.unlink()
    for flag in ("r", "w", "c"):
        with pytest.raises(RemoteMissingError):
            bench.open("a", flag)
    with pytest.raises(RemoteMissingError, match="flag 'c'"):
        bench.open("never there", "w")


def test_values_that_are_nowhere_any_more_stop_a_forced_push(bench: Bench) -> None:
    make(bench, {"here": b"0", "not here": LARGE})
    with bench.open("b", "w") as db:
        assert db["here"] == b"0"
        root = bench.root.read_bytes()
        bench.root.unlink()
        with pytest.raises(LocalIntegrityError, match="not here"):
            db.changes().push(force_push=True)
        assert not bench.root.exists()
        # Restored from a backup: nothing was lost.
        bench.root.write_bytes(root)
        db.changes().pull()
        assert dict(db.items()) == {"here": b"0", "not here": LARGE}
        assert pending(db) == {}


def test_a_remote_that_went_back_is_read_anew(bench: Bench) -> None:
    make(bench, {"a": b"1", "b": b"1", "large": LARGE})
    old = bench.root.read_bytes()
    with bench.open("r1", "w") as reader:
        push(bench, "a", {"a": b"2", "b": None, "c": b"2", "large": b"small"})
        reader.changes().pull()
        reader["mine"] = b"pending"
        bench.root.write_bytes(old)
        reader.changes().pull()
        assert dict(reader.items()) == {"a": b"1", "b": b"1", "large": LARGE, "mine": b"pending"}
        assert len(reader) == 4
        assert reader.changes().push()
    assert (
        bench.contents("r1")
        == bench.fresh_contents()
        == {
            "a": b"1",
            "b": b"1",
            "large": LARGE,
            "mine": b"pending",
        }
    )
    assert bench.contents("a") == bench.contents("r1")


def test_a_remote_that_went_another_way(bench: Bench) -> None:
    make(bench, {"a": b"1"})
    with bench.open("b", "w"), bench.open("c", "w"):
        pass
    old = bench.root.read_bytes()
    push(bench, "b", {"from b": b"1"})
    bench.root.write_bytes(old)
    push(bench, "c", {"from c": b"1"})
    # Both roots have the same seq.
    assert bench.contents("b") == {"a": b"1", "from c": b"1"}


# -- segments ------------------------------------------------------------------------------------


@pytest.fixture
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebooklet_tx.sync.push.ROOT_TAIL_LIMIT_BYTES", 3000)
    monkeypatch.setattr("ebooklet_tx.remote.root.ROOT_TAIL_LIMIT_BYTES", 3000)


@pytest.mark.usefixtures("small_tails")
def test_an_overflowing_tail_becomes_a_segment(bench: Bench) -> None:
    make(bench, {"k": b"1"})
    assert bench.objects("index") == []
    push(bench, "a", {f"k{number}": random.Random(number).randbytes(200) for number in range(30)})
    assert len(bench.objects("index")) == 1
    root = root_of(bench)
    assert root.tail == b""
    assert (root.manifest.segments[0].first_seq, root.manifest.segments[0].last_seq) == (1, 2)
    assert bench.contents("a") == bench.fresh_contents()
    push(bench, "a", {"later": b"1"})
    assert root_of(bench).tail
    assert len(bench.fresh_contents()) == 32


@pytest.mark.usefixtures("small_tails")
def test_readers_follow_hundreds_of_pushes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebooklet_tx.sync.push.TOMBSTONES_WORTH_DROPPING", 20)
    rng = random.Random(5)
    most_segments = 0
    floors = set()
    with bench.open("a") as db, contextlib.ExitStack() as stack:
        db["first"] = b"1"
        db.changes().push()
        readers = [stack.enter_context(bench.open(f"reader{number}", "w")) for number in range(3)]
        for number in range(250):
            if number % 50 == 49:
                for key in rng.sample(sorted(db), k=min(30, len(db) - 1)):
                    del db[key]
            for _ in range(rng.randint(1, 4)):
                db[f"k{rng.randint(0, 150):03}"] = rng.randbytes(rng.choice([0, 10, 300]))
            if len(db) > 5 and rng.random() < 0.6:
                del db[rng.choice(sorted(db))]
            if number % 20 == 0:
                db.set_metadata({"number": number})
            db.changes().push()
            manifest = root_of(bench).manifest
            most_segments = max(most_segments, len(manifest.segments))
            floors.add(manifest.tombstone_floor)
            assert manifest.key_count == len(db)
            for reader in readers:
                if rng.random() < 0.05:
                    reader.changes().pull()
                    assert dict(reader.items()) == dict(db.items())
                    assert len(reader) == len(db)
                    assert reader.get_metadata() == db.get_metadata()
        expected = dict(db.items())
    assert most_segments <= 8
    assert len(floors) > 1, "no tombstones were ever dropped"
    for number in range(3):
        found = bench.contents(f"reader{number}")
        found.pop("", None)
        assert found == expected
    found = bench.fresh_contents()
    assert found.pop("") == {"number": 240}
    assert found == expected


@pytest.mark.usefixtures("small_tails")
def test_an_old_reader_reads_everything_anew_once_tombstones_are_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebooklet_tx.sync.push.TOMBSTONES_WORTH_DROPPING", 5)
    values = {f"k{number:02}": random.Random(number).randbytes(150) for number in range(40)}
    make(bench, values)
    assert bench.contents("old") == values
    with bench.open("busy", "w") as busy:
        busy["k39"] = b"pending"
        del busy["k38"]
        busy["mine"] = b"pending"
    push(bench, "a", {f"k{number:02}": None for number in range(30)} | {"k39": None})
    # Another full tail: everything is merged into one segment, without the tombstones.
    push(bench, "a", {f"z{number:02}": random.Random(number).randbytes(150) for number in range(40)})
    push(bench, "a", {f"y{number:02}": random.Random(number).randbytes(150) for number in range(40)})
    manifest = root_of(bench).manifest
    assert manifest.tombstone_floor > 1
    rows = [
        row
        for segment in bench.objects("index")
        if f"index/{segment.name}" in {s.name for s in manifest.segments}
        for row in iter_rows(read_segment(segment.read_bytes(), name="s"))
    ]
    assert all(row.digest is not None for row in rows)
    expected = bench.fresh_contents()
    assert "k00" not in expected
    assert bench.contents("old") == expected
    with bench.open("busy", "w") as busy:
        (conflict,) = busy.changes().conflicts()
        assert conflict.key == "k39"
        assert conflict.theirs_version.digest is None
        busy.changes().push(force_push=True)
    expected |= {"k39": b"pending", "mine": b"pending"}
    del expected["k38"]
    assert bench.contents("busy") == bench.fresh_contents() == expected


# -- what a push sends ---------------------------------------------------------------------------


def test_a_new_timestamp_sends_no_value(bench: Bench) -> None:
    make(bench, {"large": LARGE, "small": b"1"})
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("a", "w", _wrap_store=counting) as db:
        counts[0].reset()
        db.set_timestamp("large", OLD_STAMP)
        db.set_timestamp("small", OLD_STAMP + 1)
        assert set(pending(db)) == {"large", "small"}
        assert db.changes().push()
        assert counts[0].log == [("put", "db")]
        assert counts[0].bytes_up < 5000
    assert len(bench.objects("pack")) == 1
    assert bench.fresh_contents() == {"large": LARGE, "small": b"1"}
    with bench.open("t", "r") as db:
        assert [db.get_timestamp(key) for key in ("large", "small")] == [OLD_STAMP, OLD_STAMP + 1]


def test_a_value_set_back_to_itself_is_no_change(bench: Bench) -> None:
    with bench.open() as db:
        db.set("k", b"1", timestamp=OLD_STAMP)
        db.changes().push()
        db.set("k", b"2", timestamp=OLD_STAMP + 1)
        db.set("k", b"1", timestamp=OLD_STAMP)
        assert pending(db) == {}
        assert not db.changes().push()
        db["gone at once"] = b"1"
        db.sync()
        del db["gone at once"]
        assert pending(db) == {}


def test_equal_values_are_sent_once(bench: Bench) -> None:
    make(bench, {f"k{number}": LARGE for number in range(10)})
    (pack,) = bench.objects("pack")
    assert pack.stat().st_size < 2 * len(LARGE)
    assert bench.fresh_contents() == {f"k{number}": LARGE for number in range(10)}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebooklet_tx.sync.packing.PACK_BYTES", 100_000)
    monkeypatch.setattr("ebooklet_tx.sync.packing.PART_BYTES", 64_000)
    monkeypatch.setattr("ebooklet_tx.sync.packing.PACKS_IN_FLIGHT", 1)


def many_large(count: int = 10) -> dict[str, bytes]:
    return {f"k{number:02}": random.Random(number).randbytes(40_000) for number in range(count)}


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("vanished", [False, True])
def test_an_interrupted_push_sends_only_what_is_missing(bench: Bench, vanished: bool) -> None:
    values = many_large()
    with bench.open(_wrap_store=faulty(Fault(4, Killed(), kind="put"))) as db:
        db.update(values)
        with pytest.raises(Killed):
            db.changes().push()
    arrived = len(bench.objects("pack"))
    assert arrived == 3
    assert not bench.root.exists()
    if vanished:
        bench.objects("pack")[0].unlink()
        arrived -= 1
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("a", "c", _wrap_store=counting) as db:
        result = db.changes().push()
        assert result.resumed_packs == arrived
        assert counts[0].requests["put"] == 5 - arrived + 1
        assert counts[0].bytes_up < 40_000 * 2 * (5 - arrived) + 10_000
    assert bench.fresh_contents() == values


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("inline_first", [True, False])
def test_a_value_larger_than_a_pack_goes_in_parts(bench: Bench, inline_first: bool) -> None:
    large = random.Random(1).randbytes(500_000)
    with bench.open(_wrap_store=faulty(Fault(4, Killed(), kind="part"))) as db:
        db["large"] = large
        db["small"] = b"1"
        if not inline_first:
            db._session.local.commit(fold=True)
        with pytest.raises(Killed):
            db.changes().push()
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("a", "c", _wrap_store=counting) as db:
        assert db.changes().push()
        assert counts[0].bytes_up < 400_000
    assert bench.fresh_contents() == {"large": large, "small": b"1"}
    assert len(bench.objects("pack")) == 2


@pytest.mark.usefixtures("small_packs")
def test_another_value_in_place_of_a_half_sent_one(bench: Bench) -> None:
    with bench.open(_wrap_store=faulty(Fault(4, Killed(), kind="part"))) as db:
        db["large"] = random.Random(1).randbytes(500_000)
        with pytest.raises(Killed):
            db.changes().push()
    other = random.Random(2).randbytes(500_000)
    with bench.open() as db:
        db["large"] = other
        assert db.changes().push()
    assert bench.fresh_contents() == {"large": other}


def test_a_damaged_pending_value_is_not_pushed(bench: Bench) -> None:
    with bench.open() as db:
        db["large"] = LARGE
        db._session.local.commit(fold=True)
        entry = db._session.local.entry("large")
        assert entry is not None
        with bench.path().open("r+b") as file:
            file.seek((entry.local_offset_bytes or 0) + 7)
            file.write(b"damage")
        with pytest.raises(LocalIntegrityError, match="'large'"):
            db.changes().push()
        assert not bench.root.exists()
        db["large"] = b"set again"
        assert db.changes().push()
    assert bench.fresh_contents() == {"large": b"set again"}


# -- conflicts -----------------------------------------------------------------------------------


def test_equal_content_is_no_conflict(bench: Bench) -> None:
    make(bench, {"k": b"0", "d": b"0"})
    with bench.open("a", "w") as a, bench.open("b", "w") as b:
        for db in (a, b):
            db.set("k", b"same", timestamp=OLD_STAMP)
            db["n"] = b"new and same"
            del db["d"]
        assert a.changes().push()
        assert not b.changes().push() or pending(b) == {}
        assert pending(b) == {}
        assert dict(b.items()) == {"k": b"same", "n": b"new and same"}
        assert len(b) == 2
    assert bench.fresh_contents() == {"k": b"same", "n": b"new and same"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(b"ours", b"theirs"), (None, b"theirs"), (b"ours", None)],
    ids=["set-set", "delete-set", "set-delete"],
)
@pytest.mark.parametrize("way", ["force", "discard", "discard one"])
def test_conflicts_are_told_and_settled(bench: Bench, ours: bytes | None, theirs: bytes | None, way: str) -> None:
    make(bench, {"k": b"base", "calm": b"0"})
    with bench.open("a", "w") as db:
        if ours is None:
            del db["k"]
        else:
            db["k"] = ours
        db["calm"] = b"ours"
        push(bench, "b", {"k": theirs})
        with pytest.raises(ConflictError, match="'k'") as caught:
            db.changes().push()
        (conflict,) = caught.value.conflicts
        assert (conflict.ours_version.digest is None, conflict.theirs_version.digest is None) == (
            ours is None,
            theirs is None,
        )
        assert conflict.base_version.digest is not None
        assert conflict.theirs_version.writer
        assert [c.key for c in db.changes().conflicts()] == ["k"]
        # Told again, not lost.
        with pytest.raises(ConflictError):
            db.changes().push()
        assert db.get("k") == ours
        expected = {"calm": b"ours"}
        if way == "force":
            assert db.changes().push(force_push=True)
            winner = ours
        elif way == "discard one":
            assert db.changes().discard(["k", "never there"]) == 1
            assert db.changes().push()
            winner = theirs
        else:
            assert db.changes().discard() == 2
            assert not db.changes().push()
            winner = theirs
            expected["calm"] = b"0"
        if winner is not None:
            expected["k"] = winner
        assert db.changes().conflicts() == []
        assert dict(db.items()) == expected
    assert bench.contents("a") == bench.fresh_contents() == expected


def test_conflicts_of_new_keys_and_of_metadata(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    with bench.open("a", "w") as a, bench.open("b", "w") as b:
        a["new"] = b"a"
        b["new"] = b"b"
        a.set_metadata("a")
        b.set_metadata("b")
        a.changes().push()
        with pytest.raises(ConflictError) as caught:
            b.changes().push()
        assert [conflict.key for conflict in caught.value.conflicts] == ["", "new"]
        b.changes().discard([""])
        b.changes().push(force_push=True)
    assert bench.fresh_contents() == {"k": b"0", "new": b"b", "": "a"}


def test_many_conflicts_are_summed_up(bench: Bench) -> None:
    keys = [f"k{number}" for number in range(8)]
    make(bench, dict.fromkeys(keys, b"0"))
    with bench.open("a", "w") as a:
        a.update(dict.fromkeys(keys, b"a"))
        push(bench, "b", dict.fromkeys(keys, b"b"))
        with pytest.raises(ConflictError, match="and 3 more"):
            a.changes().push()
        assert len(find_conflicts(a._session)) == 8


def test_a_conflict_in_the_timestamp_alone_is_none(bench: Bench) -> None:
    make(bench, {"k": b"0"})
    with bench.open("a", "w") as a:
        a["k"] = b"ours"
        with bench.open("b", "w") as b:
            b.set_timestamp("k", OLD_STAMP)
            b.changes().push()
        assert a.changes().push()
    assert bench.fresh_contents() == {"k": b"ours"}


def test_endless_traffic_ends_in_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebooklet_tx.sync.push.MAX_ROUNDS", 3)
    make(bench, {"k": b"0"})
    numbers = iter(range(100))

    class Busy(HookedStore):
        def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
            if (kind, key) == ("put", "db"):
                push(bench, "b", {f"theirs {next(numbers)}": b"1"})
            return send()

    with bench.open("a", "w", _wrap_store=lambda inner: Busy(inner, "db")) as db:
        db["mine"] = b"1"
        with pytest.raises(OfflineError, match="less traffic"):
            db.changes().push()
        assert pending(db) == {"mine": "set"}
        assert "theirs 1" in db


# -- fetching ------------------------------------------------------------------------------------


def test_a_pack_gone_under_an_old_base_is_looked_for_again(bench: Bench) -> None:
    make(bench, {"moved": LARGE, "deleted": LARGE[1:], "small now": LARGE[2:]})
    with bench.open("b", "r") as db:
        push(bench, "a", {"moved": LARGE[3:], "deleted": None, "small now": b"1"})
        bench.objects("pack")[0].unlink()
        assert "deleted" in db
        assert db["moved"] == LARGE[3:]
        assert "deleted" not in db
        assert db["small now"] == b"1"
    with bench.open("c", "r") as db:
        assert db.load_items() == {}


def test_a_pack_gone_under_the_newest_base_is_damage(bench: Bench) -> None:
    make(bench, {"lost": LARGE})
    push(bench, "a", {"there": b"1"})
    bench.objects("pack")[0].unlink()
    with bench.open("b", "r") as db:
        with pytest.raises(RemoteIntegrityError, match="'lost'"):
            db["lost"]
        assert db["there"] == b"1"
        assert list(db.load_items()) == ["lost"]
        with pytest.raises(RemoteIntegrityError):
            dict(db.items())
    assert bench.contents("a") == {"lost": LARGE, "there": b"1"}


def test_near_ranges_are_fetched_as_one(bench: Bench) -> None:
    values = many_large(12)
    make(bench, values)
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("b", "r", _wrap_store=counting) as db:
        counts[0].reset()
        assert dict(db.get_items([*values, "missing"], default=b"none")) == values | {"missing": b"none"}
        assert counts[0].requests == {"get_range": 1}
    with bench.open("b", "r", _wrap_store=counting) as db:
        counts[1].reset()
        assert dict(db.items()) == values
        assert counts[1].total == 0
