"""Tickets: at most one is inside, in whatever order the requests of all of them take place.

A scheduler lets one request through at a time, in an order drawn from a seed, so that a schedule that
fails can be run again.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ebooklet_tx.errors import (
    LockLostError,
    LockTimeoutError,
    OfflineError,
    TransientStoreError,
)
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.locks import tickets
from ebooklet_tx.locks.lease_rules import Holder, LeaseRecord, encode_lease
from ebooklet_tx.locks.process_identity import new_holder
from ebooklet_tx.locks.tickets import (
    Ticket,
    TicketLock,
    next_number,
    parse_ticket,
    stands_before,
)
from ebooklet_tx.maintenance.break_locks import unlock
from ebooklet_tx.stores.object_store import ObjectStore, StoredObject
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from ebooklet_tx.sync.remote import Remote
from tests.campaigns import amounts
from tests.memory_store import MemoryStore
from tests.store_wrappers import Fault, FaultyStore

KEY = "db.lock"
TTL = 60.0
WAIT_SECONDS = 60.0
SCHEDULES = 2000
MAX_STEPS = 5000


class Clock:
    """Seconds that pass by waiting."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_sleep: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def policy(self) -> RetryPolicy:
        return RetryPolicy(attempts=6, base_seconds=0.0, cap_seconds=0.0, clock=self, sleep=self.sleep)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def someone(name: str) -> Holder:
    return Holder(owner=name, host=f"host-of-{name}", boot_id=f"boot-of-{name}", pid=4711)


def ticket_lock(store: ObjectStore, clock: Clock, name: str) -> TicketLock:
    return TicketLock(
        store,
        KEY,
        ttl_seconds=TTL,
        settle_seconds=0.2,
        policy=clock.policy(),
        clock=clock,
        holder=someone(name),
    )


