"""Conflicts are decided, and told of, by what the remote holds at the push, and not at the last pull."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx import ConflictError, InvalidArgumentError, OfflineError
from ebooklet_tx.errors import TransientStoreError
from ebooklet_tx.local.journal.intents import read_intents
from ebooklet_tx.locks.machine_queue import MachineQueue
from tests.pairs import pending
from tests.remotes import Shelf
from tests.store_wrappers import CountingStore, Fault, FaultyStore, HookedStore, PassingStore

EARLY, MIDDLE, LATE = (1_700_000_000_000_000 + n for n in range(3))


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["swap", "tickets"])
def shelf(tmp_path: Path, request: pytest.FixtureRequest) -> Shelf:
    one = Shelf(tmp_path, conditional=request.param)
    one.push("db", "a", {"k": b"base", "other": b"base"})
    with one.open("db", "b"):
        pass
    return one


def theirs(shelf: Shelf, value: bytes, stamp: int = MIDDLE, key: str = "k") -> None:
    """Another writer's push."""
    with shelf.open("db", "b") as db:
        db.set(key, value, stamp)
        db.changes().push()


def in_conflict(shelf: Shelf, stamp: int, **options: Any) -> Any:
    """A session that has set `k` at MIDDLE and has heard that it was changed there."""
    db = shelf.open("db", "a", "w", **options)
    db.set("k", b"ours", MIDDLE)
    theirs(shelf, b"theirs", stamp)
    db.changes().pull()
    assert [conflict.key for conflict in db.changes().conflicts()] == ["k"]
    return db


@pytest.mark.parametrize("choice", ["newest", "theirs", lambda conflict: conflict.theirs])
def test_ours_is_not_dropped_for_a_version_that_was_taken_back(shelf: Shelf, choice: Any) -> None:
    with in_conflict(shelf, LATE) as db:
        theirs(shelf, b"base", EARLY)
        assert db.changes().push(on_conflict=choice)
        assert db["k"] == b"ours"
    assert shelf.contents("db")["k"] == b"ours"


def test_newest_is_decided_by_the_newest_there_is(shelf: Shelf) -> None:
    with in_conflict(shelf, LATE) as db:
        theirs(shelf, b"older", EARLY)
        assert db.changes().push(on_conflict="newest")
        assert db["k"] == b"ours"


@pytest.mark.parametrize("choice", ["newest", "theirs", lambda conflict: conflict.theirs])
def test_ours_is_not_dropped_for_a_version_that_goes_while_it_is_pushed(shelf: Shelf, choice: Any) -> None:
    """Another writer comes in between the decision and the commit, and takes his change back."""

    def take_back() -> None:
        theirs(shelf, b"base", EARLY)

    hooks: list[HookedStore] = []

    def hooked(store: Any) -> HookedStore:
        hooks.append(HookedStore(store, "db"))
        return hooks[0]

    with in_conflict(shelf, LATE, wrap=hooked) as db:
        db["mine"] = b"1"
        # Before the put where it is conditional; with tickets nobody comes in between look and put.
        hooks[0].kind, hooks[0].before = ("put", take_back) if shelf.conditional else ("get", None)
        if not shelf.conditional:
            hooks[0].key, hooks[0].kind, hooks[0].before = "db.lock*", "put", take_back
        assert db.changes().push(on_conflict=choice)
        assert hooks[0].before is None
        assert db["k"] == b"ours"
        assert pending(db) == {}
    assert shelf.contents("db") == {"k": b"ours", "other": b"base", "mine": b"1"}


def test_giving_way_takes_effect_with_the_commit(shelf: Shelf) -> None:
    with in_conflict(shelf, LATE) as db:
        db["mine"] = b"1"
        assert db.changes().push(on_conflict="theirs")
        assert (db["k"], pending(db)) == (b"theirs", {})
    assert shelf.contents("db") == {"k": b"theirs", "other": b"base", "mine": b"1"}


def test_giving_way_alone_needs_no_commit(shelf: Shelf) -> None:
    with in_conflict(shelf, LATE) as db:
        assert not db.changes().push(on_conflict="theirs")
        assert (db["k"], pending(db)) == (b"theirs", {})


def test_a_push_that_fails_keeps_what_was_to_give_way(shelf: Shelf) -> None:
    faulty: list[FaultyStore] = []

    def failing(store: Any) -> FaultyStore:
        faulty.append(FaultyStore(store, []))
        return faulty[0]

    with in_conflict(shelf, LATE, wrap=failing) as db:
        db["mine"] = b"1"
        for kind in ("get", "put"):
            faulty[0]._counts.clear()
            faulty[0].plan = [Fault(at, TransientStoreError("down"), kind=kind) for at in range(1, 40)]
            with pytest.raises(OfflineError):
                db.changes().push(on_conflict="theirs")
            assert db["k"] == b"ours"
            assert pending(db) == {"k": "set", "mine": "set"}
        faulty[0].plan = []
        assert db.changes().push(on_conflict="theirs")
    assert shelf.contents("db") == {"k": b"theirs", "other": b"base", "mine": b"1"}


