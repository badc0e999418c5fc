"""Taking a lock away: by file or by remote, whoever holds it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import (
    Database,
    InvalidArgumentError,
    LocalMissingError,
    LockHeldError,
    LockLostError,
    LockTimeoutError,
    ReadOnlyError,
    S3Connection,
    WeakStoreWarning,
)
from ebooklet_tx.connection import DirectoryConnection
from ebooklet_tx.local.journal.journal import driver
from ebooklet_tx.stores.object_store import ObjectStore
from tests import doors
from tests.places import Place, new_place
from tests.processes import workers
from tests.store_wrappers import CountingStore
from tests.writer_processes import hold, open_at

CHANGES = {"a": 1}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "remote").mkdir()
    return Place(DirectoryConnection(tmp_path / "remote", "db"))


@pytest.fixture
def holding(place: Place, tmp_path: Path) -> Iterator[Database]:
    with open_at(place, tmp_path / "held.blt", "n") as db:
        db["base"] = 1
        db.changes().push()
        yield db


@pytest.mark.usefixtures("holding")
@pytest.mark.parametrize("by", ["file", "connection", "url", "both"])
def test_a_held_lock_is_taken_away_and_its_holder_named(by: str, place: Place, tmp_path: Path) -> None:
    arguments: dict[str, dict[str, Any]] = {
        "file": {"file_path": tmp_path / "held.blt"},
        "connection": {"remote_conn": place.connection},
        "url": {"remote_conn": place.connection.url},
        "both": {"file_path": str(tmp_path / "held.blt"), "remote_conn": place.connection},
    }
    with pytest.raises(LockTimeoutError):
        open_at(place, tmp_path / "next.blt", "w", lock_timeout=0)
    held_by = ebooklet_tx.unlock(**arguments[by], force=True)
    assert held_by is not None
    assert f"{socket.gethostname()}, process {os.getpid()}" in held_by
    assert ebooklet_tx.unlock(**arguments[by]) is None
    open_at(place, tmp_path / "next.blt", "w", lock_timeout=0).close()


def test_the_holder_finds_out_and_keeps_its_changes(holding: Database, place: Place, tmp_path: Path) -> None:
    holding["mine"] = 2
    ebooklet_tx.unlock(tmp_path / "held.blt", force=True)
    with open_at(place, tmp_path / "next.blt", "w", lock_timeout=0) as db:
        db["theirs"] = 3
        db.changes().push()
        with pytest.raises(LockLostError):
            holding.changes().push()
    assert [change["key"] for change in holding.changes().iter_changes()] == ["mine"]
    holding.close()
    with open_at(place, tmp_path / "held.blt", "w") as back:
        back.changes().push()
        assert dict(back.items()) == {"base": 1, "mine": 2, "theirs": 3}


def test_a_free_lock_and_no_lock_are_nobodys(place: Place, tmp_path: Path) -> None:
    assert ebooklet_tx.unlock(remote_conn=place.connection) is None
    with open_at(place, tmp_path / "a.blt", "n") as db:
        db.changes().push()
    assert ebooklet_tx.unlock(remote_conn=place.connection) is None
    assert ebooklet_tx.unlock(tmp_path / "a.blt") is None


def test_nothing_but_the_lock_is_touched(place: Place, tmp_path: Path) -> None:
    with open_at(place, tmp_path / "a.blt", "n") as db:
        db["a"] = "x" * 10_000
        db.changes().push()
    folder = tmp_path / "remote"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    local = (tmp_path / "a.blt").read_bytes()
    with open_at(place, tmp_path / "b.blt", "w"):
        ebooklet_tx.unlock(tmp_path / "a.blt", force=True)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path.name for path in before if after.get(path) != before[path]} <= {"db.lock"}
    assert {path.name for path in after if path not in before} == set()
    assert (tmp_path / "a.blt").read_bytes() == local


def test_the_lock_of_a_killed_writer_is_taken_away(place: Place, tmp_path: Path) -> None:
    with open_at(place, tmp_path / "first.blt", "n") as db:
        db.changes().push()
    with workers() as start:
        worker = start(hold, place, tmp_path / "held.blt", CHANGES, 60.0, False)
        assert worker.receive() == "holding"
        pid = worker.pid
        worker.kill()
    # For all that can be known here it was a process of another machine.
    with pytest.raises(LockHeldError, match=f"process {pid}"):
        ebooklet_tx.unlock(tmp_path / "held.blt")
    held_by = ebooklet_tx.unlock(tmp_path / "held.blt", force=True)
    assert held_by is not None
    assert f"process {pid}" in held_by
    with open_at(place, tmp_path / "held.blt", "w", lock_timeout=0) as db:
        assert db["a"] == 1
        assert db.changes().push()


def test_tickets_are_taken_away_where_conditions_do_not_work(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = new_place("rclone", request, tmp_path)
    with pytest.warns(WeakStoreWarning):
        db = open_at(place, tmp_path / "held.blt", "n")
    with db:
        db["a"] = 1
        db.changes().push()
        requests: list[CountingStore] = []

        def wrap(store: ObjectStore) -> ObjectStore:
            requests.append(CountingStore(store))
            return requests[0]

        with pytest.raises(LockHeldError, match=f"process {os.getpid()}"):
            doors.unlock(tmp_path / "held.blt", place.connection, wrap_store=wrap)
        held_by = doors.unlock(tmp_path / "held.blt", place.connection, force=True, wrap_store=wrap)
        assert held_by == "1 tickets"
        # What the journal knows of the store is not tried again.
        assert requests[0].requests["put"] == 0
        db["a"] = 2
        with pytest.raises(LockLostError):
            db.changes().push()


def test_which_database_must_be_said(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="file_path or a remote_conn"):
        ebooklet_tx.unlock()
    with pytest.raises(LocalMissingError, match=r"missing\.blt\.journal"):
        ebooklet_tx.unlock(tmp_path / "missing.blt")
    assert list(tmp_path.glob("missing*")) == []


def test_a_file_that_names_no_remote_needs_one(place: Place, tmp_path: Path) -> None:
    with open_at(place, tmp_path / "a.blt", "n") as db, db._session.journal.transaction() as connection:
        driver(connection).execute("DELETE FROM meta WHERE name = 'connection'")
    with pytest.raises(InvalidArgumentError, match="names no remote"):
        ebooklet_tx.unlock(tmp_path / "a.blt")
    assert ebooklet_tx.unlock(tmp_path / "a.blt", place.connection) is None


@pytest.mark.parametrize(
    "remote_conn", ["https://example.invalid/db", S3Connection(db_url="https://example.invalid/db")]
)
def test_what_can_only_be_read_has_no_lock(remote_conn: Any) -> None:
    with pytest.raises(ReadOnlyError, match="can only be read"):
        ebooklet_tx.unlock(remote_conn=remote_conn)


def test_a_lock_that_is_no_lock_of_ours_is_removed(holding: Database, place: Place, tmp_path: Path) -> None:
    holding.close()
    (tmp_path / "remote" / "db.lock").write_bytes(json.dumps({"who": "knows"}).encode())
    assert ebooklet_tx.unlock(remote_conn=place.connection) == "an unknown writer"
    open_at(place, tmp_path / "next.blt", "w", lock_timeout=0).close()
