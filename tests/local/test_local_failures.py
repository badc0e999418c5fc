"""The local pair when the disk, another process or the moment is against it: nothing is lost, and it goes on."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import booklet
import pytest

from ebooklet_tx.errors import (
    JournalDamagedError,
    LocalIntegrityError,
    LocalMissingError,
    LocalStorageError,
    LockTimeoutError,
)
from ebooklet_tx.limits import METADATA_KEY_BYTES, RESERVED_KEYS
from ebooklet_tx.local import local_store as store_module
from ebooklet_tx.local import open_by_lock, open_pair, reading
from ebooklet_tx.local.booklet import block_writer, value_file
from ebooklet_tx.local.booklet.file_header import new_header
from ebooklet_tx.local.booklet.layout import GUARD_PREFIX, N_KEYS_OFFSET
from ebooklet_tx.local.booklet.value_file import ValueFile, create_file, new_append_number
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.files.file_calls import write_all
from ebooklet_tx.local.inspection import inspect_pair
from ebooklet_tx.local.journal.entries import entries_where, find_entry
from ebooklet_tx.local.journal.journal import Journal, is_open_here
from ebooklet_tx.local.journal.staged import count_staged
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.local.recovery import journal_path
from ebooklet_tx.records import digest_of
from tests.pairs import Bench, make, many_large
from tests.property.local_faults import Fault, failing_disk

VALUES = {f"k{number:02}": b"value %d" % number for number in range(20)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A pair of 20 values that were never pushed, all in the Booklet file."""
    path = tmp_path / "a.blt"
    store = LocalStore.open_writer(path, create=True)
    put(store, VALUES)
    store.close()
    return path


def put(store: LocalStore, values: dict[str, bytes]) -> None:
    for key, value in values.items():
        store.overlay.put(key, value, 100)


def held(store: LocalStore) -> dict[str, bytes | None]:
    entries = [entry for entry in entries_where(store.journal, "1") if entry.digest is not None]
    return {entry.key: store.read(entry) for entry in entries}


def contents(path: Path) -> dict[str, bytes | None]:
    store = LocalStore.open_writer(path, create=False, timeout_seconds=5.0)
    try:
        return held(store)
    finally:
        store.abandon()


