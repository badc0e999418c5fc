"""A session on a remote alone: its questions, its flags, and what it does to the remote."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.connection import DirectoryConnection, HTTPConnection, S3Connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import (
    InvalidArgumentError,
    LockLostError,
    LockTimeoutError,
    OfflineError,
    ReadOnlyError,
    RemoteIntegrityError,
    RemoteMissingError,
    SessionClosedError,
    TransientStoreError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.remote_session import RemoteSession
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import wrapped_stores
from tests.doors import open_remote
from tests.pairs import Bench, limit_tails
from tests.servers import folder_handler, http_server
from tests.store_wrappers import CountingStore, FaultyStore

KEYS = {f"key {number}": b"%d" % number for number in range(40)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def place(bench: Bench, name: str | None = None) -> DirectoryConnection:
    return DirectoryConnection(bench.folder / "remote", name or bench.name)


def push(bench: Bench, values: dict[str, bytes], metadata: Any = None, **options: Any) -> str:
    with bench.open("a", **options) as db:
        db.update(values)
        if metadata is not None:
            db.set_metadata(metadata)
        db.changes().push()
        return db.uuid


class Counted:
    """A session whose requests are counted."""

    def __init__(self, bench: Bench, flag: str = "r") -> None:
        self.stores: list[CountingStore] = []
        self.session = open_remote(place(bench), flag, wrap_store=self._wrap)

    def _wrap(self, inner: ObjectStore) -> CountingStore:
        self.stores.append(CountingStore(inner))
        return self.stores[-1]

    @property
    def log(self) -> list[tuple[str, str]]:
        return self.stores[0].log


# -- questions -----------------------------------------------------------------------------------


def test_one_request_answers_all(bench: Bench) -> None:
    made = push(bench, {"k": b"1"}, {"about": ["weather", 1]})
    counted = Counted(bench)
    with counted.session as session:
        assert counted.log == []
        assert session.get_uuid() == uuid.UUID(made)
        assert session.get_type() == "EVariableLengthValue"
        assert session.get_timestamp() == decode_root(bench.root.read_bytes(), name="").manifest.committed_at_us
        assert session.get_user_metadata() == {"about": ["weather", 1]}
        assert session.initialized
        assert session
        assert not session.writable
        assert counted.log == [("get", "db")]
    assert not bench.path("b").exists()


def test_there_need_not_be_a_database(bench: Bench) -> None:
    for flag in "rwcn":
        counted = Counted(bench, flag)
        with counted.session as session:
            assert session.get_uuid() is None
            assert session.get_type() is None
            assert session.get_timestamp() is None
            assert session.get_user_metadata() is None
            assert not session.initialized
            assert not session
            assert session.writable == (flag != "r")
        assert counted.log == [("get", "db")]
    assert not bench.root.exists()


def test_the_type_of_a_group(bench: Bench) -> None:
    with bench.open("a", remote_conn_group=True) as db:
        db.changes().push()
    with place(bench).open() as session:
        assert session.get_type() == "RemoteConnGroup"


def test_something_else_is_no_database(bench: Bench) -> None:
    bench.root.parent.mkdir()
    bench.root.write_bytes(b"somebody's notes")
    with place(bench).open() as session, pytest.raises(UnsupportedFormatError):
        session.get_uuid()


# -- metadata, wherever it lies ------------------------------------------------------------------


def in_an_index_object(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts what is pushed into index objects, and nothing but the metadata into the tail."""
    limit_tails(monkeypatch, 0)
    push(bench, {"k": b"1"}, {"version": 1})
    push(bench, {"k": b"2"}, {"version": 2})
    for number in range(3):
        push(bench, {f"{number}": b"1"})


def test_metadata_in_the_tail_comes_before_the_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    in_an_index_object(bench, monkeypatch)
    counted = Counted(bench)
    with counted.session as session:
        assert session.get_user_metadata() == {"version": 2}
    assert counted.log == [("get", "db")]
    monkeypatch.undo()
    push(bench, {}, {"version": 3})
    counted = Counted(bench)
    with counted.session as session:
        assert session.get_user_metadata() == {"version": 3}
    assert counted.log == [("get", "db")]


def test_no_metadata_in_tail_or_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 0)
    push(bench, KEYS)
    monkeypatch.undo()
    push(bench, {"k": b"1"})
    assert bench.objects("index")
    with place(bench).open() as session:
        assert session.get_user_metadata() is None
        assert session.initialized


def test_metadata_in_a_pack(bench: Bench) -> None:
    push(bench, {}, {"long": "x" * 50_000})
    (pack,) = bench.objects("pack")
    with place(bench).open() as session:
        assert session.get_user_metadata() == {"long": "x" * 50_000}
    data = pack.read_bytes()
    pack.write_bytes(data[:-2] + b"!}")
    with place(bench).open() as session, pytest.raises(RemoteIntegrityError, match="damaged"):
        session.get_user_metadata()
    for wreck in (lambda: pack.write_bytes(data[:100]), pack.unlink):
        wreck()
        with place(bench).open() as session, pytest.raises(RemoteIntegrityError, match="names its object"):
            session.get_user_metadata()


def test_metadata_whose_pack_was_collected_since_the_root_was_read(bench: Bench) -> None:
    push(bench, {}, {"long": "x" * 50_000})
    (old,) = bench.objects("pack")
    with place(bench).open() as session:
        first = session.get_timestamp()
        push(bench, {}, {"long": "y" * 50_000})
        old.unlink()
        assert session.get_user_metadata() == {"long": "y" * 50_000}
        assert session.get_timestamp() != first
    with place(bench).open() as session:
        assert session.initialized
        for pack in bench.objects("pack"):
            pack.unlink()
        bench.root.unlink()
        assert session.get_user_metadata() is None
        assert not session.initialized


