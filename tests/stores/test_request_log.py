"""The log of requests: one line for each attempt, and no credential in any of them."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.connection import HTTPConnection, S3Connection
from ebooklet_tx.errors import Error, LockTimeoutError, TransientStoreError
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.memory import MemoryStore
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from tests.servers import http_server
from tests.store_wrappers import CountingStore, Fault, FaultyStore
from tests.stores.test_s3_errors import Stub, _handler, xml_error

CANARIES = ("AKIA-CANARY", "canary-secret", "canary-token", "canary-signature")


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ebooklet_tx")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ebooklet_tx"]


def test_each_request_has_its_kind_object_bytes_time_and_attempt(caplog: pytest.LogCaptureFixture) -> None:
    now = iter(range(1000))
    store = RetryingStore(MemoryStore(), RetryPolicy(clock=lambda: next(now)))
    store.put("db.d/pack/x", b"12345")
    assert store.get_range("db.d/pack/x", 1, 3) == b"234"
    store.put("db", b"root", if_absent=True)
    assert [line.partition(" in ")[0] for line in lines(caplog)] == [
        "put of 'db.d/pack/x': 5 bytes",
        "get_range of 'db.d/pack/x': 3 bytes",
        "put of 'db': 4 bytes",
    ]
    assert all(line.endswith(" in 1000 ms, attempt 1") for line in lines(caplog))


def test_each_attempt_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    plan = [Fault(number, TransientStoreError("503 slow down"), kind="get") for number in (1, 2)]
    inner = MemoryStore()
    inner.put("db", b"root")
    RetryingStore(FaultyStore(inner, plan), RetryPolicy.without_backoff()).get("db")
    first, second, third = lines(caplog)
    assert first.startswith("get of 'db' failed in ")
    assert first.endswith(", attempt 1: TransientStoreError: 503 slow down")
    assert ", attempt 2: " in second
    assert third.startswith("get of 'db': 4 bytes in ")
    assert third.endswith(", attempt 3")


def test_an_attempt_of_a_write_that_is_sent_once_has_its_number(caplog: pytest.LogCaptureFixture) -> None:
    store = RetryingStore(MemoryStore(), RetryPolicy.without_backoff())
    failures = iter([TransientStoreError("503"), None])
    for attempt in store.policy.attempts_for("commit"):
        with attempt:
            if failure := next(failures):
                raise failure
            store.put("db", b"root", if_absent=True)
    store.put("other", b"root", if_absent=True)
    assert [line.rpartition(" ")[2] for line in lines(caplog)] == ["2", "1"]


@pytest.mark.parametrize("answer", ["refused", "broken", "cut", "fine"])
def test_no_credential_enters_the_log(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the store says: its error repeats the secrets, as some do."""
    # The signature is none of S3's secrets: it is in the public address alone.
    words = " ".join(CANARIES[:3])
    stubs = {
        "refused": Stub(403, xml_error("AccessDenied", words)),
        "broken": Stub(500, xml_error("InternalError", words)),
        "cut": Stub(cut=True),
        "fine": Stub(200, b"value", {"ETag": '"e"'}),
    }
    with http_server(_handler(lambda: stubs[answer])) as url:
        s3 = S3Connection(
            access_key_id="AKIA-CANARY",
            access_key="canary-secret",
            session_token="canary-token",
            db_key="db",
            bucket="bucket",
            endpoint_url=url,
            region="us-east-1",
        )
        signed = "?X-Amz-Signature=canary-signature&X-Amz-Credential=AKIA-CANARY"
        for connection in (s3, HTTPConnection(f"{url}/bucket/db{signed}")):
            store = open_store(connection, policy=RetryPolicy.without_backoff(2))
            for send in (store.get, store.head):
                # What is raised is read by people, as the log is.
                with contextlib.suppress(Error):
                    send("db")
            store.close()
    own = lines(caplog)
    assert any("attempt" in line for line in own)
    for canary in CANARIES:
        assert not [line for line in own if canary in line]


def test_a_session_logs_phases_and_requests(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ebooklet_tx.open(f"file://{tmp_path}/remote", tmp_path / "a.blt", "c", "bytes", n_buckets=17) as db:
        db["a"] = b"x" * 50_000
        db.changes().push()
    levels = {record.getMessage().partition(" ")[0]: record.levelno for record in caplog.records}
    assert levels["send:"] == levels["commit:"] == logging.INFO
    assert levels["put"] == levels["get"] == logging.DEBUG


def test_a_lock_is_waited_for_without_spinning() -> None:
    """A policy without waits between attempts leaves the waits for other writers as they are."""
    store = MemoryStore()
    held = Lease(store, "db.lock")
    held.acquire(0)
    counted = CountingStore(store)
    began = time.monotonic()
    waiting = Lease(counted, "db.lock", policy=RetryPolicy.without_backoff())
    with pytest.raises(LockTimeoutError):
        waiting.acquire(0.2)
    assert time.monotonic() - began >= 0.2
    assert counted.requests["get"] < 20
    held.release()
