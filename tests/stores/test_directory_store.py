"""What only a folder has: names, permissions, durability, temporary files, the lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.directory import TEMPORARY_MAX_AGE_SECONDS, DirectoryStore, folders
from ebooklet_tx.stores.directory import store as store_module
from ebooklet_tx.stores.object_store import UploadState

AS_ROOT = os.geteuid() == 0


class Source:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return self.data[offset_bytes : offset_bytes + length_bytes]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a" / "remote"


@pytest.fixture
def store(folder: Path) -> DirectoryStore:
    return DirectoryStore(folder)


def test_a_missing_folder_is_made_by_the_first_write_only(store: DirectoryStore, folder: Path) -> None:
    with pytest.raises(ObjectMissingError):
        store.get("db")
    assert list(store.list("")) == []
    store.delete("db")
    assert store.writable
    assert not folder.parent.exists()
    store.put("db.d/pack/1", b"x")
    assert (folder / "db.d" / "pack" / "1").read_bytes() == b"x"


def test_objects_are_plain_files_and_nothing_temporary_stays(store: DirectoryStore, folder: Path) -> None:
    store.put("db", b"root")
    store.put("db.d/pack/1", b"pack")
    store.put_parts("db.d/pack/2", Source(b"parts"), part_bytes=2)
    store.copy("db", "db.d/snapshot/s")
    assert files(folder) == [".ebooklet_tx.lock", "db", "db.d/pack/1", "db.d/pack/2", "db.d/snapshot/s"]
    assert [found.key for found in store.list("")] == ["db", "db.d/pack/1", "db.d/pack/2", "db.d/snapshot/s"]


def test_a_delete_leaves_no_empty_folder_but_its_own(store: DirectoryStore, folder: Path) -> None:
    store.put("db.d/pack/1", b"x")
    store.put("db.d/index/1", b"x")
    store.delete("db.d/pack/1")
    assert not (folder / "db.d" / "pack").exists()
    assert (folder / "db.d" / "index" / "1").exists()
    store.delete("db.d/index/1")
    assert not (folder / "db.d").exists()
    assert folder.is_dir()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "\ud800",
        ".ebooklet_tx.lock",
        "a/.ebooklet_tx.tmp/x",
        ".ebooklet_tx",
        "n" * 300,
        "a/" + "n" * 256,
        "/".join(["d" * 200] * 30),
    ],
)
def test_a_key_can_not_leave_the_folder(store: DirectoryStore, folder: Path, key: str) -> None:
    store.put("db", b"x")
    before = files(folder.parent.parent)
    for ask in (
        lambda: store.get(key),
        lambda: store.head(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.put(key, b"x"),
        lambda: store.put_parts(key, Source(b"x"), part_bytes=1),
        lambda: store.delete(key),
        lambda: store.copy("db", key),
        lambda: store.copy(key, "db2"),
    ):
        with pytest.raises(InvalidArgumentError):
            ask()
    left = [name for name in files(folder.parent.parent) if ".ebooklet_tx.tmp" not in name]
    assert left == before


def test_an_object_and_one_below_it_exclude_each_other(store: DirectoryStore) -> None:
    store.put("db", b"x")
    with pytest.raises(InvalidArgumentError, match="below"):
        store.put("db/x", b"x")
    store.put("dir/x", b"x")
    with pytest.raises(InvalidArgumentError, match="below"):
        store.put("dir", b"x")
    store.delete("dir")
    store.delete("db/x")
    assert [found.key for found in store.list("")] == ["db", "dir/x"]


def test_the_etag_survives_copying_and_sees_edges_and_size(store: DirectoryStore, folder: Path) -> None:
    data = bytes(300_000)
    etag = store.put("db", data)
    (folder / "copied").write_bytes(data)
    assert store.head("copied").etag == etag
    assert len(etag) == 32
    others = [b"\1" + data[1:], data[:-1] + b"\1", data + b"\0", data[:-1], b""]
    assert len({store.put("db", other) for other in others} | {etag}) == 6


def test_a_foreign_name_that_is_no_text_is_not_listed(store: DirectoryStore, folder: Path) -> None:
    store.put("db", b"x")
    (folder / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    assert [found.key for found in store.list("")] == ["db"]


def test_old_temporary_files_go_at_the_first_write(folder: Path) -> None:
    temporary = folder / ".ebooklet_tx.tmp"
    temporary.mkdir(parents=True)
    now = 1_000_000_000.0
    old, young = "0" * 32, f"{'1' * 32}.part"
    for name, age_seconds in ((old, TEMPORARY_MAX_AGE_SECONDS + 10), (young, TEMPORARY_MAX_AGE_SECONDS - 10)):
        (temporary / name).write_bytes(b"x")
        os.utime(temporary / name, (now - age_seconds, now - age_seconds))
    store = DirectoryStore(folder, clock=lambda: now)
    with pytest.raises(ObjectMissingError):
        store.get("db")
    assert (temporary / old).exists()
    store.put("db", b"x")
    assert files(temporary) == [young]


def test_everything_is_synced_before_a_put_returns(
    store: DirectoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    def rename(name: str, target: Path, *, src_dir_fd: int) -> None:
        synced.append("rename")
        real_rename(name, target, src_dir_fd=src_dir_fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    store.put("db.d/pack/1", b"x")
    before, after = synced[: synced.index("rename")], synced[synced.index("rename") + 1 :]
    assert str(folder.parent) in before
    assert str(folder.parent.parent) in before
    assert ".ebooklet_tx.tmp" in before[-1]
    assert set(after) == {str(folder / "db.d" / "pack"), str(folder / "db.d"), str(folder)}
    synced.clear()
    store.put("db.d/pack/2", b"x")
    assert synced[-1] == str(folder / "db.d" / "pack")
    assert len(synced) == 3


class FailingCalls:
    """Makes a function of a module raise an OSError."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, *_: object, **__: object) -> Any:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_changes_nothing_and_is_named(
    store: DirectoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.put("db", b"first")
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "sync_file", FailingCalls(number))
        says = "'db'.*(failed|disk is full)" if number == errno.EIO else "'db'.*disk is full"
        with pytest.raises(TransientStoreError, match=says) as caught:
            store.put("db", b"second")
        assert not caught.value.may_have_applied
    assert files(folder) == [".ebooklet_tx.lock", "db"]
    assert (folder / "db").read_bytes() == b"first"


