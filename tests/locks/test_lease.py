"""The lease: who gets it when, and how its holder finds out that it is gone.

No test waits by the clock: the lease's clock is the test's, and its waits let it pass.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

import ebooklet_tx
from ebooklet_tx.errors import (
    LockLostError,
    LockTimeoutError,
    OfflineError,
    TransientStoreError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.locks.lease import Lease, force_release
from ebooklet_tx.locks.lease_rules import Holder, LeaseRecord, decode_lease, encode_lease
from ebooklet_tx.locks.process_identity import is_dead, new_holder
from ebooklet_tx.maintenance.break_locks import unlock
from ebooklet_tx.stores.capabilities import Conditional
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.sync.remote import Remote
from tests.memory_store import Conditions, MemoryStore
from tests.processes import fork
from tests.store_wrappers import CountingStore, Fault, FaultyStore, PassingStore

T = TypeVar("T")
KEY = "db.lock"
TTL = 60.0
WAIT_SECONDS = 60.0


class Clock:
    """Seconds that pass by waiting; `events` are things that happen at a time, in order."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.events: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.waits.append(seconds)
        end = self.now + seconds
        while self.events and self.events[0][0] <= end:
            self.now, happen = self.events.pop(0)
            happen()
        self.now = end

    def policy(self) -> RetryPolicy:
        return RetryPolicy(attempts=6, base_seconds=0.0, cap_seconds=0.0, clock=self, sleep=self._retry_sleep)

    def _retry_sleep(self, seconds: float) -> None:
        if seconds:
            self.sleep(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def someone(name: str) -> Holder:
    """A holder of another machine, so that nothing is known of its process."""
    return Holder(owner=name, host=f"host-of-{name}", boot_id=f"boot-of-{name}", pid=4711)


def lease(store: ObjectStore, clock: Clock, name: str | Holder, ttl: float = TTL) -> Lease:
    holder = name if isinstance(name, Holder) else someone(name)
    return Lease(store, KEY, ttl_seconds=ttl, policy=clock.policy(), clock=clock, holder=holder)


def record_in(store: ObjectStore) -> LeaseRecord:
    blob = store.get(KEY)
    assert blob is not None
    return decode_lease(blob.data, name=KEY)


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "remote")


# -- taking ------------------------------------------------------------------------------------


def test_it_is_taken_held_and_given_back(store: ObjectStore, clock: Clock) -> None:
    first = lease(store, clock, "first")
    first.acquire(0)
    assert not first.taken_over
    assert record_in(store).held
    assert record_in(store).holder == someone("first")
    first.release()
    assert not record_in(store).held
    second = lease(store, clock, "second")
    second.acquire(0)
    assert not second.taken_over
    assert record_in(store).holder == someone("second")
    second.release()
    assert clock.waits == []


def test_a_waiter_gets_it_when_its_holder_lets_go(store: ObjectStore, clock: Clock) -> None:
    first, second = lease(store, clock, "first"), lease(store, clock, "second")
    first.acquire(0)
    clock.events.append((1007.0, first.release))
    second.acquire(300)
    assert 1007 <= clock.now < 1010
    assert not second.taken_over
    second.release()


def test_a_holder_who_renews_is_never_taken_over_from(store: ObjectStore, clock: Clock) -> None:
    first, second = lease(store, clock, "first"), lease(store, clock, "second")
    first.acquire(0)
    clock.events += [(1000.0 + number * 20, first.renew) for number in range(1, 100)]
    with pytest.raises(LockTimeoutError):
        second.acquire(500)
    assert clock.now == 1500
    assert max(clock.waits) <= 2.0
    first.check()
    first.release()


