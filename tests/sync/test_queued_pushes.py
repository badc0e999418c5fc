"""Optimistic pushes of one machine: they lose no rounds to each other, and wait for each other only to commit."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

import ebooklet_tx
from ebooklet_tx import testing
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.locks import private_folder
from ebooklet_tx.locks.machine_queue import MachineQueue
from ebooklet_tx.stores.wrapper import PassingStore
from ebooklet_tx.sync.commit.turns import Turns
from ebooklet_tx.sync.pull import next_root
from ebooklet_tx.sync.pull.next_root import NextRoot
from ebooklet_tx.sync.root_object import told_root

T = TypeVar("T")
pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="there is no queue without such locks")


class NotingStore(PassingStore):
    """Calls a function before each request."""

    before: Callable[[str, str], object] = staticmethod(lambda kind, key: None)

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        type(self).before(kind, key)
        return send()


@pytest.fixture(autouse=True)
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The requests that are sent."""
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    sent: list[str] = []
    monkeypatch.setattr(NotingStore, "before", staticmethod(lambda kind, key: sent.append(kind)))
    with testing.wrapped_stores(NotingStore):
        yield sent


@contextlib.contextmanager
def writers(tmp_path: Path, count: int) -> Iterator[list[Any]]:
    remote = f"file://{tmp_path}/remote/counters"
    with ebooklet_tx.open(remote, tmp_path / "first.blt", "c", value_serializer="orjson") as db:
        db["count"] = 0
        db.changes().push()
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                ebooklet_tx.open(remote, tmp_path / f"{n}.blt", "c", value_serializer="orjson", lock=None)
            )
            for n in range(count)
        ]


def add(conflict: ebooklet_tx.Conflict) -> int:
    return int(conflict.ours + conflict.theirs - conflict.base)


def queue_of(db: Any) -> Any:
    return db._session.locks.queue


def test_threads_lose_no_round_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[float] = []
    monkeypatch.setattr(Turns, "lost", lambda self, took: lost.append(took))

    def work(db: Any) -> None:
        for _ in range(4):
            db["count"] += 1
            db.changes().push(on_conflict=add)

    with writers(tmp_path, 3) as sessions:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, sessions))
        sessions[0].changes().pull()
        assert sessions[0]["count"] == 12
        # One that came just after another had left may have met its commit.
        assert len(lost) <= 6
        assert not any(queue_of(db).is_in for db in sessions)


def push_behind(one: Any, other: Any, before: Callable[[], object] = lambda: None) -> int:
    """Lets one push while the other stands behind it in the queue; returns the other's commit."""
    queue_of(one).enter(0.0)
    with ThreadPoolExecutor(1) as pool:
        pushed = pool.submit(other.changes().push, on_conflict=add)
        while not queue_of(other).is_in:
            time.sleep(0.001)
        before()
        one.changes().push(on_conflict=add)
        return int(pushed.result(30).seq)


def test_a_writer_that_waited_need_not_read_the_root(tmp_path: Path, requests: list[str]) -> None:
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["count"] = 1, 2
        assert push_behind(one, other, requests.clear) == 3
        assert requests == ["put", "put"]
        one.changes().pull()
        assert one["count"] == 3
        # With nobody behind it a writer leaves nothing.
        before = (tmp_path / "run" / "ebooklet_tx.roots").read_bytes()
        one["a"] = 1
        one.changes().push()
        assert (tmp_path / "run" / "ebooklet_tx.roots").read_bytes() == before


