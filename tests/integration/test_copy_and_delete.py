"""Copying and deleting whole databases in S3 stores over HTTP, and dying at each request of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.connection import Connection, DirectoryConnection, S3Connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, LockLostError, RemoteMissingError, UnsupportedFormatError
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.maintenance import copy
from ebooklet_tx.maintenance.copy import copy_remote
from ebooklet_tx.remote_session import RemoteSession
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.s3.sender import Sender
from ebooklet_tx.sync.commit import packing, push
from ebooklet_tx.sync.connecting import remote_at
from tests.campaigns import amounts
from tests.pairs import N_BUCKETS, limit_tails
from tests.places import new_place
from tests.remotes import Killed, values_of

pytestmark = pytest.mark.filterwarnings("ignore::ebooklet_tx.errors.WeakStoreWarning")

KINDS = ("ministack", "rclone")
POLICY = RetryPolicy.without_backoff()
PACKED = values_of(12, 4000)
SMALL = {f"small{number}": b"%d" % number for number in range(5)}
ALL: dict[str, Any] = PACKED | SMALL | {"": {"about": "weather"}}


class Bucket:
    """One bucket of a server; databases are told apart by their keys."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        assert isinstance(connection, S3Connection)
        self._connection = replace(connection, threads=4)
        self._folder = folder
        self._copies = 0
        self._store = open_store(self.at("any"), policy=POLICY)

    def close(self) -> None:
        self._store.close()

    def at(self, key: str, **changes: Any) -> S3Connection:
        return replace(self._connection, db_key=key, **changes)

    def open(self, place: Connection, flag: str = "c", copy: str | None = None) -> Database:
        if copy is None:
            self._copies += 1
            copy = f"{id(self)}-{self._copies}"
        path = self._folder / f"{copy}.blt"
        return ebooklet_tx.open(place, path, flag, n_buckets=N_BUCKETS, lock=None, retry=POLICY)

    def make(self, place: Connection, copy: str | None = None) -> None:
        """Makes a database of several packs, an index object and a tail."""
        with self.open(place, "c", copy) as db:
            for part in (values_of(12, 3000, seed=9), PACKED, SMALL):
                db.update(part)
                db.changes().push()
            db.set_metadata({"about": "weather"})
            db.changes().push()

    def contents(self, place: Connection) -> dict[str, Any]:
        with self.open(place, "r") as db:
            found = dict(db.items())
            metadata = db.get_metadata()
        return found if metadata is None else found | {"": metadata}

    def session(self, key: str, flag: str = "w") -> RemoteSession:
        return RemoteSession(self.at(key), flag, retry=POLICY)

    def objects(self, prefix: str = "") -> dict[str, str]:
        """Every object's ETag, by name."""
        return {found.key: found.etag for found in self._store.list(prefix)}

    def own(self, key: str) -> set[str]:
        """What lies at a database's name, without locks."""
        names = ObjectNames(key)
        return {name for name in self.objects(key) if name == key or name.startswith(names.prefix)}

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data)


@pytest.fixture(autouse=True)
def _many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 1500)
    monkeypatch.setattr(push, "INLINE_TOTAL_BYTES", 2000)
    monkeypatch.setattr(packing, "PACK_BYTES", 10_000)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_bucket(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Bucket]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(
            closing(Bucket(new_place(kind, request, tmp_path).connection, tmp_path))
        )


@pytest.fixture
def bucket(new_bucket: Callable[[], Bucket]) -> Bucket:
    return new_bucket()


# -- requests ------------------------------------------------------------------------------------


class Watch:
    """Every HTTP request of every S3 store: counted, and one of them the last.

    Attributes:
        log: Operation, bucket's place and key of each request, in order.
    """

    def __init__(self, at: int = 0, *, after: bool = False) -> None:
        self.log: list[tuple[str, str, str]] = []
        self._at = at
        self._after = after
        self._dead = False
        self._mutex = threading.Lock()

    def send(self, original: Callable[..., Any], sender: Sender, request: Any, call: Any) -> Any:
        with self._mutex:
            if self._dead and threading.current_thread().name.startswith("ebooklet_tx "):
                raise LockLostError("its process is dead")
            if self._dead:
                raise Killed
            self.log.append((request.operation, request.location, request.key))
            last = len(self.log) == self._at
            self._dead = last
        if last and not self._after:
            raise Killed
        answer = original(sender, request, call)
        if last:
            raise Killed
        return answer


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> Iterator[Watch]:
    original = Sender.send
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "send", lambda sender, request, call: watch.send(original, sender, request, call))
        yield watch


