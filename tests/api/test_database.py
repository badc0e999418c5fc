"""Opening: what is refused, how it is told, and that nothing of a failed opening is left behind."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx.connection import DirectoryConnection, HTTPConnection, S3Connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    LocalStorageError,
    LockTimeoutError,
    OfflineError,
    ReadOnlyError,
    RemoteAccessError,
    RemoteIntegrityError,
    RemoteMissingError,
    SessionClosedError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.stores.retry import RetryPolicy
from tests.pairs import Bench, limit_tails


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Custom:
    """A serializer of a user's own."""

    @staticmethod
    def dumps(value: str) -> bytes:
        return value.encode()

    @staticmethod
    def loads(value: bytes) -> str:
        return value.decode()


def descriptors() -> dict[str, str]:
    """The open descriptors of this process, and what they lead to."""
    found = {}
    for path in list(Path("/proc/self/fd").iterdir()):
        try:
            found[path.name] = str(path.readlink())
        except FileNotFoundError:
            # The descriptor of the listing itself.
            continue
    return found


def files(folder: Path) -> dict[str, bytes]:
    # SQLite's shared memory is no data: whoever opens the journal makes it anew.
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


@contextmanager
def nothing_left_behind(folder: Path) -> Iterator[None]:
    """Within the block something fails, and afterwards files and descriptors are as they were."""
    before, opened = files(folder), descriptors()
    yield
    # What an earlier test had left to the collector may have gone meanwhile.
    assert not Counter(descriptors().values()) - Counter(opened.values())
    after = files(folder)
    assert set(after) == set(before)
    assert after == before


def make_remote(bench: Bench, **options: Any) -> None:
    """A remote with one key, and no local copy of it."""
    with bench.open("maker", "c", **options) as db:
        db["k"] = b"v" if "value_serializer" not in options else "v"
        db.changes().push()
    for path in bench.folder.glob("maker*"):
        path.unlink()


# -- arguments -----------------------------------------------------------------------------------

BAD_ARGUMENTS: list[dict[str, Any]] = [
    *({"flag": flag} for flag in ("", "a", "rw", "R", None, 1, b"r", ["r"])),
    *({"value_serializer": given} for given in ("nonsense", 5, 2.5, "orjson ")),
    *({"n_buckets": number} for number in (0, -1, 2**28 + 1, 1.5, True, "12", None)),
    *({"buffer_size": number} for number in (-1, 1.5, True, "12", None)),
    *({"lock_timeout": number} for number in (-1, float("nan"), True, "12", None)),
]


@pytest.mark.parametrize("given", BAD_ARGUMENTS, ids=str)
def test_a_bad_argument(bench: Bench, given: dict[str, Any]) -> None:
    with nothing_left_behind(bench.folder), pytest.raises(InvalidArgumentError) as caught:
        ebooklet_tx.open(bench.url, bench.path(), **({"flag": "c"} | given))
    assert isinstance(caught.value, ValueError)
    (name,) = given
    assert name.split("_")[-1] in str(caught.value)


@pytest.mark.parametrize("path", [None, 5, "", b"/tmp/x.blt", "a\0b", ["x"]])
def test_a_bad_path(bench: Bench, path: Any) -> None:
    with nothing_left_behind(bench.folder), pytest.raises(InvalidArgumentError, match="file_path"):
        ebooklet_tx.open(bench.url, path, "c")


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_one_path_for_the_file_and_the_remote(bench: Bench, flag: str) -> None:
    with nothing_left_behind(bench.folder), pytest.raises(InvalidArgumentError, match="as the local file and as"):
        ebooklet_tx.open(f"file://{bench.path()}", bench.path(), flag)  # type: ignore[call-overload]


BAD_PLACES: list[Any] = [
    None,
    5,
    "",
    "no url",
    "/just/a/path",
    "ftp://host/key",
    "file://relative/db",
    "file:///",
    "file:///folder/",
    "file:///folder/db?x=1",
    "s3://bucket",
    "s3://bucket/",
    "s3:///key",
    "s3://user:hidden@bucket/key",
    "s3://bucket/key?secret_key=hidden",
    "http://",
    "http://user:hidden@host/key",
    "http://[broken/key",
    {},
    {"url": 5},
    {"folder": "/tmp"},
    {"db_key": "k"},
    {"bucket": "b", "db_key": "k", "secret": "hidden"},
    {"remote_conn": "file:///folder/db"},
    {"remote_conn": {"remote_conn": {"url": "file:///folder/db"}}},
]