def test_a_root_is_decoded_while_it_is_written(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, decoded = threading.Event(), []
    monkeypatch.setattr(next_root, "told_root", lambda *given: decoded.append(given[1]) or told_root(*given))
    prepare = NextRoot.prepare
    monkeypatch.setattr(NextRoot, "prepare", lambda self, data: (prepare(self, data), prepared.set()))
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["count"] = 1, 2
        monkeypatch.setattr(NotingStore, "before", staticmethod(lambda kind, key: prepared.wait(10)))
        assert push_behind(one, other) == 3
        assert decoded == [""]
        one.changes().pull()
        assert one["count"] == 3


@pytest.mark.parametrize("whole", [True, False])
def test_a_root_that_was_shown_and_not_written_here_is_read(
    tmp_path: Path, requests: list[str], whole: bool
) -> None:
    with writers(tmp_path, 3) as (one, other, elsewhere):
        one["count"], other["count"], elsewhere["count"] = 1, 2, 5
        queue_of(one).enter(0.0)
        queue_of(elsewhere).close()
        with ThreadPoolExecutor(1) as pool:
            pushed = pool.submit(other.changes().push, on_conflict=add)
            while not queue_of(other).is_in:
                time.sleep(0.001)
            elsewhere.changes().push()
            root = (tmp_path / "remote" / "counters").read_bytes()
            requests.clear()
            queue_of(one).announce(root if whole else b"none")
            queue_of(one).leave()
            assert pushed.result(30).seq == 3
        assert requests == ["get", "put"]
        assert other["count"] == 7


def test_three_transactions_lie_between_another_one_s_commit_and_the_next(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    begin, pushing = Journal._sync_at_commit, threading.local()

    def noting(self: Journal, durable: bool) -> None:
        if getattr(pushing, "is_other", False):
            done.append("durable" if durable else "relaxed")
        begin(self, durable)

    def before(kind: str, key: str) -> None:
        if getattr(pushing, "is_other", False):
            done.append(kind)

    enter = MachineQueue.enter

    def entering(self: MachineQueue, *given: Any) -> bool:
        pushing.is_other = threading.current_thread() is not threading.main_thread()
        found = enter(self, *given)
        if getattr(pushing, "is_other", False):
            done.append("in front")
        return found

    monkeypatch.setattr(Journal, "_sync_at_commit", noting)
    monkeypatch.setattr(MachineQueue, "enter", entering)
    monkeypatch.setattr(NotingStore, "before", staticmethod(before))
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["count"] = 1, 2
        push_behind(one, other)
    pulled_and_resolved, intent, based_and_folded = ["relaxed"] * 2, ["durable"], ["durable"] * 2
    assert done == ["in front", *pulled_and_resolved, "in front", *intent, "put", *based_and_folded]


class PowerFailsError(Exception):
    """Stands for the end of everything."""


def test_power_loss_may_take_back_what_was_pulled_and_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, lost = Journal._sync_at_commit, tmp_path / "lost"

    def copying(self: Journal, durable: bool) -> None:
        if not durable and not lost.exists():
            # What was fsynced until now.
            lost.mkdir()
            for path in tmp_path.glob("1.blt*"):
                shutil.copy(path, lost)
        begin(self, durable)

    def before(kind: str, key: str) -> None:
        if lost.exists() and kind == "put":
            raise PowerFailsError

    monkeypatch.setattr(Journal, "_sync_at_commit", copying)
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["count"] = 1, 2
        monkeypatch.setattr(NotingStore, "before", staticmethod(before))
        with pytest.raises(PowerFailsError):
            push_behind(one, other)
        monkeypatch.setattr(NotingStore, "before", staticmethod(lambda kind, key: None))
    remote = f"file://{tmp_path}/remote/counters"
    with ebooklet_tx.open(remote, lost / "1.blt", "w", lock=None) as again:
        assert again["count"] == 2
        again.changes().push(on_conflict=add)
        assert again["count"] == 3


def altered(etag: str, root: bytes) -> tuple[str, bytes]:
    return etag, root[:-1] + bytes([root[-1] ^ 1])


def foreign(etag: str, root: bytes) -> tuple[str, bytes]:
    return etag, b"not a root"


def with_another_etag(etag: str, root: bytes) -> tuple[str, bytes]:
    return "0" * 32, root


def nothing(etag: str, root: bytes) -> None:
    return None


@pytest.mark.parametrize("change", [altered, foreign, with_another_etag, nothing])
def test_what_is_handed_over_is_a_hint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[str, bytes], tuple[str, bytes] | None]
) -> None:
    read = MachineQueue.handed

    def handed(self: MachineQueue) -> tuple[str, bytes] | None:
        found = read(self)
        assert found is not None
        return change(*found)

    monkeypatch.setattr(MachineQueue, "handed", handed)
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["count"] = 1, 2
        assert push_behind(one, other) == 3
        one.changes().pull()
        assert one["count"] == 3