@pytest.mark.parametrize("last_renewal", [0.0, 20.0, 59.0, 61.0])
def test_a_silent_holder_is_taken_over_from_after_a_whole_ttl(
    store: ObjectStore, clock: Clock, last_renewal: float
) -> None:
    first, second = lease(store, clock, "first"), lease(store, clock, "second")
    first.acquire(0)
    etag_taken = store.head(KEY).etag
    # It was silent for long before the waiter came: that counts for nothing.
    clock.now += 500
    began = clock.now
    if last_renewal:
        clock.events.append((began + last_renewal, first.renew))
    second.acquire(500)
    # The look that saw the renewal came after it; TTL and the renewal before it are the least.
    silent_since = began + (last_renewal if last_renewal < TTL else 0)
    assert silent_since + TTL <= clock.now <= silent_since + TTL + 5
    assert second.taken_over
    assert store.head(KEY).etag != etag_taken
    with pytest.raises(LockLostError, match="taken over"):
        first.renew()
    with pytest.raises(LockLostError):
        first.check()
    first.release()
    assert record_in(store).holder == someone("second")
    assert record_in(store).held
    second.release()


def test_the_holders_own_ttl_counts(store: ObjectStore, clock: Clock) -> None:
    first, second = lease(store, clock, "first", ttl=120.0), lease(store, clock, "second", ttl=6.0)
    first.acquire(0)
    with pytest.raises(LockTimeoutError):
        second.acquire(119)
    second.acquire(140)
    assert second.taken_over
    second.release()
    first.release()