# -- copying -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["ab", "a/b", "bbb"])
def test_a_copy_in_one_store_is_made_by_the_store(
    bucket: Bucket, new_bucket: Callable[[], Bucket], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    source, target = bucket.at(key), new_bucket().at("b/ab")
    bucket.make(source, "a")
    for place in (bucket.at("other"), target):
        with watched(monkeypatch, Watch()) as watch, source.open() as session:
            report = session.copy_remote(place)
        reads = [key for operation, _, key in watch.log if operation.startswith("get") and "/pack/" in key]
        assert reads == []
        assert [operation for operation, _, _ in watch.log].count("copy") == report.copied_objects - 1
        assert bucket.contents(place) == ALL
    names = {name.removeprefix("other") for name in bucket.own("other")}
    assert names < {name.removeprefix(key) for name in bucket.own(key)}


def test_a_copy_goes_through_here_between_accounts_and_kinds(
    bucket: Bucket, new_bucket: Callable[[], Bucket], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "WHOLE_BYTES", 6_000_000)
    large = values_of(1, 7_000_000)["k000"]
    elsewhere = new_bucket()
    # rclone knows one account; the same one under another address is not taken for the same.
    endpoint = str(elsewhere.at("x").endpoint_url)
    changes = (
        {"access_key_id": "other", "access_key": "other-secret"}
        if kind == "ministack"
        else {"endpoint_url": endpoint.replace("127.0.0.1", "localhost")}
    )
    places: list[Connection] = [
        bucket.at("db"),
        DirectoryConnection(tmp_path / "folder", "first"),
        DirectoryConnection(tmp_path / "folder", "second"),
        elsewhere.at("from folder", **changes),
        bucket.at("from elsewhere"),
    ]
    bucket.make(places[0], "a")
    with bucket.open(places[0], "w", "a") as db:
        db["large"] = large
        db.changes().push()
    for source, target in itertools.pairwise(places):
        with watched(monkeypatch, Watch()) as watch, source.open() as session:
            assert session.copy_remote(target).seq == 5
        assert "copy" not in [operation for operation, _, _ in watch.log]
    for place in places:
        with bucket.open(place, "c") as db:
            assert {**dict(db.items()), "": db.get_metadata()} == ALL | {"large": large}
            db["from"] = str(place).encode()
            assert db.changes().push().seq == 6
    for place in places:
        assert bucket.contents(place)["from"] == str(place).encode()


def test_a_database_copies_itself(bucket: Bucket) -> None:
    place = bucket.at("db")
    bucket.make(place, "a")
    with bucket.open(place, "w", "a") as db:
        db["pending"] = b"stays here"
        assert db.copy_remote(bucket.at("copy")).seq == 4
        with pytest.raises(InvalidArgumentError, match="onto itself"):
            db.copy_remote(place)
    with bucket.open(place, "w", "a") as db:
        db.changes().push()
        with pytest.raises(InvalidArgumentError, match="already holds an earlier or later state"):
            db.copy_remote(bucket.at("copy"))
    assert bucket.contents(bucket.at("copy")) == ALL


# -- deleting ------------------------------------------------------------------------------------


def test_neighbours_and_strangers_are_left_alone(bucket: Bucket, kind: str) -> None:
    # rclone keeps objects as files, so that nothing can lie below another object.
    neighbours = ["mydb2", "my", "mydb.d3", *(["mydb/x"] if kind == "ministack" else [])]
    strangers = [
        "mydb.lock2",
        "mydb.d/notes.txt",
        "mydb.d/pack/notes",
        "mydb.d/pack/" + "A" * 32,
        "mydb.d/index/" + "0" * 31,
        "mydb.d2/pack/" + "0" * 32,
        "mydb.dat",
    ]
    for key in ("mydb", *neighbours):
        bucket.make(bucket.at(key))
    for key in strangers:
        bucket.put(key, b"a stranger's")
    before = bucket.objects()
    own = {name for name in bucket.own("mydb") if name not in strangers}
    assert len(own) > 6
    with bucket.session("mydb") as session:
        report = session.delete_remote()
        assert (report.existed, report.deleted_objects) == (True, len(own) + 1)
        assert not session.delete_remote()
    assert bucket.objects() == {key: etag for key, etag in before.items() if key not in own}
    for key in neighbours:
        assert bucket.contents(bucket.at(key)) == ALL
    with pytest.raises(RemoteMissingError):
        bucket.contents(bucket.at("mydb"))


def test_the_local_file_is_what_the_next_push_brings(bucket: Bucket) -> None:
    place = bucket.at("mydb")
    bucket.make(place, "a")
    with ebooklet_tx.open(place, bucket._folder / "a.blt", "w", retry=POLICY) as db:
        db["more"] = b"1"
        report = db.delete_remote()
        assert (report.pending_keys, report.lost_keys) == (len(ALL), 0)
        assert bucket.own("mydb") == set()
        assert db.changes().push().seq == 1
    assert bucket.contents(place) == ALL | {"more": b"1"}


def test_a_foreign_object_is_refused(bucket: Bucket) -> None:
    bucket.put("mydb", b"ebooklet-db\x00 and more")
    before = bucket.objects()
    with bucket.session("mydb") as session, pytest.raises(UnsupportedFormatError):
        session.delete_remote()
    assert bucket.objects().items() >= before.items()


# -- deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        ("ministack", False),
        ("rclone", True),
        pytest.param("ministack", True, marks=pytest.mark.slow),
        pytest.param("rclone", False, marks=pytest.mark.slow),
    ],
    indirect=["kind"],
)
@pytest.mark.parametrize("step", amounts(6, 1))
def test_a_death_at_any_request_of_a_deletion(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, after: bool, step: int
) -> None:
    bucket.make(bucket.at("original"), "a")

    def again() -> None:
        with bucket.session("original") as session:
            session.copy_remote(bucket.at("mydb", threads=1))

    def delete() -> None:
        with RemoteSession(bucket.at("mydb", threads=1), "w", retry=POLICY) as session:
            session.delete_remote()

    again()
    with watched(monkeypatch, Watch()) as watch:
        delete()
    count = len(watch.log)
    assert count > 18
    gone = 0
    numbers = range(1, count + 1, step)
    for number in numbers:
        again()
        with watched(monkeypatch, Watch(number, after=after)), pytest.raises(Killed):
            delete()
        there = "mydb" in bucket.objects("mydb")
        gone += not there
        with bucket.session("mydb") as session:
            session.break_other_locks()
            assert session.initialized == there
        if there:
            assert bucket.contents(bucket.at("mydb")) == ALL
        delete()
        assert bucket.own("mydb") == set()
        assert bucket.objects("mydb") == {}
    assert 8 // step < gone < len(numbers) - 4 // step
    assert bucket.contents(bucket.at("original")) == ALL


