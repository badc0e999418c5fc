"""Links, pipes and strangers' files in a directory store's folder: not followed, not waited for, not removed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ebooklet_tx.errors import ObjectMissingError, RemoteAccessError
from ebooklet_tx.stores.directory import TEMPORARY_MAX_AGE_SECONDS, DirectoryStore
from ebooklet_tx.stores.object_store import UploadState
from tests.pairs import Bench, make

OLD = 1_000_000_000
NAME = "0123456789abcdef" * 2


class Source:
    """Bytes to upload in parts."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return self.data[offset_bytes : offset_bytes + length_bytes]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "shared").mkdir()
    return DirectoryStore(tmp_path / "shared", clock=lambda: OLD + 2 * TEMPORARY_MAX_AGE_SECONDS)


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A folder of somebody else's, whose files are old, and bear the names of ours even."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    for name in ("thesis.txt", NAME, f"{NAME}.part"):
        (folder / name).write_bytes(b"precious")
        os.utime(folder / name, (OLD, OLD))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put(store: DirectoryStore) -> None:
    store.put("key", b"data")


def put_parts(store: DirectoryStore) -> None:
    store.put_parts("key", Source(b"data" * 10), part_bytes=8)


def go_on(store: DirectoryStore) -> None:
    store.put_parts("key", Source(b"data" * 10), part_bytes=8, resume=UploadState(f"{NAME}.part"))


def copy(store: DirectoryStore) -> None:
    store.copy("there", "key")


@pytest.mark.parametrize("work", [put, put_parts, go_on, copy])
def test_a_link_for_the_temporary_folder_is_not_followed(
    store: DirectoryStore, strangers: Path, work: Callable[[DirectoryStore], None]
) -> None:
    (store.folder / "there").write_bytes(b"readable")
    link = store.folder / ".ebooklet_tx.tmp"
    link.symlink_to(strangers)
    before = contents(strangers)
    with pytest.raises(RemoteAccessError, match=r"\.ebooklet_tx\.tmp is a link"):
        work(store)
    assert contents(strangers) == before
    assert link.is_symlink()
    assert store.get("there") is not None
    link.unlink()
    work(store)
    assert store.head("key").size_bytes > 0


def test_a_file_for_the_temporary_folder(store: DirectoryStore) -> None:
    (store.folder / ".ebooklet_tx.tmp").write_bytes(b"no folder")
    with pytest.raises(RemoteAccessError, match="no folder"):
        put(store)
    assert (store.folder / ".ebooklet_tx.tmp").read_bytes() == b"no folder"


def test_only_old_files_with_our_names_are_removed(store: DirectoryStore, strangers: Path) -> None:
    folder = store.folder / ".ebooklet_tx.tmp"
    folder.mkdir()
    kept = ["notes.txt", NAME[:-1], NAME.upper(), f"{NAME}.part.old", f"x{NAME}", ".part"]
    for name in [*kept, NAME, f"{NAME}.part"]:
        (folder / name).write_bytes(b"old")
        os.utime(folder / name, (OLD, OLD))
    link = folder / NAME.replace("0", "1")
    link.symlink_to(strangers / "thesis.txt")
    os.utime(link, (OLD, OLD), follow_symlinks=False)
    subfolder = folder / NAME.replace("0", "2")
    subfolder.mkdir()
    os.utime(subfolder, (OLD, OLD))
    put(store)
    assert {path.name for path in folder.iterdir()} == {*kept, link.name, subfolder.name}
    assert (strangers / "thesis.txt").read_bytes() == b"precious"


def test_an_upload_is_not_gone_on_with_through_a_link(store: DirectoryStore, strangers: Path) -> None:
    folder = store.folder / ".ebooklet_tx.tmp"
    folder.mkdir()
    (folder / f"{NAME}.part").symlink_to(strangers / "thesis.txt")
    with pytest.raises(RemoteAccessError, match="link"):
        go_on(store)
    assert (strangers / "thesis.txt").read_bytes() == b"precious"


def as_link(path: Path) -> None:
    path.symlink_to(path.with_name("made by the link"))


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("kind", [as_link, as_pipe, as_folder])
def test_a_lock_file_that_is_no_file(store: DirectoryStore, kind: Callable[[Path], None]) -> None:
    kind(store.folder / ".ebooklet_tx.lock")
    with pytest.raises(RemoteAccessError, match=r"\.ebooklet_tx\.lock is a link or no file"):
        put(store)
    assert not (store.folder / "made by the link").exists()
    assert not (store.folder / "key").exists()


def test_an_object_that_is_no_file_is_not_there(store: DirectoryStore) -> None:
    os.mkfifo(store.folder / "key")
    for read in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(ObjectMissingError):
            read("key")
    assert list(store.list("")) == []
    put(store)
    assert store.head("key").size_bytes == 4


def test_an_object_that_is_a_link_gives_way_and_its_file_stays(store: DirectoryStore, strangers: Path) -> None:
    (store.folder / "key").symlink_to(strangers / "thesis.txt")
    put(store)
    assert not (store.folder / "key").is_symlink()
    (store.folder / "other").symlink_to(strangers / "thesis.txt")
    store.delete("other")
    assert (strangers / "thesis.txt").read_bytes() == b"precious"


def test_a_push_tells_which_link_is_in_its_way(tmp_path: Path, strangers: Path) -> None:
    bench = Bench(tmp_path)
    make(bench, {"k": b"1"})
    folder = bench.root.parent / ".ebooklet_tx.tmp"
    assert not list(folder.iterdir())
    folder.rmdir()
    folder.symlink_to(strangers)
    before = contents(strangers)
    with bench.open("a", "w") as db:
        db["k"] = b"2"
        with pytest.raises(RemoteAccessError, match=re.escape(str(folder))):
            db.changes().push()
        folder.unlink()
        assert db.changes().push()
    assert contents(strangers) == before
    assert bench.fresh_contents() == {"k": b"2"}