def refuse(*_: Any) -> Any:
    """Stands in for a call of the system on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- a full disk ---------------------------------------------------------------------------------


def test_what_is_staged_stays_in_the_journal_while_the_file_cannot_grow(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "STAGED_LIMIT_KEYS", 2)
    store = LocalStore.open_writer(path, create=False)
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", refuse)
        put(store, {"a": b"1", "b": b"2", "c": b"3"})
        store.commit()
        assert "3 values stay in the journal" in caplog.text
        assert held(store) == VALUES | {"a": b"1", "b": b"2", "c": b"3"}
    put(store, {"d": b"4"})
    store.commit()
    assert count_staged(store.journal) == (0, 0)
    store.close()
    assert contents(path) == VALUES | {"a": b"1", "b": b"2", "c": b"3", "d": b"4"}
    with booklet.open(path) as blt:
        assert len(blt) == len(VALUES) + 4


def test_a_read_succeeds_though_its_copy_cannot_be_kept(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = many_large()
    make(bench, values)
    bench.open("b", "w").close()
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", refuse)
        with bench.open("b", "r") as reader:
            assert dict(reader.items()) == values
    assert "10 fetched values were not kept" in caplog.text
    assert bench.contents("b") == values


def test_an_edit_that_cannot_be_taken_in_waits_for_the_next_opening(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    make(bench, VALUES)
    with booklet.open(bench.path(), "w") as blt:
        blt["k00"] = b"edited"
    fault = Fault(1)
    with failing_disk(fault):
        store = LocalStore.open_reader(bench.path())
    assert fault.raised
    assert "the changes could not be recorded" in caplog.text
    assert held(store) == VALUES
    store.close()
    store = LocalStore.open_reader(bench.path())
    assert held(store) == VALUES | {"k00": b"edited"}
    store.close()


def test_an_opening_that_fails_anywhere_is_made_good_by_the_next(path: Path, tmp_path: Path) -> None:
    """Each write of a recovery fails once: of an append cut short, of a foreign journal, of a waiting rebuild."""
    template = tmp_path / "templates"
    for kind in ("cut short", "foreign", "waiting"):
        shutil.rmtree(template, ignore_errors=True)
        template.mkdir()
        spoil(path, template / "a.blt", kind)
        failed = 0
        for at in range(1, 100):
            folder = tmp_path / "scratch"
            shutil.copytree(template, folder)
            fault = Fault(at)
            with failing_disk(fault):
                try:
                    LocalStore.open_writer(folder / "a.blt", create=False, timeout_seconds=5.0).abandon()
                except LocalStorageError:
                    failed += 1
            assert contents(folder / "a.blt") == VALUES, (kind, at)
            shutil.rmtree(folder)
            if not fault.raised:
                break
        assert failed > 3, kind
        assert not fault.raised, kind


def spoil(path: Path, target: Path, kind: str) -> None:
    """Copies a pair in a state that a killed session, or somebody's hand, leaves behind."""
    shutil.copy(path, target)
    shutil.copy(journal_path(path), journal_path(target))
    if kind == "cut short":
        with target.open("r+b") as raw:
            raw.write(value_file.GUARD_PREFIX + new_append_number())
    elif kind == "foreign":
        other = target.with_name("other.blt")
        LocalStore.open_writer(other, create=True).close()
        shutil.copy(journal_path(other), journal_path(target))
        other.unlink()
        journal_path(other).unlink()
    else:
        store = LocalStore.open_writer(target, create=False)
        with pytest.MonkeyPatch.context() as disk:
            disk.setattr(Path, "replace", refuse)
            with pytest.raises(LocalStorageError, match="the disk is full"):
                store.prune()
        store.abandon()
        assert list(target.parent.glob("a.blt.*rebuil*"))


def test_a_rebuild_that_got_no_name_is_used_and_named_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore.open_writer(path, create=False)
    before = path.stat().st_ino
    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", refuse)
        for _ in range(2):
            with pytest.raises(LocalStorageError, match="the disk is full"):
                store.prune()
        assert path.stat().st_ino == before
        assert held(store) == VALUES
    put(store, {"more": b"1"})
    store.close()
    assert path.stat().st_ino != before
    assert sorted(found.name for found in path.parent.iterdir()) == [path.name, f"{path.name}.journal"]
    assert contents(path) == VALUES | {"more": b"1"}


# -- damage --------------------------------------------------------------------------------------


def test_a_damaged_value_is_told_as_lost_only_where_nobody_else_has_it(bench: Bench) -> None:
    make(bench, {"pushed": b"pushed value", "sound": b"sound value"})
    with bench.open("a", "w") as db:
        db["mine"] = b"only mine"
    store = LocalStore.open_writer(bench.path(), create=False)
    for key in ("pushed", "mine"):
        entry = store.entry(key)
        assert entry is not None
        write_all(store.file.fd, b"#", entry.local_offset_bytes or 0)
    # As if the session had died in an append: everything is read for a rebuild.
    write_all(store.file.fd, value_file.GUARD_PREFIX + new_append_number(), 0)
    store.abandon()
    store = LocalStore.open_writer(bench.path(), create=False)
    assert (store.report.damaged_keys, store.report.lost_keys) == (["pushed"], ["mine"])
    assert any("1 value that was never pushed is" in action for action in store.report.actions)
    # Of a pushed value without a local copy the journal has no entry.
    assert held(store) == {"sound": b"sound value", "mine": None}
    store.abandon()
    with bench.open("a", "w") as db:
        assert db["pushed"] == b"pushed value"
        with pytest.raises(LocalIntegrityError, match="'mine'"):
            db["mine"]


