"""Every request that syncing makes, failed in every way: all converges, and no commit is made twice.

A scenario is run once to see which requests it makes; then again for each of them and each fault. What
is right is told by sessions that speak to the store directly.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import Database
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import OfflineError
from ebooklet_tx.index import history
from ebooklet_tx.index.building import TAIL_BYTES
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.locks.lease_rules import Holder, LeaseRecord, decode_lease
from ebooklet_tx.stores.capabilities import Conditional, probe
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from tests.campaigns import amounts
from tests.pairs import limit_tails
from tests.places import new_place
from tests.s3_proxy import Fault, Mode, Rule, S3Proxy, s3_proxy

QUICK = tuple(fault for fault in Fault if fault not in (Fault.SLOW, Fault.LATE))
TIMED = (Fault.SLOW, Fault.LATE)
PATIENT_SECONDS = 30.0
HASTY_SECONDS = 0.3
ATTEMPTS = 10


@pytest.fixture(scope="module")
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> S3Connection:
    """A bucket, spoken to directly."""
    connection = new_place("ministack", request, tmp_path_factory.mktemp("place")).connection
    assert isinstance(connection, S3Connection)
    return connection


@pytest.fixture(scope="module")
def proxy(ministack_endpoint: str) -> Iterator[S3Proxy]:
    """A proxy that no other module changes the mode of."""
    with s3_proxy(ministack_endpoint) as running:
        yield running


class World:
    """One database: what it ought to be, the ways to open it, and what was tried on it."""

    def __init__(self, proxy: S3Proxy, bucket: S3Connection, folder: Path, step: int) -> None:
        self.proxy = proxy
        self._step = step
        self._turn = itertools.count()
        self.model: dict[str, Any] = {}
        self.commits: list[str | None] = []
        self.tried: Counter[tuple[str, Fault]] = Counter()
        self.waits: list[float] = []
        self._bucket = bucket
        self._folder = folder
        self._numbers = itertools.count()
        self._known: list[tuple[str, int]] = []
        self._stack = contextlib.ExitStack()
        self.policy = RetryPolicy(attempts=ATTEMPTS, base_seconds=0.0, cap_seconds=0.0, sleep=self.waits.append)
        self.start_anew()

    def start_anew(self) -> None:
        """Goes on with another, empty database."""
        self.key = f"db-{uuid.uuid4().hex[:12]}"
        self.model, self.commits = {}, []

    def connection(self, *, faulty: bool, timeout: float = PATIENT_SECONDS) -> S3Connection:
        there = self._bucket
        endpoint = self.proxy.endpoint if faulty else there.endpoint_url
        return S3Connection(
            there.access_key_id, there.access_key, self.key, there.bucket, endpoint, read_timeout=timeout
        )

    def open(self, flag: str, *, faulty: bool, timeout: float = PATIENT_SECONDS, **options: Any) -> Database:
        options = {"lock": None, "conditional_writes": True} | options
        return ebooklet_tx.open(
            self.connection(faulty=faulty, timeout=timeout),
            self._folder / f"{next(self._numbers)}.blt",
            flag,
            value_serializer="orjson",
            retry=self.policy,
            **options,
        )

    def keep(self, db: Database) -> Database:
        """Closes a session with this world."""
        return self._stack.enter_context(db)

    def write(self, db: Database, count: int, size: int) -> None:
        """Sets new keys, changes one and deletes one, here and in the model."""
        number = next(self._numbers)
        changes: dict[str, Any] = {
            f"{number:04}/{each}": f"{number}-{each}-".ljust(size, "x") for each in range(count)
        }
        changes["again"] = number
        db.update(changes)
        self.model |= changes
        gone = next((key for key in self.model if key != "again" and key not in changes), None)
        if gone is not None:
            del db[gone]
            del self.model[gone]

    def push(self, db: Database) -> None:
        """Pushes and notes the commit that was acknowledged."""
        result = db.changes().push()
        assert result.updated
        self.commits.append(result.commit_id)

    def check(self, *sessions: Database) -> None:
        """Compares a fresh reader, and sessions that are up to date, with the model; and the log."""
        self.proxy.reset()
        for db in sessions:
            assert dict(db.items()) == self.model
        with self.open("r", faulty=False) as fresh:
            assert dict(fresh.items()) == self.model
            index = fresh._session.index.of_base(read_base(fresh._session.journal))
            records = [] if index is None else list(index.remote.history.records(index.manifest))
        assert [(each.seq, each.commit_id) for each in reversed(records)] == list(
            enumerate(self.commits, start=1)
        )

    def attempt(self, act: Callable[[], object], kind: str, at: int, fault: Fault) -> None:
        """Does something while one of its requests fails."""
        self.waits.clear()
        self.proxy.arm(Rule(kind, fault, at=at))
        try:
            act()
        except Exception as error:
            error.add_note(f"with {kind} {at}: {fault.value}")
            raise
        assert self.proxy.fired() == 1, f"{kind} {at} did not come"
        assert (1.0 in self.waits) is (fault is Fault.ERROR_503_WAIT), f"{kind}: {self.waits}"
        self.proxy.reset()
        self.tried[kind, fault] += 1

    def requests(self, act: Callable[[], object]) -> list[tuple[str, int]]:
        """Does something in peace; returns kind and number of the requests that it makes."""
        self.proxy.reset()
        act()
        counts = Counter(seen.kind for seen in self.proxy.seen)
        return [(kind, at) for kind, count in counts.items() for at in range(1, count + 1)]

    def known(self, act: Callable[[], object], faults: tuple[Fault, ...]) -> list[tuple[str, int]]:
        """Finds the requests while there is patience: a hasty client makes more when the machine is slow."""
        if faults is QUICK:
            self._known = self.requests(act)
        return self._known

    def try_all(self, act: Callable[[], object], faults: tuple[Fault, ...], *sessions: Database) -> None:
        """Fails each request of something that can be done again and again; checks after each."""
        for kind, at in self.known(act, faults):
            for fault in self.some(faults):
                if fault is Fault.LATE and kind not in ("PUT root", "PUT lock"):
                    continue
                self.attempt(act, kind, at, fault)
            self.check(*sessions)

    def some(self, faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
        """Returns one in so many of the faults, others each time."""
        return faults[next(self._turn) % self._step :: self._step]

    def one_of(self, faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
        """Returns one of the faults, another each time, unless all are to be tried."""
        return faults if self._step == 1 else (faults[next(self._turn) % len(faults)],)

    def close(self) -> None:
        self.proxy.reset()
        self._stack.close()

    def report(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Prints what was tried; every line of it has converged."""
        with capsys.disabled():
            for kind in sorted({kind for kind, _ in self.tried}):
                cells = ", ".join(f"{f.value} {n}" for (k, f), n in self.tried.items() if k == kind)
                total = sum(n for (k, _), n in self.tried.items() if k == kind)
                print(f"\n  {name:<22} {kind:<12} {total:>3} tried, all converged ({cells})", end="")