def test_a_failed_sync_of_the_folder_may_have_applied(
    store: DirectoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("db", b"first")
    monkeypatch.setattr(folders, "sync_folder", FailingCalls(errno.EIO))
    with pytest.raises(TransientStoreError) as caught:
        store.put("db", b"second")
    assert caught.value.may_have_applied
    assert (folder / "db").read_bytes() == b"second"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_refusing_folder_is_named(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store.put("db", b"first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", FailingCalls(number))
        for ask in (lambda: store.get("db"), lambda: store.put("db", b"x")):
            with pytest.raises(RemoteAccessError, match="permissions"):
                ask()
        assert not store.folder.joinpath("none").exists()


@pytest.mark.skipif(AS_ROOT, reason="the superuser is refused nothing")
def test_real_permissions_are_respected(store: DirectoryStore, folder: Path) -> None:
    store.put("db", b"first")
    folder.chmod(0o500)
    try:
        assert not store.writable
        assert store.get("db") is not None
        with pytest.raises(RemoteAccessError):
            DirectoryStore(folder).put("db2", b"x")
    finally:
        folder.chmod(0o700)


def test_a_file_system_without_folder_sync_is_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(errno.EINVAL, "no")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    DirectoryStore(folder).put("db", b"x")
    assert (folder / "db").read_bytes() == b"x"


def test_a_file_system_without_locks_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", FailingCalls(errno.ENOLCK))
    with pytest.raises(RemoteAccessError, match="locks"):
        DirectoryStore(folder).put("db", b"x")
    assert not (folder / "db").exists()


@contextlib.contextmanager
def held_lock(folder: Path) -> Iterator[None]:
    with (folder / ".ebooklet_tx.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_lock_that_is_never_let_go_is_named(store: DirectoryStore, folder: Path) -> None:
    store.put("db", b"first")
    impatient = DirectoryStore(folder, lock_timeout_seconds=0.0)
    with held_lock(folder):
        for write in (
            lambda: impatient.put("db", b"second"),
            lambda: impatient.put("db", b"second", if_match="x"),
            lambda: impatient.delete("db"),
            lambda: impatient.copy("db", "db2"),
        ):
            with pytest.raises(TransientStoreError, match="lock") as caught:
                write()
            assert not caught.value.may_have_applied
        blob = impatient.get("db")
        assert blob is not None
        assert blob.data == b"first"
    impatient.put("db", b"second")


def test_a_waiting_writer_gets_the_lock_when_it_is_free(store: DirectoryStore, folder: Path) -> None:
    store.put("db", b"first")
    with ThreadPoolExecutor(1) as pool:
        with held_lock(folder):
            writing = pool.submit(store.put, "db", b"second")
            assert not writing.done()
        writing.result(timeout=30)
    assert (folder / "db").read_bytes() == b"second"


def test_deletes_and_puts_in_one_folder_do_not_disturb_each_other(folder: Path) -> None:
    def work(number: int) -> None:
        store = DirectoryStore(folder)
        for _ in range(60):
            store.put(f"db.d/pack/{number}", b"x")
            store.delete(f"db.d/pack/{number}")
        store.put(f"db.d/pack/{number}", b"last")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert [found.key for found in DirectoryStore(folder).list("")] == [
        f"db.d/pack/{number}" for number in range(4)
    ]


def test_a_folder_that_vanishes_before_the_rename_is_made_again(
    store: DirectoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("db", b"x")
    real_rename = os.rename
    vanished: list[Path] = []

    def rename(name: str, target: Path, *, src_dir_fd: int) -> None:
        if not vanished:
            vanished.append(target.parent)
            target.parent.rmdir()
        real_rename(name, target, src_dir_fd=src_dir_fd)

    monkeypatch.setattr(os, "rename", rename)
    store.put("db.d/pack/1", b"x")
    assert vanished == [folder / "db.d" / "pack"]
    assert (folder / "db.d" / "pack" / "1").read_bytes() == b"x"


def _half_an_upload(store: DirectoryStore) -> UploadState:
    states: list[UploadState] = []

    def stop(state: UploadState) -> None:
        states.append(state)
        if len(state.parts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_parts("db", Source(b"0123456789"), part_bytes=4, on_part=stop)
    return states[-1]


@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "other parts", "past the end"])
def test_a_damaged_upload_is_begun_anew_or_repaired(store: DirectoryStore, folder: Path, damage: str) -> None:
    state = _half_an_upload(store)
    (path,) = (folder / ".ebooklet_tx.tmp").iterdir()
    source = Source(b"0123456789")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "changed":
        path.write_bytes(b"X" + path.read_bytes()[1:])
    elif damage == "longer":
        path.write_bytes(path.read_bytes() + b"torn tail of a third part")
    elif damage == "other parts":
        state = UploadState(state.upload_id, state.parts[1:])
    else:
        source = Source(b"01234")
    again: list[UploadState] = []
    store.put_parts("db", source, part_bytes=4, resume=state, on_part=again.append)
    blob = store.get("db")
    assert blob is not None
    assert blob.data == source.data
    assert (again[0].upload_id == state.upload_id) == (damage == "longer")


def test_errors_of_the_source_and_of_the_recorder_are_their_own(store: DirectoryStore) -> None:
    class Broken(Source):
        def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
            raise OSError(errno.EIO, "the local disk")

    def record(_: UploadState) -> None:
        raise OSError(errno.ENOSPC, "the journal's disk")

    with pytest.raises(OSError, match="the local disk"):
        store.put_parts("db", Broken(b"x"), part_bytes=1)
    with pytest.raises(OSError, match="the journal's disk"):
        store.put_parts("db", Source(b"x"), part_bytes=1, on_part=record)


KILLED_WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from ebooklet_tx.stores.directory import DirectoryStore
    store = DirectoryStore(Path(sys.argv[1]))
    print("ready", flush=True)
    while True:
        for number in range(4):
            store.put("db", bytes([number]) * 100_000)
            store.put("db.d/pack/x", b"x")
            store.delete("db.d/pack/x")
    """
)


@pytest.mark.parametrize("after_steps", [1, 5, 17])
def test_a_killed_writer_leaves_whole_objects_and_no_lock(folder: Path, after_steps: int) -> None:
    store = DirectoryStore(folder, lock_timeout_seconds=20.0)
    store.put("db", bytes(100_000))
    checkout = Path(store_module.__file__).parents[3]
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(folder)], stdout=subprocess.PIPE, cwd=checkout
    )
    assert writer.stdout is not None
    with writer.stdout:
        assert writer.stdout.readline() == b"ready\n"
        seen: set[str] = set()
        deadline = time.monotonic() + 60
        changes = 0
        while changes < after_steps and time.monotonic() < deadline:
            etag = store.head("db").etag
            changes += etag not in seen
            seen = {etag}
        writer.kill()
        writer.wait()
    assert changes == after_steps
    blob = store.get("db")
    assert blob is not None
    assert len(blob.data) == 100_000
    assert len(set(blob.data)) == 1
    store.put("db", b"the lock is free")


def test_threads_share_a_store(store: DirectoryStore) -> None:
    start = threading.Barrier(6)

    def work(number: int) -> None:
        start.wait(30)
        for step in range(20):
            store.put(f"db.d/pack/{number}", b"%d" % step)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(list(store.list("db.d/"))) == 6
