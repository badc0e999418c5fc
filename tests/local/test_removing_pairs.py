"""Removing a pair: another session that comes meanwhile waits, or makes a pair that stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ebooklet_tx.errors import LocalStorageError, LockTimeoutError, RemoteAccessError
from ebooklet_tx.local import pair_files
from ebooklet_tx.local.local_store import LocalStore
from tests.pairs import N_BUCKETS, Bench, make, writer_store
from tests.store_wrappers import PassingStore

T = TypeVar("T")


class Refusing(PassingStore):
    """Gives nobody the lock."""

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if kind == "put":
            raise RemoteAccessError("403: this key may read only")
        return send()


class Killed(BaseException):
    """The process is dead."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, {"k": b"value"})
    return bench


def another_session(path: Path) -> str:
    """What becomes of a session that wants to make or use the pair now, and does not wait."""
    try:
        store = LocalStore.open_writer(path, create=True, timeout_seconds=0.0, n_buckets=N_BUCKETS)
    except LockTimeoutError:
        return "waits"
    store.overlay.put("theirs", b"1", 1)
    store.close()
    return "has a pair"


def meanwhile(patch: pytest.MonkeyPatch, path: Path) -> list[str]:
    """Lets another session come before each file that is removed, and before the lock is let go."""
    found: list[str] = []
    remove_own, fsync_folder = pair_files.remove_own, pair_files.fsync_folder

    def remove(one: Path) -> None:
        found.append(another_session(path))
        remove_own(one)

    def fsync(folder: Any) -> None:
        if path.exists():
            found.append(another_session(path))
        fsync_folder(folder)

    patch.setattr(pair_files, "remove_own", remove)
    patch.setattr(pair_files, "fsync_folder", fsync)
    return found


def test_a_session_that_comes_while_a_pair_is_started_anew_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        found = meanwhile(patch, bench.path())
        with bench.open("a", "n") as db:
            db["mine"] = b"2"
    assert set(found) == {"waits"}
    assert len(found) >= 6
    with writer_store(bench.path()) as store:
        assert store.lookup("mine")[1] == b"2"
        assert store.lookup("k")[1] is None


def test_a_session_that_comes_while_a_failed_opening_is_undone_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.path("new")
    with monkeypatch.context() as patch:
        found = meanwhile(patch, path)
        with pytest.raises(RemoteAccessError):
            bench.open("new", "w", lock="exclusive", wrap_store=Refusing)
    assert set(found) <= {"waits"}
    assert not path.exists()
    assert [one.name for one in bench.folder.glob("new*")] == []
    assert another_session(path) == "has a pair"


def test_what_a_killed_removal_leaves_is_no_half_of_a_pair(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pair_files, "remove_own", die)
        with pytest.raises(Killed):
            bench.open("a", "n")
    # As a copy that was never read: what the old journal said is set aside, and the remote's values are there.
    assert bench.contents("a") == {"k": b"value"}
    assert list(bench.folder.glob("a.blt.journal.aside-*"))
    with bench.open("a", "n"):
        pass


def test_without_room_for_a_new_file_the_old_pair_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> Any:
        raise LocalStorageError(28, "no space left")

    with bench.open("a") as db:
        db["own"] = b"pending"
    with monkeypatch.context() as patch:
        patch.setattr(pair_files, "create_file", full)
        with pytest.raises(LocalStorageError, match="no space"):
            bench.open("a", "n")
    assert bench.contents("a") == {"k": b"value", "own": b"pending"}