@pytest.mark.parametrize("place", BAD_PLACES, ids=str)
def test_a_bad_place(bench: Bench, place: Any) -> None:
    with nothing_left_behind(bench.folder), pytest.raises(InvalidArgumentError) as caught:
        ebooklet_tx.open(place, bench.path(), "r")
    assert "hidden" not in str(caught.value)


def test_every_form_of_a_place(bench: Bench) -> None:
    make_remote(bench)
    connection = DirectoryConnection(bench.folder / "remote", "db")
    entry = {"type": "booklet", "timestamp": 1, "user_meta": None, "remote_conn": connection.to_dict()}
    places = [bench.url, {"url": bench.url}, connection, connection.to_dict(), entry]
    for number, place in enumerate(places):
        with ebooklet_tx.open(place, bench.path(str(number)), trust_entries=True) as db:
            assert db["k"] == b"v"


@pytest.mark.parametrize("flag", ["w", "c", "n"])
@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1:9/db",
        "https://127.0.0.1:9/db",
        {"db_url": "http://127.0.0.1:9/db"},
        HTTPConnection("http://127.0.0.1:9/db"),
        S3Connection(db_url="http://127.0.0.1:9/db"),
    ],
    ids=lambda place: type(place).__name__,
)
def test_a_web_server_is_not_written_to(bench: Bench, place: Any, flag: str) -> None:
    with nothing_left_behind(bench.folder), pytest.raises(ReadOnlyError, match="flag must be r"):
        ebooklet_tx.open(place, bench.path(), flag)


def test_a_web_server_that_does_not_answer(bench: Bench) -> None:
    with nothing_left_behind(bench.folder), pytest.raises(OfflineError):
        # Nobody listens on the discard port.
        ebooklet_tx.open("http://127.0.0.1:9/db", bench.path(), retry=RetryPolicy.without_backoff(1))


# -- what is there, and what is not ----------------------------------------------------------------


@pytest.mark.parametrize("flag", ["r", "w"])
@pytest.mark.parametrize("folder", [True, False])
def test_neither_file_nor_remote(bench: Bench, flag: str, folder: bool) -> None:
    if folder:
        (bench.folder / "remote").mkdir()
    with nothing_left_behind(bench.folder), pytest.raises(RemoteMissingError, match="flag 'c'") as caught:
        bench.open(flag=flag)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("flag", ["r", "w"])
def test_the_remote_of_a_copy_is_gone(bench: Bench, flag: str) -> None:
    with bench.open() as db:
        db["k"] = b"v"
        db.changes().push()
    bench.root.unlink()
    with nothing_left_behind(bench.folder), pytest.raises(RemoteMissingError):
        bench.open(flag=flag)


def test_a_file_that_was_never_pushed(bench: Bench) -> None:
    with bench.open() as db:
        db["k"] = b"v"
    for flag in ("w", "c"):
        with bench.open(flag=flag) as db:
            assert db["k"] == b"v"


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_another_database_lies_there(bench: Bench, flag: str) -> None:
    make_remote(bench)
    other = Bench(bench.folder, "other")
    with other.open("mine") as db:
        db["k"] = b"other"
        db.changes().push()
    with nothing_left_behind(bench.folder), pytest.raises(UUIDMismatchError, match="'n'"):
        bench.open("mine", flag)


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_something_else_lies_in_the_remote(bench: Bench, flag: str) -> None:
    bench.root.parent.mkdir()
    bench.root.write_bytes(b"somebody's picture, and not a database at all")
    with nothing_left_behind(bench.folder), pytest.raises((UnsupportedFormatError, RemoteIntegrityError)):
        bench.open(flag=flag)


@pytest.mark.parametrize("flag", ["r", "w", "c"])
@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000])
def test_something_else_lies_at_the_path(bench: Bench, flag: str, content: bytes) -> None:
    make_remote(bench)
    bench.path().write_bytes(content)
    with nothing_left_behind(bench.folder), pytest.raises(UnsupportedFormatError, match=r"a\.blt"):
        bench.open(flag=flag)