def put_ticket(store: ObjectStore, ticket: Ticket, holder: Holder, token: str = "t") -> None:
    record = LeaseRecord(True, holder, token, TTL, time.time_ns() // 1000)
    store.put(f"{KEY}.{ticket.suffix()}", encode_lease(record))


# -- names -------------------------------------------------------------------------------------


def test_a_ticket_is_read_off_its_name() -> None:
    for ticket in (Ticket(0, "a"), Ticket(1, "a.b"), Ticket(10**12, "x")):
        assert parse_ticket(ticket.suffix()) == ticket
    for other in ("", "probe-0123", "choosing", "choosing.", "12", "12.", "-1.x", "1e3.x", ".x"):
        assert parse_ticket(other) is None


def test_numbers_grow_and_ties_are_settled_by_owner() -> None:
    assert next_number([]) == 1
    assert next_number([Ticket(0, "a"), Ticket(7, "b")]) == 8
    assert stands_before(Ticket(7, "b"), Ticket(7, "a"))
    assert not stands_before(Ticket(7, "a"), Ticket(7, "b"))
    assert stands_before(Ticket(1, "a"), Ticket(0, "b"))
    assert not stands_before(Ticket(1, "a"), Ticket(0, "a"))


# -- every order of requests -------------------------------------------------------------------


class ScanningStore(MemoryStore):
    """Lists by walking through the names one at a time, while others go on: as weak as a listing can be."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        last = prefix
        while True:
            self.on_request("list", prefix)
            with self._mutex:
                names = [key for key in sorted(self.objects) if key > last and key.startswith(prefix)]
                if not names:
                    return
                last = names[0]
                found = self._described(last)
            yield found


class Stopped(BaseException):
    """Ends the threads of a schedule that is over."""


class Schedule:
    """Runs workers, one step of one of them at a time; whoever makes a step says who goes on."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._gates: list[threading.Lock] = []
        self._alive: list[int] = []
        self._ranks: list[int] = []
        self._here = threading.local()
        self._over = threading.Event()
        self._errors: list[BaseException] = []
        self._steps = 0
        # Half of the schedules are even-handed; the others starve whoever has the lowest rank.
        self._even = seed % 2 == 0

    def step(self, *_: object) -> None:
        """Called by a worker before each thing that others may see."""
        if self._over.is_set():
            # One that was stopped tidies up behind itself, and nobody would let it go on.
            raise Stopped
        me = self._here.number
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise AssertionError("they wait for each other for ever")
        chosen = self._choose()
        if chosen != me:
            self._gates[chosen].release()
            self._gates[me].acquire()
        if self._over.is_set():
            raise Stopped

    def _choose(self) -> int:
        draw = self._random.random()
        if draw < 0.05:
            self._random.shuffle(self._ranks)
        if self._even or draw > 0.8:
            return self._alive[int(self._random.random() * len(self._alive))]
        return max(self._alive, key=lambda number: self._ranks[number])

    def _work(self, number: int, work: Callable[[], None]) -> None:
        self._here.number = number
        self._gates[number].acquire()
        try:
            if not self._over.is_set():
                work()
        except Stopped:
            pass
        except BaseException as error:
            self._errors.append(error)
        if self._over.is_set():
            return
        self._alive.remove(number)
        if self._errors or not self._alive:
            self._over.set()
        else:
            self._gates[self._choose()].release()

    def run(self, works: list[Callable[[], None]]) -> int:
        """Runs all to their ends; returns the number of steps."""
        self._gates = [threading.Lock() for _ in works]
        self._alive = list(range(len(works)))
        self._ranks = list(range(len(works)))
        threads = []
        for number, work in enumerate(works):
            self._gates[number].acquire()
            threads.append(threading.Thread(target=self._work, args=(number, work), daemon=True))
            threads[number].start()
        self._gates[self._choose()].release()
        stuck = not self._over.wait(WAIT_SECONDS)
        self._over.set()
        for gate, thread in zip(self._gates, threads, strict=True):
            if gate.locked():
                gate.release()
            thread.join(WAIT_SECONDS)
        if self._errors:
            raise self._errors[0]
        assert not stuck
        return self._steps


class TwoInside(AssertionError):
    """The very thing that must not happen."""


def run_schedule(seed: int, *, workers: int = 3, rounds: int = 1) -> int:
    """Lets workers take their turns in one order; raises when two are inside at once."""
    schedule = Schedule(seed)
    store = ScanningStore() if seed % 3 == 0 else MemoryStore()
    store.on_request = schedule.step
    policy = RetryPolicy(sleep=schedule.step, clock=lambda: 0.0)
    inside: list[str] = []
    entered: list[str] = []

    def worker(name: str) -> Callable[[], None]:
        def work() -> None:
            for _ in range(rounds):
                lock = TicketLock(store, KEY, policy=policy, clock=lambda: 0.0, holder=someone(name))
                # The thread that renews is not one of the schedule's.
                lock._start_renewing = lambda: None  # type: ignore[method-assign]
                lock.acquire(1000)
                inside.append(name)
                entered.append(name)
                if len(inside) > 1:
                    raise TwoInside(f"{inside} are inside (seed {seed})")
                schedule.step()
                lock.check()
                lock.renew()
                inside.remove(name)
                lock.release()

        return work

    steps = schedule.run([worker(f"w{number}") for number in range(workers)])
    assert sorted(entered) == sorted(f"w{number}" for number in range(workers) for _ in range(rounds))
    assert store.objects == {}
    return steps


@pytest.mark.parametrize("schedules", amounts(SCHEDULES // 4, SCHEDULES))
def test_at_most_one_is_inside_in_every_order(schedules: int) -> None:
    steps = [run_schedule(seed, workers=2 + seed % 2) for seed in range(schedules)]
    assert min(steps) > 15


@pytest.mark.slow
def test_at_most_one_is_inside_in_many_more_orders() -> None:
    for seed in range(4_000):
        run_schedule(seed, workers=2 + seed % 4, rounds=1 + seed % 3)


def _first_failure(limit: int) -> int:
    for seed in range(limit):
        try:
            run_schedule(seed)
        except TwoInside:
            return seed
    return limit


def test_the_scheduler_finds_a_bakery_without_choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "stands_before", lambda mine, other: other.number > 0 and other < mine)
    assert _first_failure(SCHEDULES) < SCHEDULES


def test_the_scheduler_finds_a_number_that_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # All draw the same number, and the order of owners is forgotten.
    monkeypatch.setattr(tickets, "stands_before", lambda mine, other: other.number < mine.number)
    assert _first_failure(SCHEDULES) < SCHEDULES


# -- standing still ----------------------------------------------------------------------------


def _meet_at(store: MemoryStore, at: int, other: Callable[[], object]) -> list[int]:
    """Lets somebody else act just before a request; tells how many there were."""
    seen = [0]

    def meet(kind: str, key: str) -> None:
        seen[0] += 1
        if seen[0] == at:
            store.on_request = lambda kind, key: None
            other()
            store.on_request = meet

    store.on_request = meet
    return seen


@pytest.mark.parametrize("how", ["silent", "forced"])
def test_whoever_stood_still_on_the_way_in_does_not_get_in(how: str) -> None:
    at = 0
    while True:
        at += 1
        clock, store = Clock(), MemoryStore()
        slow, other = ticket_lock(store, clock, "a slow one"), ticket_lock(store, clock, "z")
        clock.on_sleep = lambda other=other: other.renew()  # type: ignore[misc]
        seen = _meet_at(store, at, lambda other=other: other.acquire(300, force=how == "forced"))  # type: ignore[misc]
        if at == 1:
            # Nothing of the slow one is to be seen yet: it waits in the queue as anybody.
            with pytest.raises(LockTimeoutError):
                slow.acquire(30)
        else:
            try:
                slow.acquire(30)
            except (LockTimeoutError, LockLostError):
                assert seen[0] >= at
            else:
                assert seen[0] < at
                slow.release()
                break
        store.on_request = lambda kind, key: None
        other.check()
        other.renew()
        other.release()
        assert slow._thread is None
        assert store.objects == {}, f"stood still at request {at}"
    assert at > 6


def test_whoever_stood_still_inside_finds_out(clock: Clock) -> None:
    store = MemoryStore()
    slow, other = ticket_lock(store, clock, "slow"), ticket_lock(store, clock, "other")
    slow.acquire(0)
    other.acquire(300)
    assert other.taken_over
    for _ in range(2):
        with pytest.raises(LockLostError, match="every change is still pending"):
            slow.check()
    with pytest.raises(LockLostError):
        slow.renew()
    slow.release()
    other.check()
    other.release()
    assert store.objects == {}


@pytest.mark.parametrize("at", [1, 2])
def test_whoever_stood_still_while_renewing_brings_nothing_back(clock: Clock, at: int) -> None:
    store = MemoryStore()
    slow, other = ticket_lock(store, clock, "slow"), ticket_lock(store, clock, "other")
    slow.acquire(0)
    _meet_at(store, at, lambda: other.acquire(300))
    with pytest.raises(LockLostError):
        slow.renew()
    store.on_request = lambda kind, key: None
    with pytest.raises(LockLostError):
        slow.check()
    slow.release()
    other.check()
    assert len(store.objects) == 1
    other.release()


def test_a_silent_ticket_is_removed_after_a_whole_ttl_only(clock: Clock) -> None:
    store = MemoryStore()
    put_ticket(store, Ticket(3, "silent"), someone("silent"))
    clock.now += 500
    first = ticket_lock(store, clock, "first")
    began = clock.now
    with pytest.raises(LockTimeoutError):
        first.acquire(59)
    assert clock.now == pytest.approx(began + 59)
    assert list(store.objects) == [f"{KEY}.000000000003.silent"]
    again = ticket_lock(store, clock, "again")
    began = clock.now
    again.acquire(300)
    assert began + 60 <= clock.now <= began + 65
    assert again.taken_over
    again.release()
    assert store.objects == {}


def test_a_ticket_that_is_renewed_is_waited_for(clock: Clock) -> None:
    store = MemoryStore()
    holder, waiter = ticket_lock(store, clock, "holder"), ticket_lock(store, clock, "waiter")
    holder.acquire(0)
    renewed_at = [clock.now]

    def renew() -> None:
        if clock.now - renewed_at[0] >= TTL / 3:
            renewed_at[0] = clock.now
            holder.renew()

    clock.on_sleep = renew
    with pytest.raises(LockTimeoutError):
        waiter.acquire(400)
    holder.check()
    holder.release()
    waiter.acquire(0)
    assert not waiter.taken_over
    waiter.release()


def test_one_killed_while_choosing_is_waited_for_and_then_passed(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    put_ticket(store, Ticket(0, "killed"), someone("killed"))
    began = clock.now
    first = ticket_lock(store, clock, "first")
    with caplog.at_level(logging.WARNING, "ebooklet_tx"):
        first.acquire(300)
    assert began + 60 <= clock.now <= began + 65
    assert "choosing.killed" in caplog.text
    first.release()
    assert store.objects == {}


@pytest.mark.parametrize("number", [0, 5])
def test_a_dead_process_of_this_machine_is_passed_at_once(clock: Clock, number: int) -> None:
    store = MemoryStore()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here = new_holder()
    put_ticket(store, Ticket(number, "dead"), Holder("dead", here.host, here.boot_id, process.pid))
    first = ticket_lock(store, clock, "first")
    first.acquire(0)
    assert first.taken_over
    first.release()
    assert store.objects == {}


def test_garbage_in_a_tickets_place_is_removed_after_a_ttl(clock: Clock) -> None:
    store = MemoryStore()
    store.put(f"{KEY}.000000000001.x", b"\x00garbage")
    store.put(f"{KEY}.choosing.y", b"[" * 10_000)
    with pytest.raises(LockTimeoutError, match="an unknown writer"):
        ticket_lock(store, clock, "a").acquire(5)
    ticket_lock(store, clock, "b").acquire(300)
    assert [name for name in store.objects if not name.endswith(".b")] == []


# -- words and failures ------------------------------------------------------------------------


def test_the_error_names_the_holder_and_leaves_the_queue(clock: Clock) -> None:
    store = MemoryStore()
    holder = ticket_lock(store, clock, "holder")
    holder.acquire(0)
    waiter = ticket_lock(store, clock, "waiter")
    with pytest.raises(LockTimeoutError, match=r"host-of-holder, process 4711, for .* seconds.*force_lock"):
        waiter.acquire(3)
    assert list(store.objects) == [f"{KEY}.000000000001.holder"]
    holder.check()
    holder.release()


def test_unlocking_removes_every_ticket_and_nothing_else(clock: Clock) -> None:
    store = MemoryStore()
    for key in (KEY, f"{KEY}.probe-12", "db.lock2.choosing.x", "db"):
        store.put(key, b"x")
    put_ticket(store, Ticket(0, "a"), someone("a"))
    put_ticket(store, Ticket(4, "b"), someone("b"))
    remote = Remote(RetryingStore(store), ObjectNames("db"), mode=CommitMode(swaps=False))
    assert unlock(remote, force=True) == "2 tickets"
    assert sorted(store.objects) == ["db", KEY, f"{KEY}.probe-12", "db.lock2.choosing.x"]


def test_it_can_be_taken_again_after_it_was_given_back(clock: Clock) -> None:
    store = MemoryStore()
    lock = ticket_lock(store, clock, "first")
    for _ in range(3):
        lock.acquire(0)
        lock.check()
        lock.release()
        lock.release()
    with pytest.raises(LockLostError):
        lock.check()


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_a_lost_request_or_answer_changes_nothing(after: bool) -> None:
    for at in range(1, 12):
        clock, inner = Clock(), MemoryStore()
        store = RetryingStore(
            FaultyStore(inner, [Fault(at, TransientStoreError("cut"), after=after)]), clock.policy()
        )
        first = ticket_lock(store, clock, "first")
        first.acquire(10)
        first.renew()
        first.check()
        with pytest.raises(LockTimeoutError):
            ticket_lock(store, clock, "second").acquire(10)
        first.release()
        assert inner.objects == {}


def test_a_store_that_goes_down_on_the_way_in_leaves_no_thread() -> None:
    for at in range(1, 9):
        clock, inner = Clock(), MemoryStore()
        down = [Fault(number, TransientStoreError("down")) for number in range(at, at + 1000)]
        lock = ticket_lock(RetryingStore(FaultyStore(inner, down), clock.policy()), clock, "first")
        if at <= 6:
            with pytest.raises(OfflineError):
                lock.acquire(100)
        assert lock._thread is None


def test_the_thread_renews_and_ends_with_the_turn() -> None:
    inner = MemoryStore()
    renewed = threading.Semaphore(0)
    lock = TicketLock(inner, KEY, ttl_seconds=30.0, settle_seconds=0.0, policy=RetryPolicy.without_backoff())
    lock.acquire(0)
    lock._ttl_seconds = 0.03
    inner.on_request = lambda kind, key: renewed.release() if kind == "put" else None
    lock._start_renewing()
    thread = lock._thread
    assert renewed.acquire(timeout=WAIT_SECONDS)
    assert thread is not None
    lock.release()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
