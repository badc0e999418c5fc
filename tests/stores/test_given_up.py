"""What a user sees when the retries end: one error with its fields and one cause, without our own frames."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx import HTTPConnection, OfflineError, RetryPolicy, S3Connection
from ebooklet_tx.errors import UnreachableStoreError

POLICY = RetryPolicy.without_backoff(attempts=3)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses every connection: bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def open_s3(port: int, folder: Path, flag: str) -> ebooklet_tx.Database:
    remote = S3Connection("id", "secret", "db", "bucket", f"http://127.0.0.1:{port}")
    return ebooklet_tx.open(remote, folder / "a.blt", flag, retry=POLICY, lock=None, conditional_writes=True)


def pull_over_http(port: int, folder: Path) -> None:
    remote = HTTPConnection(f"http://127.0.0.1:{port}/db")
    with ebooklet_tx.open(remote, folder / "a.blt", "r", retry=POLICY):
        pass


def pull_from_s3(port: int, folder: Path) -> None:
    with open_s3(port, folder, "r"):
        pass


def push_to_s3(port: int, folder: Path) -> None:
    with open_s3(port, folder, "n") as db:
        db["key"] = b"value"
        db.push()


@pytest.mark.parametrize("work", [pull_over_http, pull_from_s3, push_to_s3])
def test_one_error_with_one_cause(work: Callable[[int, Path], None], closed_port: int, tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match=r"was given up after 3 attempts.*Connection refused") as caught:
        work(closed_port, tmp_path)
    error = caught.value
    shown = "".join(traceback.format_exception(error))
    assert shown.count("direct cause") == 1, shown
    assert "During handling" not in shown, shown
    assert isinstance(error.__cause__, UnreachableStoreError)
    assert error.__cause__.__traceback__ is None
    assert "tenacity" not in shown
    assert shown.count("stores/retry.py") <= 2, shown
    assert error.object_name == error.__cause__.object_name == "db"
    assert error.operation is not None
