"""Names and calls that programs written for ebooklet make, and what they may catch."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import urllib3

import ebooklet_tx
from ebooklet_tx import errors
from ebooklet_tx.connection import DirectoryConnection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, LockLostError
from tests.pairs import Bench, make, root_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def place(bench: Bench) -> DirectoryConnection:
    return DirectoryConnection(bench.root.parent, bench.root.name)


# -- a session on the remote alone ---------------------------------------------------------------


def test_a_remote_tells_what_it_is_by_attributes(bench: Bench) -> None:
    with place(bench).open() as session:
        assert (session.uuid, session.type, session.timestamp) == (None, None, None)
    make(bench, {"k": b"v"})
    with place(bench).open() as session:
        assert isinstance(session.uuid, UUID)
        assert session.uuid == session.get_uuid()
        assert session.type == session.get_type() == "EVariableLengthValue"
        assert session.timestamp == session.get_timestamp()


def as_str(when: datetime) -> str:
    return when.isoformat()


def as_int(when: datetime) -> int:
    return round(when.timestamp() * 1e6)


@pytest.mark.parametrize("given", [lambda when: when, as_str, as_int], ids=["datetime", "str", "int"])
def test_locks_that_were_taken_before_a_time_are_broken(bench: Bench, given: Callable[[datetime], Any]) -> None:
    make(bench, {"k": b"v"})
    now = datetime.now(UTC)
    db: Database = bench.open("a", "w", lock="exclusive")
    with db, place(bench).open("w") as session:
        assert session.break_other_locks(given(now - timedelta(days=1))) == []
        db["k"] = b"w"
        assert db.changes().push()
        broken = session.break_other_locks(timestamp=given(now + timedelta(days=1)))
        assert [set(lock) for lock in broken] == [{"owner", "host", "pid", "timestamp"}]
        (lock,) = broken
        assert isinstance(lock["owner"], str)
        assert isinstance(lock["host"], str)
        assert isinstance(lock["pid"], int)
        assert abs(lock["timestamp"] - now) < timedelta(minutes=1)
        db["k"] = b"x"
        with pytest.raises(LockLostError):
            db.changes().push()
        assert session.break_other_locks() == []


def test_breaking_raises_the_fence(bench: Bench) -> None:
    make(bench, {"k": b"v"})
    before = root_of(bench).manifest.fence
    with bench.open("a", "w", lock="exclusive"), place(bench).open("w") as session:
        assert len(session.break_other_locks()) == 1
    assert root_of(bench).manifest.fence > before


@pytest.mark.parametrize("nonsense", ["yesterday", 1.5, True, b"", datetime(2026, 1, 1), -1])
def test_a_time_that_is_none_breaks_nothing(bench: Bench, nonsense: Any) -> None:
    make(bench, {"k": b"v"})
    with bench.open("a", "w", lock="exclusive") as db, place(bench).open("w") as session:
        with pytest.raises(InvalidArgumentError):
            session.break_other_locks(nonsense)
        db["k"] = b"w"
        assert db.changes().push()


# -- names ---------------------------------------------------------------------------------------


def test_the_module_remote_has_the_connection() -> None:
    from ebooklet_tx import remote

    assert remote.S3Connection is ebooklet_tx.S3Connection
    assert importlib.import_module("ebooklet_tx.remote").S3Connection is ebooklet_tx.S3Connection


@pytest.mark.parametrize("name", ["GroupTooLargeError", "PushInProgressError", "ConcurrentCompactionError"])
def test_errors_of_ebooklet_s_can_be_caught_by_their_names(name: str) -> None:
    assert name in ebooklet_tx.__all__
    assert issubclass(getattr(ebooklet_tx, name), ebooklet_tx.Error)


def test_every_error_is_exported_once() -> None:
    assert len(ebooklet_tx.__all__) == len(set(ebooklet_tx.__all__))
    for name in ebooklet_tx.__all__:
        assert hasattr(ebooklet_tx, name)


REMOTE_ERRORS = [
    "RemoteMissingError",
    "RemoteIntegrityError",
    "RemoteAccessError",
    "OfflineError",
    "ObjectMissingError",
    "PreconditionFailedError",
    "ConditionUnsupportedError",
    "TransientStoreError",
    "NotFoundInRangeError",
]


@pytest.mark.parametrize("name", REMOTE_ERRORS)
def test_what_a_remote_raises_is_an_error_of_urllib3(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, urllib3.exceptions.HTTPError)
    assert issubclass(kind, ebooklet_tx.Error)
    with pytest.raises(urllib3.exceptions.HTTPError, match="why"):
        raise kind("why")


def test_a_program_catches_them_around_its_calls(bench: Bench) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        bench.open("a", "r")
    nobody = ebooklet_tx.S3Connection("id", "key", "db", "bucket", "http://127.0.0.1:9", retries=0)
    with pytest.raises(urllib3.exceptions.HTTPError):
        ebooklet_tx.open(nobody, bench.path())


def test_local_errors_are_none_of_urllib3_s() -> None:
    for name in ("LocalStorageError", "LocalIntegrityError", "InvalidArgumentError", "LockTimeoutError", "Error"):
        assert not issubclass(getattr(errors, name), urllib3.exceptions.HTTPError)


@pytest.mark.parametrize(
    "call",
    [
        lambda bench: ebooklet_tx.open(5, bench.path()),
        lambda bench: ebooklet_tx.open(bench.url, 5),  # type: ignore[arg-type]
        lambda bench: bench.open("a", 5),
        lambda bench: bench.open("a", n_buckets="12"),
        lambda bench: bench.open("a", buffer_size=1.5),
        lambda bench: bench.open("a", lock_timeout="1"),
        lambda bench: bench.open("a", lock=5),
        lambda bench: bench.open("a", offline="no"),
        lambda bench: bench.open("a", value_serializer=5),
        lambda bench: bench.open("a", allow_pickle="no"),
        lambda bench: ebooklet_tx.S3Connection(5, 5, "db", "bucket"),  # type: ignore[arg-type]
        lambda bench: ebooklet_tx.S3Connection("a", "b", "db", 5),  # type: ignore[arg-type]
        lambda bench: ebooklet_tx.S3Connection("a", "b", "db", "bucket", threads="2"),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_are_type_errors_too(bench: Bench, call: Callable[[Bench], Any]) -> None:
    with pytest.raises(TypeError) as caught:
        call(bench)
    assert isinstance(caught.value, ebooklet_tx.Error)
    assert isinstance(caught.value, ValueError)


# -- a database ----------------------------------------------------------------------------------


def test_in_place_update(bench: Bench) -> None:
    with bench.open("a", "c", value_serializer="orjson") as db:
        same = db
        db |= {"a": 1}
        db |= [("b", 2)]
        assert db is same
        assert dict(db) == {"a": 1, "b": 2}
        with pytest.raises(ebooklet_tx.Error):
            db |= {"c": 3, "": 4}
        assert dict(db) == {"a": 1, "b": 2}


@pytest.mark.parametrize("force", [False, True])
def test_force_shutdown_is_taken(bench: Bench, force: bool) -> None:
    db = bench.open("a", "c")
    db["k"] = b"v"
    db.sync(force_shutdown=force)
    db["l"] = b"w"
    db.sync(force)
    db.close(force_shutdown=force)
    db.close(force)
    assert bench.contents("a") == {"k": b"v", "l": b"w"}


def test_a_push_has_no_failures(bench: Bench) -> None:
    with bench.open("a", "c") as db:
        db["k"] = b"v"
        assert db.changes().push().failures == {}


def test_the_package_is_imported_without_boto3() -> None:
    """The base of the remote errors is urllib3's own; nothing of the store comes with it."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import ebooklet_tx, sys; print(*sorted({'boto3', 'botocore'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == ""