def test_the_error_names_holder_host_process_and_age(store: ObjectStore, clock: Clock) -> None:
    record = LeaseRecord(True, someone("first"), "token", TTL, time.time_ns() // 1000 - 90_000_000)
    store.put(KEY, encode_lease(record))
    with pytest.raises(LockTimeoutError) as caught:
        lease(store, clock, "second").acquire(7)
    text = str(caught.value)
    assert re.search(r"host-of-first, process 4711, for 9[01] seconds", text)
    assert "did not release it within 7 seconds" in text
    assert "force_lock" in text
    assert "lock_timeout" in text
    assert repr(KEY) in text
    assert store.location in text
    assert isinstance(caught.value, TimeoutError)


def test_no_time_to_wait_is_one_look(clock: Clock) -> None:
    store = CountingStore(MemoryStore())
    first = lease(store, clock, "first")
    first.acquire(0)
    store.reset()
    with pytest.raises(LockTimeoutError):
        lease(store, clock, "second").acquire(0)
    assert store.requests == {"get": 1}
    assert clock.waits == []
    first.release()


def test_force_takes_it_at_once(store: ObjectStore, clock: Clock) -> None:
    first, second = lease(store, clock, "first"), lease(store, clock, "second")
    first.acquire(0)
    second.acquire(0, force=True)
    assert second.taken_over
    assert clock.waits == []
    with pytest.raises(LockLostError, match="every change is still pending"):
        first.renew()
    second.release()
    third = lease(store, clock, "third")
    third.acquire(0)
    assert third.taken_over  # second never raised the fence, so that is still to be done
    third.fence_raised()
    third.release()
    fourth = lease(store, clock, "fourth")
    fourth.acquire(0, force=True)
    assert not fourth.taken_over
    fourth.release()


def test_unlocking_frees_it_and_tells_of_whom(store: ObjectStore, clock: Clock) -> None:
    remote = Remote(RetryingStore(store), ObjectNames("db"))
    assert unlock(remote, force=True) is None
    first = lease(store, clock, "first")
    first.acquire(0)
    seen = first.lookup()
    assert seen is not None
    first.renew()
    # It is taken away only as it was seen.
    assert not force_release(store, KEY, seen)
    told = unlock(remote, force=True)
    assert told is not None
    assert "host-of-first, process 4711" in told
    assert unlock(remote, force=True) is None
    with pytest.raises(LockLostError):
        first.renew()
    first.release()
    second = lease(store, clock, "second")
    second.acquire(0)
    assert record_in(store).holder == someone("second")
    second.release()


def test_garbage_in_its_place_is_a_holder_who_never_renews(
    store: ObjectStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(KEY, b"\x00 garbage")
    with (
        caplog.at_level(logging.WARNING, "ebooklet_tx"),
        pytest.raises(LockTimeoutError, match="an unknown writer"),
    ):
        lease(store, clock, "first").acquire(30)
    assert "not one of ours" in caplog.text
    first = lease(store, clock, "first")
    began = clock.now
    first.acquire(300)
    assert began + 60 <= clock.now <= began + 65
    assert first.taken_over
    first.release()
    assert not record_in(store).held


def test_garbage_is_freed_by_unlocking(store: ObjectStore, clock: Clock) -> None:
    store.put(KEY, b"garbage")
    assert unlock(Remote(RetryingStore(store), ObjectNames("db"))) == "an unknown writer"
    first = lease(store, clock, "first")
    first.acquire(0)
    first.release()


def test_a_lock_of_a_newer_version_is_left_alone(store: ObjectStore, clock: Clock) -> None:
    store.put(KEY, b'{"format": 2}')
    with pytest.raises(UnsupportedFormatError, match="upgrade"):
        lease(store, clock, "first").acquire(1000)
    assert clock.waits == []


@pytest.mark.parametrize("state", ["absent", "free", "silent"])
def test_two_takers_at_once_are_one_holder(clock: Clock, state: str) -> None:
    """The other one comes in before any one request of the first, and stays."""
    met = at = 0
    while met == at:
        at += 1
        store = MemoryStore()
        if state != "absent":
            before = lease(store, clock, "before")
            before.acquire(0)
            if state == "free":
                before.release()
        met = _meet(store, clock, at)
    assert at == {"absent": 3, "free": 3}.get(state, at)
    assert at > 2


def _meet(store: MemoryStore, clock: Clock, at: int) -> int:
    """Returns how many requests the first made until the other came; less than `at` if it never did."""
    seen = 0
    first, second = lease(store, clock, "first"), lease(store, clock, "second")

    def meet(kind: str, key: str) -> None:
        nonlocal seen
        if seen < at:
            seen += 1
        store.on_request = lambda kind, key: None
        if seen == at and second._etag is None:
            second.acquire(0, force=True)
        elif second._etag is not None:
            second.renew()
        store.on_request = meet

    store.on_request = meet
    try:
        first.acquire(100)
    except LockTimeoutError:
        holder = second
    else:
        holder = first
    store.on_request = lambda kind, key: None
    assert holder is (second if seen == at else first)
    assert record_in(store).holder == holder.holder
    holder.renew()
    for each in (first, second):
        each.release()
    assert not record_in(store).held
    return seen


@pytest.mark.parametrize("conditions", ["want unquoted", "refused"])
def test_a_store_whose_conditions_never_hold_does_not_keep_a_waiter_for_ever(
    clock: Clock, conditions: Conditions
) -> None:
    store = MemoryStore(conditions)
    store.put(KEY, encode_lease(LeaseRecord(False, someone("x"), "t", TTL, 0)))
    with pytest.raises(ebooklet_tx.errors.ConditionUnsupportedError, match="conditional"):
        lease(store, clock, "first").acquire(0)
    assert not Conditional.REFUSED.works


# -- keeping -----------------------------------------------------------------------------------


def test_each_renewal_is_a_new_etag(store: ObjectStore, clock: Clock) -> None:
    first = lease(store, clock, "first")
    first.acquire(0)
    etags = {store.head(KEY).etag}
    for _ in range(5):
        first.renew()
        etags.add(store.head(KEY).etag)
    assert len(etags) == 6
    taken_at = record_in(store).acquired_at_us
    first.renew()
    assert record_in(store).acquired_at_us == taken_at
    first.release()


def test_a_fresh_lease_is_checked_without_a_request(clock: Clock) -> None:
    store = CountingStore(MemoryStore())
    first = lease(store, clock, "first")
    first.acquire(0)
    store.reset()
    first.check()
    clock.now += TTL * 2 / 3 - 0.001
    first.check()
    assert store.total == 0
    clock.now += 0.001
    first.check()
    assert store.requests == {"put": 1}
    first.check()
    assert store.total == 1
    first.release()


def test_the_thread_renews_and_ends_with_the_lease() -> None:
    inner = MemoryStore()
    renewed = threading.Semaphore(0)
    inner.on_request = lambda kind, key: renewed.release() if kind == "put" else None
    first = Lease(inner, KEY, ttl_seconds=0.03, policy=RetryPolicy.without_backoff())
    first.acquire(0)
    for _ in range(4):
        assert renewed.acquire(timeout=WAIT_SECONDS)
    thread = first._thread
    assert thread is not None
    first.release()
    assert not thread.is_alive()
    assert not record_in(inner).held
    first.release()


def test_a_foreign_write_is_a_lost_lease(store: ObjectStore, clock: Clock) -> None:
    for foreign in (b"garbage", None):
        first = lease(store, clock, "first")
        first.acquire(1000)
        if foreign is None:
            store.delete(KEY)
        else:
            store.put(KEY, foreign)
        first.check()
        clock.now += TTL
        for _ in range(2):
            with pytest.raises(LockLostError, match="every change is still pending"):
                first.check()
        first.release()
        if foreign is None:
            assert list(store.list(KEY)) == []
        else:
            assert store.head(KEY).size_bytes == len(foreign)


def test_a_lease_that_a_push_found_lost_is_not_released(store: ObjectStore, clock: Clock) -> None:
    first = lease(store, clock, "first")
    first.acquire(0)
    first.mark_lost("the root carries a higher fence")
    with pytest.raises(LockLostError, match="higher fence"):
        first.check()
    first.release()
    assert record_in(store).held


# -- failing requests --------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_lost_request_or_answer_is_settled_by_the_token(clock: Clock, at: int, after: bool) -> None:
    """Writes 1 and 2 take the lease and renew it, 3 gives it back, 4 takes it again."""
    inner = MemoryStore()
    faulty = FaultyStore(inner, [Fault(at, TransientStoreError("cut"), after=after, kind="put")])
    store = RetryingStore(faulty, clock.policy())
    first = lease(store, clock, "first")
    first.acquire(0)
    first.renew()
    first.check()
    assert record_in(inner).held
    first.release()
    assert not record_in(inner).held
    second = lease(store, clock, "second")
    second.acquire(0)
    assert record_in(inner).holder == someone("second")
    second.check()
    second.release()
    assert len(faulty.raised) == 1
    assert not record_in(inner).held


class LateStore(PassingStore):
    """One put is answered by a failure, and takes effect just before the next put."""

    def __init__(self, inner: ObjectStore, at: int) -> None:
        super().__init__(inner)
        self.late: Callable[[], object] | None = None
        self.was_late = False
        self._at = at
        self._puts = 0

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if kind == "put":
            self._puts += 1
            late, self.late = self.late, None
            if late is not None:
                late()
                self.was_late = True
            if self._puts == self._at:
                self.late = send
                raise TransientStoreError("timed out")
        return send()


@pytest.mark.parametrize("at", range(1, 4))
def test_a_write_that_takes_effect_late_is_still_ours(clock: Clock, at: int) -> None:
    inner = MemoryStore()
    late = LateStore(inner, at)
    first = lease(RetryingStore(late, clock.policy()), clock, "first")
    first.acquire(0)
    first.renew()
    first.check()
    first.release()
    assert late.was_late
    assert not record_in(inner).held


@pytest.mark.parametrize("then", ["renewed", "released"])
def test_a_renewal_whose_fate_stayed_unknown_is_no_lost_lease(clock: Clock, then: str) -> None:
    inner = MemoryStore()
    faulty = FaultyStore(inner, [Fault(2, TransientStoreError("cut"), after=True, kind="put")])
    faulty.plan += [Fault(number, TransientStoreError("down"), kind="get") for number in range(2, 8)]
    store = RetryingStore(faulty, clock.policy())
    first = lease(store, clock, "first")
    first.acquire(0)
    with pytest.raises(OfflineError):
        first.renew()
    if then == "renewed":
        first.renew()
        first.check()
        assert record_in(inner).held
    first.release()
    assert not record_in(inner).held


def test_a_lease_that_can_not_be_released_is_told_and_runs_out(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    inner = MemoryStore()
    down = [Fault(number, TransientStoreError("down"), kind="put") for number in range(2, 9)]
    first = lease(RetryingStore(FaultyStore(inner, down), clock.policy()), clock, "first")
    first.acquire(0)
    with caplog.at_level(logging.WARNING, "ebooklet_tx"):
        first.release()
    assert "expires by itself" in caplog.text
    second = lease(inner, clock, "second")
    second.acquire(100)
    assert second.taken_over
    second.release()


def test_a_store_that_is_down_is_offline_and_not_locked(clock: Clock) -> None:
    inner = MemoryStore()
    down = [Fault(number, TransientStoreError("down")) for number in range(1, 100)]
    with pytest.raises(OfflineError):
        lease(RetryingStore(FaultyStore(inner, down), clock.policy()), clock, "first").acquire(10)
    assert inner.objects == {}


# -- processes of this machine -----------------------------------------------------------------


def holder_of(pid: int) -> Holder:
    here = new_holder()
    return Holder("the dead", here.host, here.boot_id, pid)


def test_a_dead_process_of_this_boot_is_recognised_at_once(store: ObjectStore, clock: Clock) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = holder_of(process.pid)
    assert is_dead(dead)
    for elsewhere in (
        Holder(dead.owner, dead.host, "another boot", dead.pid),
        Holder(dead.owner, dead.host, "", dead.pid),
        Holder(dead.owner, dead.host, dead.boot_id, 0),
    ):
        assert not is_dead(elsewhere)
    store.put(KEY, encode_lease(LeaseRecord(True, dead, "t", TTL, 0)))
    first = lease(store, clock, "first")
    first.acquire(0)
    assert first.taken_over
    assert clock.waits == []
    first.release()


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(holder_of(process.pid))
    process.wait()


def test_a_living_process_is_waited_for(store: ObjectStore, clock: Clock) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not is_dead(holder_of(process.pid))
        assert not is_dead(holder_of(os.getpid()))
        store.put(KEY, encode_lease(LeaseRecord(True, holder_of(process.pid), "t", TTL, 0)))
        with pytest.raises(LockTimeoutError, match=f"{re.escape(socket.gethostname())}, process {process.pid}"):
            lease(store, clock, "first").acquire(5)
        clock.events.append((clock.now + 7, process.kill))
        clock.events.append((clock.now + 7, process.wait))
        began = clock.now
        first = lease(store, clock, "first")
        first.acquire(300)
        assert began + 7 <= clock.now <= began + 10
        first.release()
    finally:
        process.kill()
        process.communicate()


def test_a_forked_child_leaves_the_lease_of_its_parent_alone(tmp_path: Path) -> None:
    place = (tmp_path / "remote" / "db").as_uri()
    (tmp_path / "remote").mkdir()
    store = DirectoryStore(tmp_path / "remote")
    with ebooklet_tx.open(place, tmp_path / "a.blt", "c") as db:
        db["a"] = b"1"
        assert db.changes().push()
        etag = store.head(KEY).etag
        pid = fork()
        if pid == 0:
            # Nothing but os._exit may end the child: pytest runs in it as well.
            code = 1
            try:
                lock = db._session.locks.held
                db.close()
                if lock is not None:
                    lock.release()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.head(KEY).etag == etag
        assert record_in(store).held
        db["b"] = b"2"
        assert db.changes().push()
    assert not record_in(store).held
