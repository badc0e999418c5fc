"""Requests end by their deadline, whatever the other side does; a store that is restarted is waited for."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.connection import HTTPConnection, S3Connection
from ebooklet_tx.errors import OfflineError, OfflineWarning, TransientStoreError, UnreachableStoreError
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.stores.deadline import (
    SLOWEST_BYTES_PER_SECOND,
    Deadline,
    TimedSocket,
    deadline_at,
    deadline_in,
    patience,
)
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.request import Request
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from tests.memory_store import MemoryStore
from tests.pairs import Bench, make
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, free_port
from tests.store_wrappers import PassingStore

Listener = Callable[[str], str]
SOON_SECONDS = 5.0
"""By when what takes half a second has to be over on a busy machine; without a deadline it never is."""


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def policy(self, **changes: Any) -> RetryPolicy:
        return replace(RetryPolicy(clock=self.clock, sleep=self.sleep), **changes)


# -- a server that sends a byte now and then -------------------------------------------------------


@pytest.fixture
def dripping() -> Iterator[Listener]:
    """Starts servers that answer with a byte now and then, for ever: in the headers, or in the body."""
    stop = threading.Event()
    with contextlib.ExitStack() as stack:

        def start(phase: str) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threads: list[threading.Thread] = []

            def serve(connection: socket.socket) -> None:
                with connection, contextlib.suppress(OSError):
                    connection.recv(65_536)
                    connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "e"\r\n')
                    connection.sendall(b"X-Slow: " if phase == "headers" else b"Content-Length: 200000\r\n\r\n")
                    while not stop.wait(0.02):
                        connection.sendall(b"x")

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        threads.append(threading.Thread(target=serve, args=(connection,)))
                        threads[-1].start()

            def finish() -> None:
                stop.set()
                listener.shutdown(socket.SHUT_RDWR)
                acceptor.join()
                for thread in threads:
                    thread.join()

            acceptor = threading.Thread(target=accept)
            acceptor.start()
            stack.callback(finish)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start


def place(kind: str, endpoint: str, **options: Any) -> HTTPConnection | S3Connection:
    if kind == "http":
        return HTTPConnection(f"{endpoint}/db")
    return S3Connection(ACCESS_KEY_ID, ACCESS_KEY, "db", "bucket", endpoint, **options)


@pytest.mark.parametrize("phase", ["headers", "body"])
@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_server_that_sends_a_byte_now_and_then_holds_nobody_up(
    dripping: Listener, tmp_path: Path, kind: str, phase: str
) -> None:
    began = time.monotonic()
    with pytest.raises(OfflineError):
        ebooklet_tx.open(
            place(kind, dripping(phase)), tmp_path / "a.blt", "r", retry=RetryPolicy(deadline_seconds=0.4)
        )
    assert time.monotonic() - began < SOON_SECONDS


def test_one_request_lasts_no_longer_than_the_read_timeout(dripping: Listener, tmp_path: Path) -> None:
    connection = place("s3", dripping("body"), read_timeout=0.2)
    began = time.monotonic()
    with pytest.raises(OfflineError, match="after 2 attempts"):
        ebooklet_tx.open(connection, tmp_path / "a.blt", "r", retry=RetryPolicy.without_backoff(2))
    assert time.monotonic() - began < SOON_SECONDS


def test_a_deadline_is_put_off_by_what_travels_and_by_nothing_else() -> None:
    clock = Time()
    deadline = Deadline(clock.clock, clock.now + 60)
    assert deadline.remaining_seconds() == 60
    deadline.moved(1)
    assert deadline.remaining_seconds() < 60.001
    deadline.moved(int(100 * SLOWEST_BYTES_PER_SECOND) - 1)
    assert deadline.remaining_seconds() == 160
    clock.now += 161
    assert deadline.remaining_seconds() == -1


def test_a_request_has_what_is_left_of_its_retries_time() -> None:
    clock = Time()
    with deadline_at(clock.clock, clock.now + 10), socket.socket() as plain:
        timed = TimedSocket(plain)
        timed.settimeout(60)
        with deadline_in(60), timed.waiting():
            assert plain.gettimeout() == 10
        with deadline_in(4):
            with timed.waiting():
                assert plain.gettimeout() == 4
            clock.now += 4
            with pytest.raises(TimeoutError, match="deadline"), timed.waiting():
                pass
    with timed.waiting() as nothing:
        assert nothing is None


def test_what_s3_works_on_for_minutes_has_them() -> None:
    clock = Time()
    store = S3Store(S3_PLACE)
    with contextlib.closing(store), deadline_at(clock.clock, clock.now + 120), socket.socket() as plain:
        timed = TimedSocket(plain)
        timed.settimeout(10_000)
        for operation, seconds in (("copy", 900), ("put_parts", 900), ("get", 60), ("put", 60)):
            with store._sender._deadline(Request(operation, "here", "k")), timed.waiting():
                assert plain.gettimeout() == seconds


def test_what_nobody_takes_is_sent_no_longer_than_the_deadline() -> None:
    near, far = socket.socketpair()
    with near, far:
        # What the system takes in at once counts as sent.
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        timed = TimedSocket(near)
        timed.settimeout(60)
        with deadline_in(0.2), pytest.raises(TimeoutError):
            timed.sendall(bytes(64 * 2**20))
        far.setblocking(False)
        while True:
            try:
                far.recv(2**20)
            except BlockingIOError:
                break
        with deadline_in(10):
            timed.sendall(b"arrives")
        assert far.recv(100) == b"arrives"


# -- retries ---------------------------------------------------------------------------------------


class Restarting(PassingStore):
    """A store that answers nothing until a time."""

    def __init__(self, clock: Time, until: float) -> None:
        super().__init__(MemoryStore())
        self.inner.put("k", b"v")
        self._clock = clock
        self._until = until
        self.asked = 0

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        self.asked += 1
        if self._clock.now < self._until:
            raise UnreachableStoreError("refused", may_have_applied=False)
        return send()


S3_PLACE = S3Connection("a", "b", "db", "bkt", "http://127.0.0.1:9")


@pytest.mark.parametrize("seed", range(20))
def test_a_store_that_restarts_for_twenty_seconds_is_waited_for(seed: int) -> None:
    for connection in (S3_PLACE, HTTPConnection("http://127.0.0.1:9/db")):
        clock = Time()
        policy = replace(
            open_store(connection).policy,
            clock=clock.clock,
            sleep=clock.sleep,
            random=random.Random(seed).random,
        )
        store = RetryingStore(Restarting(clock, clock.now + 20), policy)
        blob = store.get("k")
        assert blob is not None
        assert blob.data == b"v"


@pytest.mark.parametrize("seed", range(20))
def test_a_store_that_stays_away_is_given_up_by_the_deadline(seed: int) -> None:
    clock = Time()
    store = Restarting(clock, float("inf"))
    with pytest.raises(OfflineError):
        RetryingStore(store, clock.policy(random=random.Random(seed).random)).get("k")
    assert 100 < clock.now - 1000 <= 120
    assert store.asked < 100


def test_retries_that_were_given_are_a_cap() -> None:
    assert S3_PLACE.retries is None
    for given in (0, 3, 7):
        clock = Time()
        store = Restarting(clock, float("inf"))
        policy = open_store(replace(S3_PLACE, retries=given)).policy
        with pytest.raises(OfflineError, match=f"after {given + 1} attempts"):
            RetryingStore(store, replace(policy, clock=clock.clock, sleep=clock.sleep)).get("k")
    assert S3Connection("a", "b", "db", "bkt", "http://x.org", None, 20, 60, 3).retries == 3


def test_a_conditional_write_is_tried_by_the_deadline_too() -> None:
    clock = Time()
    calls = 0
    for attempt in clock.policy(random=random.Random(1).random).attempts_for("lock"):
        with attempt:
            calls += 1
            if clock.now < 1020:
                raise TransientStoreError("503")
    assert calls > 3


# -- offline="auto" --------------------------------------------------------------------------------


def no_such_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


def no_route(*_: Any, **__: Any) -> Any:
    raise OSError(113, "no route to host")


@pytest.mark.parametrize("why", ["refused", "no such name", "no route"])
@pytest.mark.parametrize("kind", ["http", "s3"])
def test_who_would_rather_be_offline_waits_five_seconds_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, why: str
) -> None:
    bench = Bench(tmp_path)
    make(bench, {"k": b"v"})
    nobody = place(kind, f"http://127.0.0.1:{free_port()}")
    if why == "no such name":
        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    if why == "no route":
        monkeypatch.setattr(socket.socket, "connect", no_route)
    clock = Time()
    with (
        pytest.warns(OfflineWarning),
        ebooklet_tx.open(nobody, bench.path("a"), "r", offline="auto", retry=clock.policy()) as db,
    ):
        assert db["k"] == b"v"
    assert clock.now - 1000 <= 5
    clock = Time()
    with pytest.raises(OfflineError):
        ebooklet_tx.open(nobody, bench.path("a"), "r", retry=clock.policy())
    assert clock.now - 1000 > 60


def test_a_store_that_answers_with_failures_is_waited_for_by_those_as_well() -> None:
    clock = Time()
    with pytest.raises(OfflineError), patience(unreachable_seconds=5):
        clock.policy().call("get", lambda: (_ for _ in ()).throw(TransientStoreError("503")))
    assert clock.now - 1000 > 60


def test_nobody_waits_long_to_give_a_lock_back() -> None:
    clock = Time()
    store = Restarting(clock, 0)
    policy = clock.policy()
    lease = Lease(RetryingStore(store, policy), "db.lock", policy=policy)
    lease.acquire(0)
    store._until = float("inf")
    lease.release()
    assert clock.now - 1000 <= 15
