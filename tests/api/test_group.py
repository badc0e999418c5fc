"""Connection groups: databases of databases, and the names that programs written for ebooklet call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

import ebooklet_tx
from ebooklet_tx.connection import S3Connection, parse_connection
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.stores.object_store import ObjectStore
from tests.pairs import N_BUCKETS, Bench, limit_tails
from tests.store_wrappers import PassingStore

T = TypeVar("T")
META = {"owner": "hydrology"}


def member(folder: Path, name: str = "member", **options: Any) -> ebooklet_tx.DirectoryConnection:
    """A database that exists, with one key and metadata."""
    connection = ebooklet_tx.DirectoryConnection(folder / "members", name)
    given = {"value_serializer": "orjson", "n_buckets": N_BUCKETS, **options}
    with ebooklet_tx.open(connection, folder / f"{name}.blt", "c", lock=None, **given) as db:
        db["key"] = name
        db.set_metadata(META)
        db.changes().push()
    return connection


def uuid_of(connection: Any) -> str:
    with connection.open() as remote:
        return str(remote.get_uuid().hex)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, name="group")


def open_group(bench: Bench, copy: str = "a", flag: str = "c", **options: Any) -> ebooklet_tx.RemoteConnGroup:
    db = bench.open(copy, flag, remote_conn_group=True, **options)
    assert isinstance(db, ebooklet_tx.RemoteConnGroup)
    return db


def test_a_member_is_found_by_its_uuid(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection)
        group.changes().push()
    with bench.open("b", "r") as group:
        assert isinstance(group, ebooklet_tx.RemoteConnGroup)
        assert list(group) == [uuid_of(connection)]
        entry = group[uuid_of(connection)]
    with connection.open() as remote:
        assert entry == {
            "entry_version": 1,
            "type": "EVariableLengthValue",
            "timestamp": remote.get_timestamp(),
            "remote_meta": META,
            "user_meta": None,
            "remote_conn": connection.to_dict(),
        }


def test_a_member_opens_straight_from_its_entry(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection, key="rivers")
        entry = group["rivers"]
    with ebooklet_tx.open(entry, bench.folder / "copy.blt", trust_entries=True) as db:
        assert db["key"] == "member"


def test_an_entry_as_ebooklet_wrote_it_before_it_had_versions(bench: Bench) -> None:
    connection = member(bench.folder)
    old = {"type": "EVariableLengthValue", "timestamp": 1, "user_meta": META, "remote_conn": connection.to_dict()}
    assert parse_connection(old, trust_entries=True) == connection
    with ebooklet_tx.open(old, bench.folder / "copy.blt", trust_entries=True) as db:
        assert db.get_metadata() == META


def test_no_credential_comes_into_an_entry(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = ebooklet_tx.S3Connection(
        "id-to-hide", "secret-to-hide", "key", "bucket", session_token="tok-hide"
    )
    there = member(bench.folder)
    monkeypatch.setattr(ebooklet_tx.S3Connection, "open", lambda self, flag="r": there.open(flag))
    with open_group(bench) as group:
        group.add(connection, key="k")
        entry = group["k"]
        group.changes().push()
    assert entry["remote_conn"] == {
        "db_key": "key",
        "bucket": "bucket",
        "endpoint_url": None,
        "db_url": None,
    }
    for file in [bench.path("a"), bench.journal("a"), bench.root]:
        assert b"hide" not in file.read_bytes()


def test_adding_again_brings_the_entry_up_to_date(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection, key="k", user_meta={"version": 1})
        group.changes().push()
        group.add(connection, key="k", user_meta={"version": 2})
        assert [change["key"] for change in group.changes().iter_changes()] == ["k"]
        group.changes().push()
    assert bench.fresh_contents()["k"]["user_meta"] == {"version": 2}


def test_a_key_of_one_s_own_replaces_the_uuid(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection)
        group.add(connection, key="mine")
        assert list(group) == ["mine"]


def test_an_interrupt_leaves_the_entry_under_the_uuid_or_the_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection)
        with monkeypatch.context() as patch:
            patch.setattr(Overlay, "put_all", interrupted)
            with pytest.raises(KeyboardInterrupt):
                group.add(connection, key="mine")
        assert list(group) == [uuid_of(connection)]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class Watched(PassingStore):
    """Notes at each request whether another thread could use the session."""

    session: Any = None
    free: list[bool]

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if self.session is not None:
            with ThreadPoolExecutor(1) as other:
                self.free.append(other.submit(self._is_free).result())
        return send()

    def _is_free(self) -> bool:
        is_free = bool(self.session.mutex.acquire(blocking=False))
        if is_free:
            self.session.mutex.release()
        return is_free


def test_no_thread_waits_for_the_line_while_a_member_is_added(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tails(monkeypatch, 200)
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection)
        for number in range(5):
            group.add(member(bench.folder, f"other{number}"))
        group.changes().push()
    stores: list[Watched] = []

    def wrap(inner: ObjectStore) -> Watched:
        stores.append(Watched(inner))
        return stores[-1]

    with open_group(bench, "b", wrap_store=wrap) as group:
        stores[0].session, stores[0].free = group._session, []
        group.add(connection, key="mine")
        assert stores[0].free
        assert all(stores[0].free)
        stores[0].session = None
        assert len(group) == 6


def test_a_member_must_exist(bench: Bench) -> None:
    nothing = ebooklet_tx.DirectoryConnection(bench.folder / "members", "nothing")
    with open_group(bench) as group, pytest.raises(ebooklet_tx.RemoteMissingError, match="nothing"):
        group.add(nothing)
    assert not (bench.folder / "members").exists()


def test_metadata_that_is_no_json_changes_nothing(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        with pytest.raises(ebooklet_tx.InvalidValueError):
            group.add(connection, key="k", user_meta=object())
        assert len(group) == 0


def test_entries_are_made_by_add_alone(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        for way in (
            lambda: group.set("k", connection),
            lambda: group.__setitem__("k", connection),
            lambda: group.update({"k": connection}),
            lambda: group.update(k=connection),
            lambda: group.setdefault("k", connection),
        ):
            with pytest.raises(NotImplementedError, match=r"add\(remote_conn") as caught:
                way()
            assert isinstance(caught.value, ebooklet_tx.Error)
        assert len(group) == 0


@pytest.mark.parametrize(
    "nonsense",
    [None, 5, "", "text", "ftp://host/x", {}, {"a": 1}, ["s3://b/k"], b"s3://b/k", object(), S3Connection],
)
def test_what_is_no_connection_is_refused_at_once(bench: Bench, nonsense: Any) -> None:
    with open_group(bench) as group:
        for key in (None, "key"):
            with pytest.raises(ebooklet_tx.InvalidArgumentError):
                group.add(nonsense, key)
        with pytest.raises(ebooklet_tx.InvalidArgumentError):
            group.add(group)
        assert len(group) == 0


def test_a_reader_adds_nothing(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection, key="k")
        group.changes().push()
    with bench.open("a", "r") as group, pytest.raises(ebooklet_tx.ReadOnlyError):
        group.add(connection)  # type: ignore[attr-defined]


@pytest.mark.parametrize("flag", ["r", "w", "c"])
@pytest.mark.parametrize("said", [False, True])
def test_what_the_remote_holds_decides(bench: Bench, flag: str, said: bool) -> None:
    with open_group(bench) as group:
        group.changes().push()
    with bench.open("b", flag, remote_conn_group=said) as db:
        assert type(db) is ebooklet_tx.RemoteConnGroup
    with bench.open("b", "r", offline=True) as db:
        assert type(db) is ebooklet_tx.RemoteConnGroup
    for name, serializer in (("member", "orjson"), ("other", "str")):
        plain = member(bench.folder, name, value_serializer=serializer)
        with ebooklet_tx.open(
            plain, bench.folder / f"{name}2.blt", flag, remote_conn_group=said, lock=None
        ) as db:
            assert type(db) is ebooklet_tx.Database


def test_a_new_beginning_is_what_is_asked_for(bench: Bench) -> None:
    with open_group(bench) as group:
        group.changes().push()
    with bench.open("a", "n", value_serializer="str") as db:
        assert type(db) is ebooklet_tx.Database
        db["a"] = "b"
        db.changes().push()
    with bench.open("a", "w") as db:
        assert type(db) is ebooklet_tx.Database
        assert db["a"] == "b"


def test_a_push_that_is_finished_by_recover_stays_a_group(bench: Bench) -> None:
    connection = member(bench.folder)
    with open_group(bench) as group:
        group.add(connection, key="k")
        group.sync()
    assert ebooklet_tx.recover(bench.path("a"), bench.url).failure is None
    with bench.open("a", "w") as group:
        assert isinstance(group, ebooklet_tx.RemoteConnGroup)
        group.changes().push()
    with bench.open("b", "r") as group:
        assert isinstance(group, ebooklet_tx.RemoteConnGroup)


def test_a_plain_file_of_another_serializer_is_no_group(bench: Bench) -> None:
    with bench.open("a", "c", value_serializer="str") as db:
        db["k"] = "v"
    bench.journal("a").unlink()
    with pytest.raises(ebooklet_tx.UnsupportedFormatError, match="no connection group"):
        open_group(bench, "a", "w")


def test_the_names_of_ebooklet_0_11(bench: Bench) -> None:
    connection = member(bench.folder)
    with ebooklet_tx.open_rcg(
        bench.url, bench.path("a"), "n", 127, 2**20, group_bytes=2**20, num_groups=None, push_packers=2
    ) as group:
        assert type(group) is ebooklet_tx.RemoteConnGroup
        assert group._n_buckets == 127
        group.add(connection)
        group.changes().push()
    with ebooklet_tx.open_ebooklet(
        connection, bench.folder / "m.blt", "r", None, 12007, 2**22, group_bytes=ebooklet_tx.DEFAULT_GROUP_BYTES
    ) as db:
        assert db["key"] == "member"
    with pytest.raises(ebooklet_tx.UnsupportedFormatError, match="no group"):
        ebooklet_tx.open_rcg(connection, bench.folder / "m2.blt")
    with pytest.raises(TypeError, match="groupbytes"):
        ebooklet_tx.open_ebooklet(connection, bench.folder / "m.blt", groupbytes=1)


def test_attributes_that_clients_copy_a_file_by(bench: Bench) -> None:
    connection = member(bench.folder, n_buckets=509, buffer_size=4096)
    with ebooklet_tx.open(connection, bench.folder / "member.blt", "r", buffer_size=4096) as db:
        assert db._n_buckets == 509
        assert db._write_buffer_size == 4096
        assert db._local_file._write_buffer_size == 4096
        assert db.lock is None
    with ebooklet_tx.open(connection, bench.folder / "member.blt", "w") as db:
        assert db.lock is not None
        assert db.prune(None, True) == 0
    assert db.lock is None


def test_setdefault_returns_an_entry_and_makes_none(tmp_path: Path) -> None:
    with Bench(tmp_path).open(remote_conn_group=True) as group:
        with pytest.raises(ebooklet_tx.GroupSetError, match="can't be set"):
            group.setdefault("member", {})
        assert not group
