"""Threads of an operation: they end with it, soon where it is interrupted, and leave nothing under way."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ebooklet_tx.errors import OfflineError, TransientStoreError
from ebooklet_tx.progress import Progress, Reporter
from ebooklet_tx.stores.deadline import TimedSocket
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.stopping import StoppedError, check_stopped, is_stopped
from ebooklet_tx.stores.workers import STOPPED_SECONDS, Workers

PATIENCE_SECONDS = 30.0


def threads() -> int:
    return sum(thread.name == "request" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threads()
    yield
    deadline = time.monotonic() + PATIENCE_SECONDS
    while threads() > before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.001)
    assert threads() == before


class Begun:
    """Work that tells when it has begun, and then does something."""

    def __init__(self, work: Callable[[], object] = lambda: None) -> None:
        self.event = threading.Event()
        self.ended_by: BaseException | None = None
        self._work = work

    def __call__(self) -> None:
        self.event.set()
        try:
            self._work()
        except BaseException as error:
            self.ended_by = error
            raise

    def wait(self) -> None:
        assert self.event.wait(PATIENCE_SECONDS)


def interrupt(*works: Begun, queued: int = 0) -> tuple[float, list[object]]:
    """Interrupts an operation in the midst of some work; returns for how long it ended, and what was done."""
    done: list[object] = []
    began = 0.0
    try:
        with Workers(len(works)) as workers:
            for work in works:
                workers.submit(work)
            for number in range(queued):
                workers.submit(done.append, number)
            for work in works:
                work.wait()
            began = time.monotonic()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return time.monotonic() - began, done


def test_outcomes_come_in_order_and_threads_are_bounded() -> None:
    most = 0
    at_work: set[int] = set()

    def work(number: int) -> int:
        nonlocal most
        at_work.add(threading.get_ident())
        most = max(most, len(at_work))
        return 2 * number

    with Workers(3) as workers:
        assert list(workers.map(work, range(20))) == list(range(0, 40, 2))
    assert most <= 3


@pytest.mark.parametrize("error", [OfflineError("not there"), ValueError("of the caller's")])
def test_a_failure_drops_what_is_queued_and_waits_for_the_rest(error: Exception) -> None:
    release, done = threading.Event(), []

    def slow() -> None:
        assert release.wait(PATIENCE_SECONDS)
        assert not is_stopped()
        done.append("slow")

    def run() -> None:
        with Workers(1) as workers:
            workers.submit(slow)
            workers.submit(done.append, "queued")
            threading.Timer(0.05, release.set).start()
            raise error

    with pytest.raises(type(error)):
        run()
    assert done == ["slow"]


def test_an_interrupt_ends_a_wait_for_the_network() -> None:
    near, far = socket.socketpair()
    with near, far:
        timed = TimedSocket(near)
        work = Begun(lambda: timed.makefile("rb").read(1))
        seconds, done = interrupt(work, queued=5)
    assert seconds < STOPPED_SECONDS / 2
    assert not done, "what was queued is dropped"


def test_an_interrupt_ends_sending_to_who_takes_nothing() -> None:
    near, far = socket.socketpair()
    with near, far:
        work = Begun(lambda: TimedSocket(near).sendall(bytes(50_000_000)))
        seconds, _ = interrupt(work)
    assert seconds < STOPPED_SECONDS / 2
    assert work.ended_by is not None


def test_an_interrupt_ends_the_wait_before_another_attempt() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise TransientStoreError("503", retry_after_seconds=60)

    policy = RetryPolicy(deadline_seconds=600)
    work = Begun(lambda: policy.call("get", fail))
    seconds, _ = interrupt(work)
    assert seconds < STOPPED_SECONDS / 2
    assert len(calls) <= 1
    assert isinstance(work.ended_by, OfflineError | StoppedError)


def test_what_does_not_end_is_left_to_itself_after_a_second() -> None:
    release = threading.Event()
    stuck = Begun(lambda: release.wait(PATIENCE_SECONDS))
    try:
        seconds, _ = interrupt(stuck)
    finally:
        release.set()
    assert STOPPED_SECONDS * 0.9 < seconds < 2 * STOPPED_SECONDS


def test_a_second_interrupt_waits_for_nothing() -> None:
    release = threading.Event()
    stuck = Begun(lambda: release.wait(PATIENCE_SECONDS))
    began = 0.0

    def operation() -> None:
        with Workers(1) as workers:
            workers.submit(stuck)
            stuck.wait()
            raise KeyboardInterrupt

    class Again(KeyboardInterrupt):
        pass

    def impatient(*_arguments: object, **_options: object) -> None:
        raise Again

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ebooklet_tx.stores.workers.wait", impatient)
            began = time.monotonic()
            with pytest.raises(Again):
                operation()
    finally:
        release.set()
    assert time.monotonic() - began < STOPPED_SECONDS / 2


def test_what_is_told_may_end_requests_as_an_interrupt_does() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        while not is_stopped():
            time.sleep(0.001)
        with pytest.raises(StoppedError):
            check_stopped()
        ended.set()

    def refuse(event: Progress) -> None:
        if begun.is_set():
            raise RuntimeError("enough")

    def operation() -> None:
        with Reporter(refuse).phase("load") as phase, Workers(1, phase) as workers:
            workers.result(workers.submit(work))

    with pytest.raises(RuntimeError, match="enough"):
        operation()
    assert ended.wait(PATIENCE_SECONDS)


def test_threads_end_where_the_operation_was_torn_off() -> None:
    """As by an interrupt between the making of the workers and the end of their context."""
    workers = Workers(4)
    futures = [workers.submit(lambda: None) for _ in range(4)]
    for future in futures:
        future.result()
    del workers, futures