def test_a_root_of_another_database_in_its_place_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ebooklet_tx.open(
        f"file://{tmp_path}/remote/x", tmp_path / "x.blt", "c", value_serializer="orjson"
    ) as db:
        for number in range(9):
            db["a"] = number
            db.changes().push()
    theirs = (tmp_path / "remote" / "x").read_bytes()
    monkeypatch.setattr(MachineQueue, "handed", lambda self: ("0" * 32, theirs))
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["count"] = 1, 2
        assert push_behind(one, other) == 3
        assert "a" not in other


def test_packs_are_sent_outside_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writers(tmp_path, 1) as (db,):
        seen = []
        monkeypatch.setattr(
            NotingStore, "before", staticmethod(lambda kind, key: seen.append((key, queue_of(db).is_in)))
        )
        db["large"] = "x" * 100_000
        db.changes().push()
        assert [is_in for key, is_in in seen if ".d/pack" in key] == [False]
        assert seen[-1] == ("counters", True)
        assert not queue_of(db).is_in


def test_a_large_push_that_met_others_commits_on_top_of_them(tmp_path: Path, requests: list[str]) -> None:
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["large"] = 1, "x" * 100_000
        queue_of(one).enter(0.0)
        with ThreadPoolExecutor(1) as pool:
            pushed = pool.submit(other.changes().push)
            while not queue_of(other).is_in:
                time.sleep(0.001)
            one.changes().push()
            assert pushed.result(30).seq == 3
        # The pack, and one root each: nothing was sent twice.
        assert requests[-5:].count("put") + requests[-5:].count("put_parts") <= 3
        one.changes().pull()
        assert len(one["large"]) == 100_000


def test_a_push_that_fails_gives_its_place_back(tmp_path: Path) -> None:
    with writers(tmp_path, 2) as (one, other):
        one["count"], other["count"] = 1, 2
        one.changes().push()
        with pytest.raises(ebooklet_tx.ConflictError):
            other.changes().push()
        assert not queue_of(other).is_in
        other.changes().push(on_conflict="ours")


def test_a_push_within_another_one_of_its_thread_does_not_wait_for_it(tmp_path: Path) -> None:
    with writers(tmp_path, 2) as (one, other):

        def decide(conflict: ebooklet_tx.Conflict) -> int:
            if other["count"] == 2:
                other["count"] = 3
                other.changes().push()
            return 10

        other["count"] = 2
        other.changes().push()
        one["count"] = 1
        began = time.monotonic()
        one.changes().push(on_conflict=decide)
        assert one["count"] == 10
        assert time.monotonic() - began < 5


def test_a_writer_that_holds_the_lock_has_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folder, "open_shared", lambda *_: pytest.fail("it joined"))
    monkeypatch.setattr("ebooklet_tx.locks.machine_queue.open_shared", lambda *_: pytest.fail("it joined"))
    with ebooklet_tx.open(
        f"file://{tmp_path}/remote/x", tmp_path / "x.blt", "c", value_serializer="orjson"
    ) as db:
        db["a"] = 1
        db.changes().push()


def test_closing_a_session_ends_the_wait_of_its_push(tmp_path: Path) -> None:
    with writers(tmp_path, 2) as (one, other):
        queue_of(one).enter(0.0)
        other["b"] = 1
        raised: list[BaseException] = []

        def push() -> None:
            try:
                other.changes().push()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=push)
        thread.start()
        while not queue_of(other).is_in:
            time.sleep(0.001)
        other.close()
        thread.join(2)
        assert not thread.is_alive()
        queue_of(one).leave()
    assert all(isinstance(error, ebooklet_tx.Error) for error in raised), raised