def test_metadata_whose_index_object_was_collected_since_the_root_was_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tails(monkeypatch, 0)
    push(bench, {"k": b"1"}, {"long": "x" * 2000})
    (old,) = bench.objects("index")
    with place(bench).open() as session:
        first = session.get_timestamp()
        push(bench, {"k": b"2"}, {"long": "y" * 2000})
        old.unlink()
        assert session.get_user_metadata() == {"long": "y" * 2000}
        assert session.get_timestamp() != first
    for part in bench.objects("index"):
        part.unlink()
    with (
        place(bench).open() as session,
        pytest.raises(RemoteIntegrityError, match="part of the index is missing"),
    ):
        session.get_user_metadata()


# -- flags and ends ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "connection",
    [HTTPConnection("http://127.0.0.1:9/db"), S3Connection(db_url="http://127.0.0.1:9/db")],
)
def test_a_public_address_only_reads(connection: HTTPConnection | S3Connection) -> None:
    connection.open().close()
    for flag in "wcn":
        with pytest.raises(ReadOnlyError, match="flag must be r"):
            connection.open(flag)


def test_flags_are_checked(bench: Bench) -> None:
    with pytest.raises(InvalidArgumentError, match="unknown flag 'a'"):
        place(bench).open("a")
    push(bench, KEYS)
    with place(bench).open() as session:
        with pytest.raises(ReadOnlyError, match="flag 'w'"):
            session.delete_remote()
        with pytest.raises(ReadOnlyError, match="flag 'w'"):
            session.break_other_locks()
    assert bench.fresh_contents() == KEYS


def test_a_closed_session_says_so(bench: Bench) -> None:
    session = place(bench).open("w")
    assert "writable" in repr(session)
    assert "read-only" in repr(place(bench).open())
    session.close()
    session.close()
    assert "closed" in repr(session)
    for use in (
        session.get_uuid,
        session.get_type,
        session.get_timestamp,
        session.get_user_metadata,
        session.delete_remote,
        session.break_other_locks,
        session.__enter__,
        session.__bool__,
        lambda: session.writable,
        lambda: session.copy_remote(place(bench, "copy")),
    ):
        with pytest.raises(SessionClosedError, match="open it again"):
            use()


def test_reading_over_http(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    in_an_index_object(bench, monkeypatch)
    push(bench, {"long": b"x" * 50_000}, {"long": "x" * 50_000})
    with http_server(folder_handler(bench.folder / "remote")) as url:
        with HTTPConnection(f"{url}/db").open() as session:
            assert session.get_user_metadata() == {"long": "x" * 50_000}
            assert not session.writable
            report = session.copy_remote(place(bench, "copy"))
            assert report.seq == 6
        with HTTPConnection(f"{url}/nothing").open() as session:
            assert not session.initialized
            with pytest.raises(RemoteMissingError):
                session.copy_remote(place(bench, "other"))
    assert Bench(bench.folder, "copy").contents("c")["long"] == b"x" * 50_000


# -- deeds ---------------------------------------------------------------------------------------


def test_deleting(bench: Bench) -> None:
    push(bench, KEYS, {"about": "weather"})
    with bench.open("a", "w") as db:
        with place(bench).open("w") as session:
            assert session.initialized
            report = session.delete_remote()
            assert (report.existed, report.left_objects) == (True, 0)
            assert not session.initialized
            assert session.get_user_metadata() is None
            assert not session.delete_remote()
        assert [path for path in bench.root.parent.rglob("*") if ".ebooklet_tx" not in str(path)] == []
        db["k"] = b"1"
        with pytest.raises(RemoteMissingError):
            db.changes().push()
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == KEYS | {"k": b"1", "": {"about": "weather"}}


def test_copying(bench: Bench) -> None:
    made = push(bench, KEYS, {"about": "weather"})
    target = Bench(bench.folder, "copy")
    with place(bench).open() as session:
        with pytest.raises(ReadOnlyError, match="bucket or a folder"):
            session.copy_remote("https://example.org/db")
        report = session.copy_remote(target.url)
        assert report
        assert not session.copy_remote(place(target))
        push(bench, {"more": b"1"})
        with pytest.raises(InvalidArgumentError, match="already holds"):
            session.copy_remote(place(target))
    assert target.contents("c") == KEYS | {"": {"about": "weather"}}
    with place(target).open() as session:
        assert session.get_uuid() == uuid.UUID(made)


def test_breaking_locks(bench: Bench) -> None:
    push(bench, KEYS)
    with place(bench).open("w") as session:
        assert session.break_other_locks() == []
        db: Database = bench.open("a", "w", lock="exclusive")
        with db:
            waiting = RemoteSession(place(bench), "w", lock_timeout=0)
            with waiting, pytest.raises(LockTimeoutError):
                waiting.delete_remote()
            (held_by,) = session.break_other_locks()
            assert held_by["pid"] == os.getpid()
            db["k"] = b"1"
            assert db._session.locks.held is not None
            with pytest.raises(LockLostError):
                db._session.locks.held.renew()
            with pytest.raises(LockLostError):
                db.changes().push()
        assert session.break_other_locks() == []


def test_a_copy_tries_again_as_its_session_does(bench: Bench) -> None:
    waits: list[float] = []
    policy = RetryPolicy(attempts=2, sleep=waits.append)
    push(bench, {"a": b"1"})
    target = f"file://{bench.folder / 'remote' / 'copy'}"
    with bench.open("a", "r", retry=policy) as db:
        with (
            wrapped_stores(lambda inner: FaultyStore(inner, error=TransientStoreError("down"))),
            pytest.raises(OfflineError, match="after 2 attempts"),
        ):
            db.copy_remote(target)
        assert waits
        assert db.copy_remote(target).key_count == 1