@pytest.mark.parametrize(
    ("kind", "streamed", "after"),
    [
        ("ministack", True, False),
        ("rclone", False, True),
        *(
            pytest.param(kind, streamed, after, marks=pytest.mark.slow)
            for kind, streamed, after in itertools.product(KINDS, (False, True), (False, True))
            if (kind, streamed, after) not in (("ministack", True, False), ("rclone", False, True))
        ),
    ],
    indirect=["kind"],
)
@pytest.mark.parametrize("step", amounts(6, 1))
def test_a_death_at_any_request_of_a_copy(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, streamed: bool, after: bool, step: int
) -> None:
    if streamed:
        monkeypatch.setattr(copy, "MAX_SERVER_COPY_BYTES", 0)
    bucket.make(bucket.at("ab"), "a")
    needed: dict[str, int] = {}

    def copy_once(key: str) -> int:
        source = remote_at(bucket.at("ab", threads=1), retry=POLICY)
        target = remote_at(bucket.at(key, threads=1), retry=POLICY, for_writing=True)
        try:
            return copy_remote(source, target).copied_objects
        finally:
            source.store.close()
            target.store.close()

    with watched(monkeypatch, Watch()) as watch:
        needed["objects"] = copy_once("whole")
    count = len(watch.log)
    assert count > 12
    whole = {name.removeprefix("whole") for name in bucket.own("whole")}
    resumed = 0
    numbers = range(1, count + 1, step)
    for number in numbers:
        key = f"copy{number}"
        with watched(monkeypatch, Watch(number, after=after)), pytest.raises(Killed):
            copy_once(key)
        arrived = bucket.own(key)
        # Breaking it would raise the fence, which is a commit: the target would be another state then.
        ebooklet_tx.unlock(None, bucket.at(key), force=True)
        with bucket.session(key) as session:
            assert session.initialized == (key in arrived)
        assert copy_once(key) == (0 if key in arrived else needed["objects"] - len(arrived))
        resumed += 0 < len(arrived) < needed["objects"]
        assert {name.removeprefix(key) for name in bucket.own(key)} == whole
    assert resumed > 4 // step
    for number in {numbers[0], numbers[len(numbers) // 2], numbers[-1]}:
        assert bucket.contents(bucket.at(f"copy{number}")) == ALL
