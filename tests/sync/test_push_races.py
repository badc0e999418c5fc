"""Pushes that others cross: lost answers, other writers, and writes while a push is under way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ebooklet_tx import ConflictError
from ebooklet_tx.database import Database
from ebooklet_tx.errors import OfflineError, PreconditionFailedError, TransientStoreError
from ebooklet_tx.local.journal.intents import read_intents
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.commit.push import raise_fence
from tests.pairs import LARGE, OLD_STAMP, Bench, history, make, pending, push, root_of
from tests.store_wrappers import Fault, GatedStore, HookedStore, PassingStore, faulty

T = TypeVar("T")

LOST = TransientStoreError("the answer was lost")
OWN_412 = PreconditionFailedError("412")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# -- answers that get lost -----------------------------------------------------------------------


@pytest.mark.parametrize(("error", "after"), [(LOST, True), (LOST, False), (OWN_412, True)])
@pytest.mark.parametrize("first", [True, False])
def test_one_answer_of_the_swap_is_lost(bench: Bench, error: Exception, first: bool, after: bool) -> None:
    if not first:
        make(bench, {"old": b"0"})
    with bench.open(wrap_store=faulty(Fault(1, error, after=after, kind="put"))) as db:
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
    with bench.open(wrap_store=faulty(Fault(1, OWN_412, kind="put"))) as db:
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


def deaf_stores(*, applied: bool) -> tuple[list[DeafStore], Callable[[ObjectStore], DeafStore]]:
    """Returns a wrapper of stores, and those that it has made."""
    made: list[DeafStore] = []

    def deaf(inner: ObjectStore) -> DeafStore:
        made.append(DeafStore(inner, applied=applied))
        return made[-1]

    return made, deaf


@pytest.mark.parametrize("reopen", [True, False])
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("buried", [True, False])
def test_a_push_of_unknown_outcome_is_settled_later(
    bench: Bench, applied: bool, buried: bool, reopen: bool
) -> None:
    make(bench, {"old": b"0"})
    stores, deaf = deaf_stores(applied=applied)

    db = bench.open(wrap_store=deaf)
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


@pytest.mark.parametrize("cleared", [True, False])
@pytest.mark.parametrize("applied", [True, False])
def test_a_delete_stays_while_a_push_may_have_set_a_key_that_was_discarded(
    bench: Bench, applied: bool, cleared: bool
) -> None:
    make(bench, {"old": b"0"})
    stores, deaf = deaf_stores(applied=applied)

    with bench.open(wrap_store=deaf) as db:
        db["k"] = b"1"
        db.sync()
        stores[0].deaf = True
        with pytest.raises(OfflineError, match="later"):
            db.changes().push()
        stores[0].deaf = False
        assert read_intents(db._session.journal)
        assert db.changes().discard(["k"]) == 1
        # It shows no more, but its copy lies in the file still.
        db["k"] = b"2"
        if cleared:
            db.clear()
        else:
            del db["k"]
        db.sync()
        assert pending(db)["k"] == "delete"
        assert db.changes().push()
        assert pending(db) == {}
        assert "k" not in db
    assert bench.contents("a") == bench.fresh_contents() == ({} if cleared else {"old": b"0"})


def unanswered(db: Database, store: DeafStore) -> None:
    """Pushes, and hears nothing of it."""
    db.sync()
    store.deaf = True
    with pytest.raises(OfflineError, match="later"):
        db.changes().push()
    store.deaf = False
    assert read_intents(db._session.journal)


@pytest.mark.parametrize("key", ["sent", "new"])
def test_a_delete_that_deletes_nothing_ends_with_a_push_that_did_not_take_place(bench: Bench, key: str) -> None:
    """It was kept for that push alone, and must not hide what another writer has made of the key meanwhile."""
    make(bench, {"old": b"0"})
    stores, deaf = deaf_stores(applied=False)
    with bench.open(wrap_store=deaf) as db:
        db["sent"] = b"1"
        unanswered(db, stores[0])
        db[key] = b"2"
        db.sync()
        del db[key]
        db.sync()
        assert pending(db)[key] == "delete"
        push(bench, "b", {key: b"theirs"})
        db.changes().pull()
        assert key not in pending(db)
        assert db.changes().conflicts() == []
        assert db[key] == b"theirs"


@pytest.mark.parametrize("ours", [True, False])
def test_a_delete_of_what_another_writer_has_set_outlives_a_push_that_ends(bench: Bench, ours: bool) -> None:
    """The user has deleted the key and does not see it, whatever it was set to here before."""
    make(bench, {"old": b"0"})
    with bench.open() as db:
        db["k"] = b"ours"
        db.sync()
        push(bench, "b", {"k": b"theirs"})
        db.changes().pull()
        del db["k"]
        db.sync()
        with bench.open("b") as other:
            other.snapshot("then")
        if ours:
            db["another"] = b"1"
            db.restore("then")
        else:
            push(bench, "b", {"more": b"1"})
            db.restore("then")
        assert "k" not in db
        assert pending(db)["k"] == "delete"
        with pytest.raises(ConflictError, match="'k'"):
            db.changes().push()
        assert db.changes().push(on_conflict="ours")
    assert "k" not in bench.fresh_contents()


@pytest.mark.parametrize("applied", [True, False])
def test_a_delete_stays_where_the_remote_is_made_anew_while_a_push_is_open(bench: Bench, applied: bool) -> None:
    """Its history does not tell whether that push took place: what others have of the key may come from it."""
    make(bench, {"old": b"0"})
    stores, deaf = deaf_stores(applied=applied)
    with bench.open(wrap_store=deaf) as db, bench.open("b") as other:
        db["k"] = b"1"
        unanswered(db, stores[0])
        del db["k"]
        db.sync()
        other.changes().pull()
        assert ("k" in other) is applied
        if not applied:
            other["k"] = b"theirs"
        other.load_items()
        bench.root.unlink()
        assert other.changes().push(force_push=True)
        db.changes().pull()
        assert "k" not in db
        with pytest.raises(ConflictError, match="'k'"):
            db.changes().push()
        assert db.changes().push(on_conflict="theirs" if not applied else "ours") is not None
        assert db.get("k") == (None if applied else b"theirs")


@pytest.mark.parametrize("applied", [True, False])
def test_a_delete_of_nothing_ends_with_the_push_for_which_it_was_kept(bench: Bench, applied: bool) -> None:
    make(bench, {"old": b"0"})
    stores, deaf = deaf_stores(applied=applied)
    with bench.open("blind", wrap_store=deaf) as db:
        db["another"] = b"1"
        unanswered(db, stores[0])
        # What the remote has of it was never asked.
        db["k"] = b"ours"
        del db["k"]
        db.sync()
        assert pending(db)["k"] == "delete"
        push(bench, "b", {"k": b"theirs"})
        db.changes().pull()
        assert pending(db) == ({} if applied else {"another": "set"})
        assert db["k"] == b"theirs"
    assert bench.fresh_contents()["k"] == b"theirs"


def test_the_read_back_meets_others_on_top_of_ours(bench: Bench) -> None:
    make(bench, {"old": b"0"})

    def bury() -> None:
        push(bench, "b", {"theirs": b"2", "old": b"theirs"})
        raise LOST

    with bench.open(wrap_store=lambda inner: HookedStore(inner, "db", after=bury)) as db:
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

    with bench.open(wrap_store=lambda inner: HookedStore(inner, "db", before=theirs)) as db:
        db["k"] = b"1"
        assert db.changes().push()
        assert db["theirs"] == b"2"
    assert bench.fresh_contents() == {"old": b"0", "k": b"1", "theirs": b"2"}
    assert history(bench) == [(1, 0)] * 3


def test_another_writer_comes_first_with_the_same_key(bench: Bench) -> None:
    make(bench, {"k": b"0", "l": b"0"})

    def theirs() -> None:
        push(bench, "b", {"k": b"theirs"})

    with bench.open(wrap_store=lambda inner: HookedStore(inner, "db", before=theirs)) as db:
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
        with pytest.raises(ConflictError):
            b.changes().push()
        assert pending(b) == {"k": "set"}
    assert bench.fresh_contents() == {"k": b"a"}


@pytest.mark.parametrize("what", ["push", "forced push", "replacement", "raised fence", "compaction"])
def test_endless_traffic_ends_in_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr("ebooklet_tx.sync.commit.push.MAX_ROUNDS", 3)
    monkeypatch.setattr("ebooklet_tx.maintenance.compact.MAX_ROUNDS", 3)
    make(bench, {"k": b"0", "large": LARGE, "other": LARGE + b"1"})
    push(bench, "a", {"other": b"1"})
    numbers = iter(range(100))

    class Busy(HookedStore):
        def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
            if (kind, key) == ("put", "db"):
                push(bench, "b", {f"theirs {next(numbers)}": b"1"})
            return send()

    flag = "n" if what == "replacement" else "w"
    with bench.open("a", flag, wrap_store=lambda inner: Busy(inner, "db")) as db:
        db["mine"] = b"1"
        calls: dict[str, Callable[[], object]] = {
            "forced push": lambda: db.changes().push(force_push=True),
            "raised fence": lambda: raise_fence(db._session),
            "compaction": lambda: db.compact(live_share=1.0),
        }
        with pytest.raises(OfflineError, match="less traffic"):
            calls.get(what, db.changes().push)()
        assert pending(db) == {"mine": "set"}
        assert what == "replacement" or "theirs 1" in db
    assert next(numbers) == 3


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

    with bench.open("a", flag, wrap_store=gated) as db:
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