def test_a_booklet_of_fixed_lengths(bench: Bench) -> None:
    make_remote(bench)
    with booklet.FixedLengthValue(bench.path(), "n", key_serializer="str", value_len=4) as blt:
        blt["k"] = b"1234"
    with nothing_left_behind(bench.folder), pytest.raises(UnsupportedFormatError, match="fixed-length"):
        bench.open(flag="w")


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_a_folder_lies_at_the_path(bench: Bench, flag: str) -> None:
    make_remote(bench)
    bench.path().mkdir()
    with nothing_left_behind(bench.folder), pytest.raises(Error, match=r"a\.blt"):
        bench.open(flag=flag)
    assert bench.path().is_dir()


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_the_local_folder_is_missing(bench: Bench, flag: str) -> None:
    make_remote(bench)
    path = bench.folder / "none" / "a.blt"
    with nothing_left_behind(bench.folder), pytest.raises(LocalStorageError, match="folder"):
        ebooklet_tx.open(bench.url, path, flag, lock=None)
    assert not path.parent.exists()


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_a_file_lies_in_place_of_the_local_folder(bench: Bench, flag: str) -> None:
    make_remote(bench)
    (bench.folder / "none").write_bytes(b"a file")
    with nothing_left_behind(bench.folder), pytest.raises(LocalStorageError):
        ebooklet_tx.open(bench.url, bench.folder / "none" / "a.blt", flag, lock=None)


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_file_lies_in_place_of_the_remote_folder(bench: Bench, flag: str) -> None:
    (bench.folder / "remote").write_bytes(b"a file")
    with nothing_left_behind(bench.folder), pytest.raises(RemoteMissingError):
        bench.open(flag=flag)


def test_a_push_into_a_file_keeps_everything_pending(bench: Bench) -> None:
    with bench.open() as db:
        db["k"] = b"v"
        (bench.folder / "remote").write_bytes(b"a file")
        with pytest.raises(RemoteAccessError, match="give another folder"):
            db.changes().push()
        assert [change["key"] for change in db.changes().iter_changes()] == ["k"]
    assert (bench.folder / "remote").read_bytes() == b"a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions mean nothing to root")
