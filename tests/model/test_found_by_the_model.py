"""What the models found, done with the package itself: requests that arrive late, and locks that change hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

import ebooklet_tx
from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, LockLostError, OfflineError, TransientStoreError
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.maintenance.break_locks import unlock
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.locking import begin_locked
from ebooklet_tx.sync.pull.pull import apply_root
from ebooklet_tx.sync.root_object import read_root
from tests.doors import open_database
from tests.pairs import N_BUCKETS
from tests.store_wrappers import PassingStore

T = TypeVar("T")


class LateStore(PassingStore):
    """Keeps writes of the root back while it is told to; they arrive when it lets them."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.delaying = False
        self.kept: list[Callable[[], object]] = []

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        return send()

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        def send() -> str:
            return PassingStore.put(self, key, data, if_match=if_match, if_absent=if_absent, metadata=metadata)

        if self.delaying and (if_match is not None or if_absent):
            self.kept.append(send)
            raise TransientStoreError("the request is still on its way")
        return send()


@pytest.fixture
def stores() -> list[LateStore]:
    return []


@pytest.fixture
def open_at(tmp_path: Path, stores: list[LateStore]) -> Callable[..., Database]:
    """Opens a copy by its name; the store of each is the last of `stores`."""
    (tmp_path / "remote").mkdir()

    def wrap(store: ObjectStore) -> LateStore:
        stores.append(LateStore(store))
        return stores[-1]

    def open_one(name: str, flag: str = "c", lock: str | None = None, **options: object) -> Database:
        return open_database(
            f"file://{tmp_path / 'remote'}/db",
            tmp_path / f"{name}.blt",
            flag,
            "str",
            N_BUCKETS,
            lock=lock,
            retry=RetryPolicy.without_backoff(1),
            wrap_store=wrap,
            **options,  # type: ignore[arg-type]
        )

    return open_one


def push_late(db: Database, store: LateStore) -> None:
    store.delaying = True
    with pytest.raises(OfflineError):
        db.changes().push()
    store.delaying = False


@pytest.mark.parametrize("begun", [True, False])
def test_a_delete_holds_though_the_value_arrives_after_it(
    begun: bool, open_at: Callable[..., Database], stores: list[LateStore]
) -> None:
    with open_at("a") as db:
        if begun:
            db["other"] = "v"
            db.changes().push()
        db["k"] = "old"
        push_late(db, stores[-1])
        del db["k"]
        db.sync()
        stores[-1].kept.pop()()
        db.changes().push()
        assert "k" not in db
    with open_at("b", "r") as reader:
        assert "k" not in reader


def test_what_was_written_since_a_late_first_push_is_no_conflict(
    open_at: Callable[..., Database], stores: list[LateStore]
) -> None:
    with open_at("a") as db:
        db["k"] = "first"
        push_late(db, stores[-1])
        db["k"] = "second"
        db.changes().pull()
        stores[-1].kept.pop()()
        assert db.changes().push()
    with open_at("b", "r") as reader:
        assert reader["k"] == "second"


@pytest.mark.parametrize("arrives", [False, True])
def test_of_two_pushes_of_a_key_the_one_that_took_place_counts(
    arrives: bool, open_at: Callable[..., Database], stores: list[LateStore]
) -> None:
    with open_at("a") as db:
        db["other"] = "v"
        db.changes().push()
        for value in ("first", "second"):
            db["k"] = value
            push_late(db, stores[-1])
        db["k"] = "third"
        db.sync()
        if arrives:
            stores[-1].kept.pop()()
            db.changes().pull()
            assert db._usable().journal.rows("SELECT count(*) FROM pushed_version") == [(0,)]
            db.changes().discard()
            assert db["k"] == "second"
        else:
            db.changes().push()
            assert db["k"] == "third"
    with open_at("b", "r") as reader:
        assert reader["k"] == ("second" if arrives else "third")


def test_an_uncommitted_write_stays_based_on_what_its_writer_saw(open_at: Callable[..., Database]) -> None:
    with open_at("a") as one:
        one["k"] = "base"
        one.changes().push()
        with open_at("b") as two:
            one["k"] = "theirs"
            one.changes().push()
            two["k"] = "ours"
            session = two._usable()
            assert apply_root(session, root_of(two)) is not None
            with pytest.raises(ebooklet_tx.ConflictError):
                two.changes().push()


def test_no_commit_is_taken_in_inside_a_transaction(open_at: Callable[..., Database]) -> None:
    with open_at("a") as one:
        one["k"] = "base"
        one.changes().push()
        with open_at("b") as two:
            one["k"] = "theirs"
            one.changes().push()
            with pytest.raises(InvalidArgumentError, match="inside a transaction"), two.transaction():
                apply_root(two._usable(), root_of(two))
            assert two["k"] == "base"


def test_a_root_older_than_the_base_is_not_taken_in(open_at: Callable[..., Database]) -> None:
    with open_at("a") as db:
        db["k"] = "first"
        db.changes().push()
        session = db._usable()
        old, since = root_of(db), read_base(session.journal)
        db["k"] = "second"
        db.changes().push()
        assert apply_root(session, old, since=since) is None
        assert db["k"] == "second"
        assert read_base(session.journal).seq == 2


def root_of(db: Database):  # type: ignore[no-untyped-def]
    fetched = read_root(db._usable().remote)
    assert fetched is not None
    return fetched


def test_a_holder_robbed_before_it_noted_the_fence_does_not_open(open_at: Callable[..., Database]) -> None:
    with open_at("a") as first:
        first["k"] = "v"
        first.changes().push()
        session = first._usable()
        # Stands between taking the lock and reading the root, while another forces it and raises the fence.
        session.locks.held = Lease(session.remote.store, session.remote.names.lock, policy=session.remote.policy)
        session.locks.held.acquire(0)
        with open_at("b", "w", "exclusive", force_lock=True):
            first.changes().pull()
            with pytest.raises(LockLostError):
                begin_locked(session)
        session.locks.held = None


def test_who_opens_after_an_unlocking_raises_the_fence(open_at: Callable[..., Database]) -> None:
    with open_at("a", lock="exclusive") as first:
        first["k"] = "v"
        first.changes().push()
        remote = first._usable().remote
        assert unlock(remote, force=True) is not None
        with open_at("b", "w", "exclusive") as second:
            assert read_base(second._usable().journal).fence == 1
            first["k"] = "late"
            with pytest.raises(LockLostError):
                first.changes().push()


def test_who_replaces_a_fenced_database_pushes_twice(open_at: Callable[..., Database]) -> None:
    with open_at("a", lock="exclusive") as first:
        first["k"] = "v"
        first.changes().push()
        with open_at("b", "w", "exclusive", force_lock=True):
            pass
    with open_at("c", "n", "exclusive") as anew:
        anew["k"] = "new"
        anew.changes().push()
        anew["k"] = "newer"
        assert anew.changes().push()
