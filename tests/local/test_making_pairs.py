"""Making a pair while another session makes one under the same name: what the faster one has committed stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ebooklet_tx.errors import LocalStorageError, RemoteAccessError
from ebooklet_tx.local import open_by_lock, pair_files, recovery
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


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, {"k": b"value"})
    return bench


def make_another(path: Path, *, killed: bool) -> None:
    """What another session does that makes the pair, and is killed then or closes it."""
    store = LocalStore.open_writer(path, create=True, n_buckets=N_BUCKETS)
    assert store.created
    store.overlay.put("theirs", b"1", 1)
    store.commit()
    if killed:
        store.abandon()
    else:
        store.close()


def once_before(patch: pytest.MonkeyPatch, module: Any, name: str, work: Callable[[], object]) -> None:
    found, pending = getattr(module, name), [work]

    def call(*arguments: Any, **options: Any) -> Any:
        while pending:
            pending.pop()()
        return found(*arguments, **options)

    patch.setattr(module, name, call)


def once_behind(patch: pytest.MonkeyPatch, module: Any, name: str, work: Callable[[], object]) -> None:
    found, pending = getattr(module, name), [work]

    def call(*arguments: Any, **options: Any) -> Any:
        answer = found(*arguments, **options)
        while pending:
            pending.pop()()
        return answer

    patch.setattr(module, name, call)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("moment", ["once it was seen that there is no pair", "before the file has its name"])
def test_what_a_faster_session_has_committed_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str, killed: bool
) -> None:
    path = bench.path("new")

    def work() -> None:
        make_another(path, killed=killed)

    with monkeypatch.context() as patch:
        if moment.startswith("once"):
            once_behind(patch, open_by_lock, "open_locked", work)
        else:
            once_before(patch, pair_files, "_link_if_free", work)
        store = LocalStore.open_writer(path, create=True, n_buckets=N_BUCKETS)
    assert not store.created
    assert store.lookup("theirs")[1] == b"1"
    store.close()
    assert sorted(one.name for one in bench.folder.glob("new*")) == ["new.blt", "new.blt.journal"]


def test_an_opening_that_fails_removes_no_pair_of_another_session(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.path("new")
    with monkeypatch.context() as patch:
        once_before(patch, pair_files, "_link_if_free", lambda: make_another(path, killed=False))
        with pytest.raises(RemoteAccessError):
            bench.open("new", "c", lock="exclusive", wrap_store=Refusing)
    with writer_store(path) as store:
        assert store.lookup("theirs")[1] == b"1"


def test_a_pair_that_comes_while_one_is_started_anew_gives_way_as_well(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        once_before(patch, pair_files, "_link_if_free", lambda: make_another(bench.path(), killed=True))
        with bench.open("a", "n") as db:
            assert list(db) == []
            db["mine"] = b"2"
    with writer_store(bench.path()) as store:
        assert store.lookup("mine")[1] == b"2"
        assert store.lookup("theirs")[1] is None
    assert sorted(one.name for one in bench.folder.glob("a.blt*")) == ["a.blt", "a.blt.journal"]


@pytest.mark.parametrize("step", ["_link_if_free", "set_aside", "put_in_place"])
@pytest.mark.parametrize("behind", [False, True])
def test_dying_while_a_journal_alone_is_set_aside_takes_nothing_of_it_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, behind: bool
) -> None:
    with bench.open("a", "w") as db:
        db["own"] = b"pending"
    bench.path().unlink()
    module: Any = recovery if step == "set_aside" else pair_files

    def open_and_die() -> None:
        with monkeypatch.context() as patch:
            (once_behind if behind else once_before)(patch, module, step, lambda: os._exit(9))
            bench.open("a", "w")

    assert in_a_child(open_and_die) == 9
    assert bench.contents("a") == {"k": b"value"}
    kept = [one.name for one in bench.folder.glob("a.blt*")]
    assert len([name for name in kept if ".aside-" in name]) == 1
    assert len(kept) == 3


def in_a_child(work: Callable[[], object]) -> int:
    """Runs something in a forked process; returns how that ended."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_journal_alone_stays_where_it_can_not_be_set_aside(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> Any:
        raise LocalStorageError(28, "no space left")

    path = bench.path()
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "set_aside", full)
        with pytest.raises(LocalStorageError, match="no space"):
            bench.open("a", "w")
    assert [one.name for one in bench.folder.glob("a.blt*")] == ["a.blt.journal"]
    assert bench.contents("a") == {"k": b"value"}