def test_a_folder_without_permission(bench: Bench) -> None:
    make_remote(bench)
    locked = bench.folder / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(LocalStorageError, match="permission"):
        ebooklet_tx.open(bench.url, locked / "a.blt", "c")


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_an_index_object_is_missing(bench: Bench, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for a key is told; the copy that was begun goes away with an opening that needs all of it."""
    limit_tails(monkeypatch, 1)
    make_remote(bench)
    (there,) = bench.objects("index")
    there.unlink()
    with nothing_left_behind(bench.folder), pytest.raises(RemoteIntegrityError, match="index/"):
        bench.open(flag=flag, index="full")
    with bench.open(flag=flag) as db:
        for ask in (lambda: db["k"], lambda: "k" in db, lambda: list(db)):
            with pytest.raises(RemoteIntegrityError, match="index/"):
                ask()


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_a_serializer_class_has_to_be_given_again(bench: Bench, flag: str) -> None:
    make_remote(bench, value_serializer=Custom)
    for given in (None, "orjson"):
        with nothing_left_behind(bench.folder), pytest.raises(InvalidArgumentError, match="class"):
            bench.open(flag=flag, value_serializer=given)
    with bench.open(flag=flag, value_serializer=Custom) as db:
        assert db["k"] == "v"
    for given in (None, "orjson"):
        with nothing_left_behind(bench.folder), pytest.raises(InvalidArgumentError, match="class"):
            bench.open(flag=flag, value_serializer=given)


def test_the_stored_serializer_may_be_named_or_not(bench: Bench) -> None:
    make_remote(bench, value_serializer="orjson")
    for given in (None, "orjson"):
        with bench.open("a", "w", value_serializer=given) as db:
            assert db["k"] == "v"


@pytest.mark.parametrize("flag", ["w", "c", "n"])
def test_a_locked_file(bench: Bench, flag: str) -> None:
    make_remote(bench)
    with bench.open(flag="w") as db:
        with nothing_left_behind(bench.folder), pytest.raises(LockTimeoutError) as caught:
            bench.open(flag=flag, lock_timeout=0)
        assert isinstance(caught.value, TimeoutError)
        db["k"] = b"unharmed"
    with bench.open(flag="w", lock_timeout=0) as db:
        assert db["k"] == b"unharmed"


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_a_failed_opening_keeps_no_lock(bench: Bench, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing at its very last step, an opening of a good pair lets go of it all the same."""
    make_remote(bench)
    with bench.open(flag="w") as db:
        db["mine"] = b"pending"

    def fail(*_: Any) -> None:
        raise OSError("failed on purpose")

    opened = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr("ebooklet_tx.local.local_store.LocalStore.serializer", fail)
        with pytest.raises(OSError, match="on purpose"):
            bench.open(flag=flag)
    # What an earlier test had left to the collector may have gone meanwhile.
    assert not Counter(descriptors().values()) - Counter(opened.values())
    with bench.open(flag="w" if flag != "n" else "n", lock_timeout=0) as db:
        assert db.writable
        assert ("mine" in db) == (flag != "n")


@pytest.mark.parametrize("number", [1, 2, 12_007])
def test_bucket_numbers_that_work(bench: Bench, number: int) -> None:
    with bench.open(n_buckets=number) as db:
        for key in range(50):
            db[str(key)] = b"v"
    with bench.open() as db:
        assert len(db) == 50
    with booklet.open(bench.path()) as blt:
        assert len(blt) == 50


def test_a_database_leaves_no_descriptor_behind(bench: Bench) -> None:
    make_remote(bench)
    opened = descriptors()
    for flag in ("r", "w", "c", "r", "n"):
        with bench.open(flag=flag) as db:
            db.get("k")
        # What an earlier test had left to the collector may have gone meanwhile.
    assert not Counter(descriptors().values()) - Counter(opened.values())


# -- transactions ----------------------------------------------------------------------------------


def test_a_transaction_is_there_entirely_or_not_at_all(bench: Bench) -> None:
    with bench.open() as db:
        db["before"] = b"1"
        with db.transaction() as inner:
            assert inner is db
            db["a"] = b"1"
            db["b"] = b"2"
            assert db["a"] == b"1"
        with pytest.raises(RuntimeError, match="on purpose"), db.transaction():  # noqa: PT012
            db["c"] = b"3"
            del db["a"]
            db.clear()
            db["d"] = b"4"
            assert dict(db) == {"d": b"4"}
            raise RuntimeError("on purpose")
        assert dict(db) == {"before": b"1", "a": b"1", "b": b"2"}
    assert dict(booklet_contents(bench.path())) == {"before": b"1", "a": b"1", "b": b"2"}


def booklet_contents(path: Path) -> dict[str, bytes]:
    with booklet.open(path) as blt:
        return dict(blt.items())


INSIDE = {
    "transaction": lambda db: db.transaction().__enter__(),
    "sync": lambda db: db.sync(),
    "prune": lambda db: db.prune(),
    "push": lambda db: db.changes().push(),
    "pull": lambda db: db.changes().pull(),
    "discard": lambda db: db.changes().discard(),
    "iter_changes": lambda db: list(db.changes().iter_changes()),
}


@pytest.mark.parametrize("what", INSIDE)
def test_what_can_not_take_place_inside_a_transaction(bench: Bench, what: str) -> None:
    with bench.open() as db:
        with db.transaction():
            db["a"] = b"1"
            with pytest.raises(InvalidArgumentError, match="inside a transaction"):
                INSIDE[what](db)
            db["b"] = b"2"
        assert dict(db) == {"a": b"1", "b": b"2"}
        INSIDE["sync"](db)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_end_but_the_good_one_rolls_back(bench: Bench, error: type[BaseException]) -> None:
    with bench.open() as db:
        with pytest.raises(error), db.transaction():  # noqa: PT012
            db["a"] = b"1"
            raise error
        assert dict(db) == {}
        with db.transaction():
            db["b"] = b"2"
        assert dict(db) == {"b": b"2"}


def test_close_inside_a_transaction_drops_all_of_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    db = bench.open()
    db["before"] = b"1"
    with pytest.raises(SessionClosedError, match="inside a transaction, of which nothing is kept"):  # noqa: PT012, SIM117
        with db.transaction():
            db["a"] = b"1"
            del db["before"]
            db.close()
    assert "2 writes that were not committed are lost" in caplog.text
    assert dict(booklet_contents(bench.path())) == {"before": b"1"}


def test_close_in_another_thread_waits_for_a_transaction_and_keeps_it(bench: Bench) -> None:
    db = bench.open()
    closing = threading.Thread(target=db.close)
    with db.transaction():
        db["a"] = b"1"
        closing.start()
        while not db.closed:
            closing.join(0.001)
    closing.join()
    assert dict(booklet_contents(bench.path())) == {"a": b"1"}


def test_a_transaction_of_a_generator_that_is_left_half_way(bench: Bench) -> None:
    def work(db: ebooklet_tx.Database) -> Iterator[None]:
        with db.transaction():
            db["a"] = b"1"
            yield
            db["b"] = b"2"

    with bench.open() as db:
        steps = work(db)
        next(steps)
    assert dict(booklet_contents(bench.path())) == {}
    with pytest.raises(SessionClosedError):
        next(steps)
    with bench.open(lock="exclusive", lock_timeout=0.0) as db:
        assert dict(db) == {}


def test_a_transaction_larger_than_the_buffer_is_not_committed_early(bench: Bench) -> None:
    with bench.open(buffer_size=10) as db:
        with pytest.raises(RuntimeError), db.transaction():  # noqa: PT012
            for number in range(20):
                db[f"k{number}"] = b"more than ten bytes"
            raise RuntimeError
        assert dict(db) == {}


def test_a_database_is_what_open_returns(bench: Bench) -> None:
    with bench.open() as db:
        assert isinstance(db, Database)
        assert len(db.uuid) == 32