@pytest.mark.parametrize("choice", ["ours", "theirs", lambda c: c.ours + c.theirs])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_choice_made_by_hand_stands_whatever_becomes_of_the_push(
    tmp_path: Path, choice: Any, after: bool
) -> None:
    for at in range(1, 4):
        shelf = Shelf(tmp_path / str(at))
        shelf.folder.mkdir()
        shelf.push("db", "a", {"k": b"base", "other": b"base"})
        faulty = FaultyStore(shelf.store, [])
        with in_conflict(shelf, LATE, wrap=lambda _, faulty=faulty: faulty) as db:
            db["mine"] = b"1"
            db.changes().resolve("k", choice)
            chosen = db["k"]
            # The first try of the push fails on this as well.
            theirs(shelf, b"2", key="other")
            faulty._counts.clear()
            error = TransientStoreError("down", may_have_applied=after)
            faulty.plan = [Fault(n, error, after=after and n == at) for n in range(at, at + 40)]
            try:
                db.changes().push()
            except OfflineError:
                faulty.plan = []
                db.changes().push()
            faulty.plan = []
            assert db["k"] == chosen
        assert shelf.contents("db") == {"k": chosen, "other": b"2", "mine": b"1"}


# -- being told --------------------------------------------------------------------------------


def test_the_error_lists_what_is_in_conflict_now(shelf: Shelf) -> None:
    with in_conflict(shelf, LATE) as db:
        db["other"] = b"ours too"
        theirs(shelf, b"theirs too", key="other")
        with pytest.raises(ConflictError, match="2 keys were changed") as caught:
            db.changes().push()
    assert [conflict.key for conflict in caught.value.conflicts] == ["k", "other"]
    assert caught.value.complete


@pytest.mark.parametrize("waited", [False, True])
def test_the_error_says_where_there_may_be_more(
    shelf: Shelf, waited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = FaultyStore(shelf.store, [])
    with in_conflict(shelf, LATE, wrap=lambda _: faulty) as db:
        monkeypatch.setattr(MachineQueue, "enter", lambda *_: waited)
        faulty._counts.clear()
        faulty.plan = [Fault(at, TransientStoreError("down")) for at in range(1, 40)]
        with pytest.raises(ConflictError, match=r"at least 1 key was .*there may be more") as caught:
            db.changes().push()
        assert not caught.value.complete
        faulty.plan = []


# -- nothing is left of what was never sent ----------------------------------------------------


def test_an_offline_push_leaves_no_intent(shelf: Shelf) -> None:
    with shelf.open("db", "a", offline=True) as db:
        db.update({"k": b"1", "large": b"x" * 50_000})
        with pytest.raises(OfflineError, match="opened offline"):
            db.changes().push()
        assert pending(db) == {"k": "set", "large": "set"}
        assert read_intents(db._session.journal) == []
        assert db._session.journal.raw.execute("SELECT count(*) FROM upload").fetchone() == (0,)


class Unreachable(PassingStore):
    """Nothing can be written: no connection comes about."""

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        if (kind, key) == ("put", "db"):
            raise TransientStoreError("no route", may_have_applied=False)
        return send()


def test_a_push_whose_root_was_never_sent_leaves_no_intent(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"base"})
    with shelf.open("db", "a", wrap=Unreachable) as db:
        db["k"] = b"1"
        with pytest.raises(OfflineError):
            db.changes().push()
        assert read_intents(db._session.journal) == []
        assert pending(db) == {"k": "set"}


def test_a_push_that_may_have_arrived_leaves_its_intent(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.push("db", "a", {"k": b"base"})
    lost = [Fault(1, TransientStoreError("lost"), after=True, kind="put")]
    blind = [Fault(at, TransientStoreError("down"), kind="get") for at in range(2, 30)]
    with shelf.open("db", "a", wrap=lambda store: FaultyStore(store, lost + blind)) as db:
        db["k"] = b"1"
        with pytest.raises(OfflineError):
            db.changes().push()
        assert len(read_intents(db._session.journal)) == 1


# -- what every push of a session does ---------------------------------------------------------


def test_a_session_decides_conflicts_as_it_was_opened(shelf: Shelf) -> None:
    with in_conflict(shelf, LATE, on_conflict="ours") as db:
        with pytest.raises(ConflictError):
            db.changes().push(on_conflict="raise")
        assert db.changes().push()
    assert shelf.contents("db")["k"] == b"ours"
    with pytest.raises(InvalidArgumentError, match="on_conflict"):
        shelf.open("db", "a", on_conflict="mine")


def test_a_forced_push_is_a_commit_in_any_case(shelf: Shelf) -> None:
    counting = CountingStore(shelf.store)
    with shelf.open("db", "a", wrap=lambda _: counting) as db:
        assert not db.changes().push()
        counting.reset()
        result = db.changes().push(force_push=True)
        assert (result.updated, result.set_count, result.deleted_count, result.seq) == (True, 0, 0, 2)
        assert [key for kind, key in counting.log if kind == "put" and "lock" not in key] == ["db"]
    assert shelf.contents("db", "b") == {"k": b"base", "other": b"base"}