@pytest.fixture(params=amounts(6, 1))
def world(
    request: pytest.FixtureRequest, proxy: S3Proxy, bucket: S3Connection, tmp_path: Path
) -> Iterator[World]:
    made = World(proxy, bucket, tmp_path, request.param)
    yield made
    made.close()


def timeouts() -> Iterator[tuple[float, tuple[Fault, ...]]]:
    yield PATIENT_SECONDS, QUICK
    yield HASTY_SECONDS, TIMED


def test_a_first_push_with_packs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for timeout, faults in timeouts():

        def first(timeout: float = timeout) -> None:
            world.start_anew()
            with world.open("c", faulty=True, timeout=timeout) as db:
                world.write(db, 3, 5000)
                world.push(db)
                assert dict(db.items()) == world.model

        for kind, at in world.known(first, faults):
            for fault in faults:
                # The reads and packs of a push are failed in every way below.
                if kind == "PUT root" or fault is Fault.DROP_AFTER:
                    world.attempt(first, kind, at, fault)
                    world.check()
    assert {kind for kind, _ in world.tried} == {"GET root", "PUT pack", "PUT root"}
    world.report("first push", capsys)


def test_a_push_whose_values_ride_in_the_root(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with world.open("c", faulty=False) as db:
        world.write(db, 3, 10)
        world.push(db)
    for timeout, faults in timeouts():
        db = world.keep(world.open("w", faulty=True, timeout=timeout))
        db.changes().pull()

        def again(db: Database = db) -> None:
            world.write(db, 2, 10)
            world.push(db)

        world.try_all(again, faults, db)
    assert {kind for kind, _ in world.tried} == {"PUT root"}
    world.report("incremental push", capsys)


def test_a_push_that_writes_the_index_and_the_history(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tails(monkeypatch, 100, run_list_bytes=100)
    monkeypatch.setattr(history, "KEEP_RECENT", 1)
    for timeout, faults in timeouts():

        def twice(timeout: float = timeout) -> None:
            # Anew each time: what a push reads and merges goes by what lies below it.
            world.start_anew()
            with world.open("c", faulty=True, timeout=timeout) as db:
                for _ in range(2):
                    world.write(db, 4, 5000)
                    world.push(db)

        world.try_all(twice, faults)
    kinds = {kind for kind, _ in world.tried}
    # The parts of the index below it that this machine wrote are here.
    assert kinds == {"GET root", "PUT pack", "PUT index", "PUT history", "PUT root"}
    world.report("push with an index", capsys)


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
def test_a_push_that_was_interrupted_and_goes_on(
    world: World, capsys: pytest.CaptureFixture[str], applied: bool
) -> None:
    """The root's PUT fails until the push gives up; its last one takes effect unseen, or none does."""
    with world.open("c", faulty=False) as db:
        world.write(db, 3, 10)
        world.push(db)
    for timeout, faults in timeouts():
        db = world.keep(world.open("w", faulty=True, timeout=timeout))
        db.changes().pull()

        def interrupted(db: Database = db) -> None:
            world.write(db, 3, 5000)
            fault = Fault.ERROR_500_AFTER if applied else Fault.ERROR_500
            # Where the root was replaced, nothing may be known of it: reading back fails as well.
            world.proxy.arm(
                Rule("PUT root", fault, times=ATTEMPTS + 1), Rule("GET root", Fault.ERROR_503, times=ATTEMPTS + 1)
            )
            with pytest.raises(OfflineError):
                db.changes().push()

        def go_on(db: Database = db) -> None:
            world.push(db)

        if faults is QUICK:
            interrupted()
        for kind, at in world.known(go_on, faults):
            for fault in world.some(faults):
                if fault is not Fault.LATE or kind == "PUT root":
                    interrupted()
                    world.attempt(go_on, kind, at, fault)
            world.check(db)
    kinds = {kind for kind, _ in world.tried}
    assert kinds == ({"GET root", "HEAD pack"} if applied else {"GET root", "HEAD pack", "PUT root"})
    world.report(f"resumed, {'applied' if applied else 'not applied'}", capsys)


def test_a_pull(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    writer = world.keep(world.open("c", faulty=False))
    world.write(writer, 3, 10)
    world.push(writer)
    for timeout, faults in timeouts():
        db = world.keep(world.open("w", faulty=True, timeout=timeout))

        def news(db: Database = db) -> None:
            limit_tails(monkeypatch, 100, run_list_bytes=100)
            world.write(writer, 3, 10)
            world.push(writer)
            limit_tails(monkeypatch, TAIL_BYTES)
            world.write(writer, 3, 10)
            world.push(writer)
            assert db.changes().pull().changed
            assert dict(db.items()) == world.model
            assert not db.changes().pull().changed

        world.try_all(news, faults, db, writer)
    assert {kind for kind, _ in world.tried} == {"GET root", "GET index"}
    world.report("pull", capsys)


def test_fetching_values(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    writer = world.keep(world.open("c", faulty=False))
    world.write(writer, 3, 5000)
    world.push(writer)
    for timeout, faults in timeouts():
        db = world.keep(world.open("w", faulty=True, timeout=timeout))

        def fetch(db: Database = db) -> None:
            world.write(writer, 8, 5000)
            world.push(writer)
            db.changes().pull()
            new = sorted(world.model)[-9:-1]
            assert db[new[0]] == world.model[new[0]]
            assert dict(db.get_items(new)) == {key: world.model[key] for key in new}

        world.try_all(fetch, faults, db, writer)
    assert {kind for kind, _ in world.tried} == {"GET root", "GET pack"}
    world.report("fetch", capsys)


def test_taking_renewing_and_giving_back_the_lock(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    direct = open_store(world.connection(faulty=False))

    def record() -> LeaseRecord:
        blob = direct.get(f"{world.key}.lock")
        assert blob is not None
        return decode_lease(blob.data, name="lock")

    for timeout, faults in timeouts():
        store = open_store(world.connection(faulty=True, timeout=timeout), policy=world.policy)

        def hold() -> None:
            # `store` is of this round: the function is not used after it.
            me = Holder(uuid.uuid4().hex, "elsewhere", "another boot", 1)
            lease = Lease(store, f"{world.key}.lock", holder=me, policy=world.policy)  # noqa: B023
            lease.acquire(0)
            assert record().holder == me
            assert not lease.taken_over
            lease.renew()
            lease.check()
            assert record().held
            lease.release()
            assert not record().held

        for fresh in (True, False):
            if fresh:
                # Where there is no lease object yet, it is created: tried once for each fault.
                for kind, at in [("GET lock", 1), ("PUT lock", 1)]:
                    for fault in faults:
                        if fault is not Fault.LATE or kind == "PUT lock":
                            world.start_anew()
                            world.attempt(hold, kind, at, fault)
                continue
            for kind, at in world.known(hold, faults):
                for fault in world.some(faults):
                    if fault is not Fault.LATE or kind == "PUT lock":
                        world.attempt(hold, kind, at, fault)
        store.close()
    direct.close()
    assert {kind for kind, _ in world.tried} == {"GET lock", "PUT lock"}
    world.report("lease", capsys)


def test_a_locked_session_from_open_to_close(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def session() -> None:
        with world.open("c", faulty=True, lock="exclusive") as db:
            world.write(db, 2, 5000)
            world.push(db)

    session()
    for kind, at in world.requests(session):
        world.attempt(session, kind, at, Fault.DROP_AFTER)
    world.check()
    world.report("open, push, close", capsys)


def test_commits_in_turn(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Where conditions are refused, each commit draws a ticket."""
    world.proxy.mode = Mode.REFUSES
    db = world.keep(world.open("c", faulty=True, conditional_writes=False))

    def again() -> None:
        world.write(db, 2, 5000)
        world.push(db)

    faults = (Fault.DROP_AFTER, Fault.TRUNCATED)
    again()
    for kind, at in world.requests(again):
        for fault in world.one_of(faults):
            world.attempt(again, kind, at, fault)
    world.proxy.mode = Mode.PLAIN
    world.check(db)
    kinds = {kind for kind, _ in world.tried}
    assert kinds == {"LIST", "DELETE lock", "PUT lock", "GET root", "PUT root", "PUT pack"}
    world.report("push with a ticket", capsys)


def test_the_probe(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    inner = S3Store(world.connection(faulty=True))
    store = RetryingStore(inner, world.policy)

    def probed() -> None:
        # As of a client that has written nothing yet.
        inner.quote_etags, inner.etags_proven = True, False
        assert probe(store, f"{world.key}.lock", inner) is Conditional.QUOTED
        assert list(store.list(world.key)) == []

    for kind, at in world.requests(probed):
        # Of creates at once, those that fail count as losers: nothing waits for them.
        if at <= 4:
            for fault in world.one_of((Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_500, Fault.TRUNCATED)):
                world.attempt(probed, kind, at, fault)
    store.close()
    assert {kind for kind, _ in world.tried} == {"PUT probe", "HEAD probe", "DELETE probe", "LIST"}
    world.report("probe", capsys)