def test_keys_that_booklet_keeps_for_itself_are_no_edit(path: Path) -> None:
    reserved = next(key for key in sorted(RESERVED_KEYS) if key != METADATA_KEY_BYTES)
    with booklet.open(path, "w") as blt:
        blt.set(reserved.decode(), b"booklet's own", encode_value=False)
        blt["k00"] = b"edited"
    assert contents(path) == VALUES | {"k00": b"edited"}


def test_a_damaged_journal_is_told_by_the_lookup_that_meets_it(tmp_path: Path) -> None:
    path = tmp_path / "a.blt"
    store = LocalStore.open_writer(path, create=True)
    put(store, {f"key {number:05} {'x' * 60}": b"1" for number in range(3000)})
    store.close()
    with journal_path(path).open("r+b") as raw:
        # The first pages are those that every opening reads.
        size_bytes = raw.seek(0, os.SEEK_END)
        raw.seek(size_bytes // 4)
        raw.write(b"\xa5" * (size_bytes - size_bytes // 4))
    journal = Journal.open(journal_path(path), create=False)
    with pytest.raises(JournalDamagedError, match="run recover"):
        find_entry(journal, f"key 02999 {'x' * 60}")
    journal.close()


def test_a_journal_whose_maker_died_at_once_is_told_as_empty(path: Path) -> None:
    journal_path(path).unlink()
    raw = sqlite3.connect(journal_path(path))
    raw.execute("PRAGMA journal_mode = WAL")
    raw.close()
    found = inspect_pair(path)
    assert found.journal_detail == "the journal is empty"
    assert contents(path) == VALUES


def test_a_journal_that_is_not_there_is_not_open_here(path: Path) -> None:
    journal = Journal.open(journal_path(path), create=False)
    assert is_open_here(journal_path(path))
    assert not is_open_here(path.with_name("never there"))
    journal.close()
    assert not is_open_here(journal_path(path))


def test_an_append_that_did_not_arrive_whole_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = value_file.write_all

    def torn(fd: int, data: Any, offset: int) -> None:
        real(fd, data, offset)
        if offset == N_KEYS_OFFSET:
            os.ftruncate(fd, os.fstat(fd).st_size - 1)

    def beheaded(fd: int, data: Any, offset: int) -> None:
        real(fd, data, offset)
        os.ftruncate(fd, 100)

    for module, spoilt, words in (
        (block_writer, torn, "did not arrive whole"),
        (value_file, beheaded, "the header is gone"),
    ):
        file = create_file(tmp_path / f"{spoilt.__name__}.blt", new_header(1, 50))
        with monkeypatch.context() as patches:
            patches.setattr(module, "write_all", spoilt)
            with pytest.raises(LocalIntegrityError, match=words):
                file.append(new_append_number(), (), [("a", 5, b"one")])
        file.close()


def test_a_rename_that_left_both_names_is_finished(path: Path) -> None:
    rebuilt = path.with_name("a.blt.rebuild")
    os.link(path, rebuilt)
    with path.open("r+b") as raw:
        raw.write(GUARD_PREFIX + bytes(8))
    assert inspect_pair(path).rebuild == "finished"
    assert contents(path) == VALUES
    assert not rebuilt.exists()


# -- others at the same time ---------------------------------------------------------------------


def test_a_value_that_moves_under_a_reader_is_found_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LocalStore.open_writer(path, create=False)
    put(writer, {"k00": b"staged, in the journal alone"})
    writer.commit()
    reader = LocalStore.open_reader(path)
    real = reading.find_entry
    looks = []

    def find(journal: Journal, key: str) -> Any:
        found = real(journal, key)
        looks.append(key)
        if len(looks) == 1:
            # The look at the entry is done, the look for the bytes is not: they move into the file.
            writer.commit(fold=True)
        return found

    monkeypatch.setattr(reading, "find_entry", find)
    found, value = reader.lookup("k00")
    assert found is not None
    assert value == b"staged, in the journal alone"
    assert len(looks) > 1
    reader.close()
    writer.close()


def test_a_fetched_copy_that_another_session_kept_first_is_not_kept_twice(bench: Bench) -> None:
    make(bench, {"k": b"v" * 50_000})
    bench.open("b", "w").close()
    reader = LocalStore.open_reader(bench.path("b"))
    reader.keep([Fetched("k", 100, digest_of(b"v" * 50_000), b"v" * 50_000)])
    assert bench.contents("b") == {"k": b"v" * 50_000}
    size_bytes = bench.path("b").stat().st_size
    reader.close()
    assert bench.path("b").stat().st_size == size_bytes
    assert bench.contents("b") == {"k": b"v" * 50_000}


@pytest.mark.parametrize("tidy", [True, False])
def test_two_that_make_one_file_end_up_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tidy: bool
) -> None:
    path = tmp_path / "a.blt"
    real = os.link

    def faster(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "link", real)
        with monkeypatch.context() as other_process:
            if not tidy:
                # It has linked its file, and has not come to removing what others left.
                other_process.setattr(open_by_lock, "remove_leftovers", lambda _: None)
            other = LocalStore.open_writer(path, create=True)
        put(other, VALUES)
        other.close()
        os.link(source, target)

    monkeypatch.setattr(os, "link", faster)
    store = LocalStore.open_writer(path, create=True, timeout_seconds=5.0)
    assert held(store) == VALUES
    store.close()
    assert sorted(found.name for found in tmp_path.iterdir()) == [path.name, f"{path.name}.journal"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ENOENT])
def test_a_file_that_can_get_no_name_leaves_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = tmp_path / "a.blt"

    def fail(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as disk:
        disk.setattr(os, "link", fail)
        with pytest.raises(LocalStorageError, match="can't create") as caught:
            LocalStore.open_writer(path, create=True)
    assert caught.value.errno == error
    assert not path.exists()
    LocalStore.open_writer(path, create=True).close()
    assert sorted(found.name for found in tmp_path.iterdir()) == [path.name, f"{path.name}.journal"]


def test_a_file_that_goes_while_it_is_opened_is_told_as_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ValueFile.open

    def gone(of: Path, *, writable: bool) -> ValueFile:
        of.unlink(missing_ok=True)
        return real(of, writable=writable)

    monkeypatch.setattr(ValueFile, "open", gone)
    with pytest.raises(LocalMissingError, match="flag 'c'"):
        LocalStore.open_writer(path, create=False, timeout_seconds=5.0)


def test_a_reader_waits_for_the_lock_as_long_as_it_may(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LocalStore.open_writer(path, create=False)
    put(writer, {"k00": b"later"})
    reader = LocalStore.open_reader(path)
    done: list[str] = []
    assert not reader.try_maintain(lambda: done.append("without the lock"))
    assert done == []
    monkeypatch.setattr(open_pair.time, "sleep", lambda _: writer.close())
    assert reader.try_maintain(lambda: done.append("with the lock"), wait_seconds=60.0)
    assert done == ["with the lock"]
    assert held(reader)["k00"] == b"later"
    # The lock was given back.
    LocalStore.open_writer(path, create=False, timeout_seconds=0.0).close()
    reader.close()


def test_a_file_that_another_session_makes_and_keeps_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.blt"
    real = os.link
    others: list[LocalStore] = []

    def faster(source: Any, target: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "link", real)
        others.append(LocalStore.open_writer(path, create=True))
        os.link(source, target, **options)

    monkeypatch.setattr(os, "link", faster)
    with pytest.raises(LockTimeoutError, match="open for writing"):
        LocalStore.open_writer(path, create=True, timeout_seconds=0.0)
    others[0].close()
    assert contents(path) == {}
    assert sorted(found.name for found in tmp_path.iterdir()) == [path.name, f"{path.name}.journal"]


def test_a_store_that_was_let_go_of_says_so(path: Path) -> None:
    store = LocalStore.open_writer(path, create=False)
    store.close()
    for use in (lambda: store.file, lambda: store.journal, lambda: store.entry("k00"), store.prune):
        with pytest.raises(LocalStorageError, match="is not open; open the database again"):
            use()
