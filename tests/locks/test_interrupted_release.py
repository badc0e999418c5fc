"""A lock while Ctrl-C is being handled: its release is tried for a second, and then left to expire."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.ending import interrupts
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.locks.tickets import TicketLock
from ebooklet_tx.locks.writer_lock import INTERRUPTED_SECONDS
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.retry import RetryPolicy
from tests.memory_store import MemoryStore
from tests.servers import http_server


class Silent:
    """A server that takes requests, and from some moment on answers none."""

    def __init__(self) -> None:
        self.is_silent = False
        self.asked = 0
        self.released = threading.Event()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        silent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                silent.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if silent.is_silent:
                    silent.released.wait(60)
                    self.close_connection = True
                    return
                status = 404 if self.command == "GET" else 200
                self.send_response(status)
                self.send_header("ETag", '"e"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.released.set()


def held_until_interrupted(lock: Any, silent: Silent | None = None) -> float:
    """Interrupts the holder of a lock; returns how long its release took."""
    began = 0.0
    try:
        with lock.holding(5.0):
            if silent is not None:
                silent.is_silent = True
            began = time.monotonic()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return time.monotonic() - began


def test_a_store_that_does_not_answer_is_not_waited_for(silent: Silent, caplog: pytest.LogCaptureFixture) -> None:
    with http_server(silent.handler()) as url:
        connection = S3Connection("id", "secret", "db", "bucket", url, region="us-east-1")
        store = open_store(connection)
        seconds = held_until_interrupted(Lease(store, "db.lock"), silent)
        silent.released.set()
        store.close()
    # One by the first exit, and one by the second, which would finish an interrupted one.
    assert seconds < 2 * INTERRUPTED_SECONDS + 0.5
    assert silent.asked >= 3
    assert "it expires by itself" in caplog.text


def test_after_a_second_interrupt_nothing_is_waited_for(silent: Silent) -> None:
    with http_server(silent.handler()) as url:
        store = open_store(S3Connection("id", "secret", "db", "bucket", url, region="us-east-1"))
        lock = Lease(store, "db.lock")
        lock.acquire(5.0)
        silent.is_silent = True
        began = time.monotonic()
        try:
            try:
                raise KeyboardInterrupt
            finally:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            lock.release()
        assert time.monotonic() - began < INTERRUPTED_SECONDS / 2
        silent.released.set()
        store.close()


@pytest.mark.parametrize("kind", [Lease, TicketLock])
def test_a_store_that_answers_has_it_back(kind: Any) -> None:
    store = MemoryStore()
    options = {"settle_seconds": 0.0} if kind is TicketLock else {}
    held_until_interrupted(kind(store, "db.lock", policy=RetryPolicy.without_backoff(), **options))
    next_one = kind(store, "db.lock", policy=RetryPolicy.without_backoff(), **options)
    next_one.acquire(0)
    next_one.release()


def test_a_renewal_under_way_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    lock = Lease(MemoryStore(), "db.lock")
    lock.acquire(0)
    real, release = lock._thread, threading.Event()
    lock._stop.set()
    assert real is not None
    real.join()
    lock._thread = threading.Thread(target=release.wait, daemon=True)
    lock._thread.start()
    began = time.monotonic()
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        lock.release()
    assert time.monotonic() - began < INTERRUPTED_SECONDS + 0.5
    assert "just being renewed" in caplog.text
    release.set()
    lock.release()
    assert lock._thread is None


def test_an_interrupt_is_seen_in_all_that_it_unwinds() -> None:
    seen = []

    class Context:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            seen.append(interrupts())

    def unwind() -> None:
        try:
            with Context():
                raise KeyboardInterrupt
        finally:
            seen.append(interrupts())
            try:
                raise ValueError("while it is handled")
            except ValueError:
                seen.append(interrupts())
            raise KeyboardInterrupt

    def unwind_twice() -> None:
        with Context():
            unwind()

    with pytest.raises(KeyboardInterrupt):
        unwind_twice()
    with Context():
        pass
    assert seen == [1, 1, 1, 2, 0]


def test_a_session_left_open_by_an_interrupted_program_is_ended_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "ebooklet_tx")
    with ebooklet_tx.open(f"file://{tmp_path}/remote", tmp_path / "a.blt", "c", "str") as db:
        assert db._last_seconds() == float("inf")
        monkeypatch.setattr("sys.last_value", KeyboardInterrupt(), raising=False)
        assert db._last_seconds() == INTERRUPTED_SECONDS
    assert db._last_seconds() == 0.0
