"""How commits are made is a fact of the database: what a root says, what it does not, and how it is changed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx import OfflineError, WeakStoreWarning
from ebooklet_tx.connection import DirectoryConnection
from ebooklet_tx.errors import ObjectMissingError
from ebooklet_tx.formats.root import Manifest, decode_root, encode_root
from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.object_store import Blob
from ebooklet_tx.stores.wrapper import PassingStore
from ebooklet_tx.sync.commit import commit_mode
from tests.doors import open_database
from tests.memory_store import MemoryStore
from tests.model.minds import Mind, World
from tests.store_wrappers import CountingStore

HERE = ("http://127.0.0.1:9", "bucket")
AUTO, TOLD, DENIED = (Mind(told, None) for told in ("auto", True, False))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStoreWarning)
        yield World(tmp_path, MemoryStore())


class LaggingStore(PassingStore):
    """Answers reads of the root from a cache, or a replica, that lags behind; None for one that has none yet."""

    def __init__(self, inner: MemoryStore, shown: Blob | None) -> None:
        super().__init__(inner)
        self.shown = shown

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        if key != "db":
            return super().get(key, if_none_match=if_none_match, max_bytes=max_bytes)
        if self.shown is None:
            raise ObjectMissingError("there is none yet")
        return None if self.shown.etag == if_none_match else self.shown


def manifest(world: World) -> Manifest:
    return decode_root(world.store.objects["db"].data, name="db").manifest


def said(world: World) -> CommitWay | None:
    return manifest(world).commits


def put(world: World, name: str, mind: Mind, flag: str = "c") -> None:
    with world.open(name, mind, flag) as db:
        db[name] = 1
        db.changes().push()
        # What the journal keeps is what lies there, whatever the commit came to say.
        assert db._session.journal.get_meta("base_root") == world.store.objects["db"].data


@pytest.mark.parametrize(
    ("conditions", "how"),
    [("work", "quoted"), ("ignored", "tickets"), ("refused", "tickets")],
)
def test_the_first_commit_says_how_and_for_which_place(world: World, conditions: str, how: str) -> None:
    world.store.conditions = conditions  # type: ignore[assignment]
    put(world, "a", AUTO)
    assert said(world) == CommitWay(how, *HERE)


def test_who_comes_to_a_root_that_says_so_does_not_try_the_store(world: World) -> None:
    put(world, "a", AUTO)
    seen: list[str] = []
    world.store.on_request = lambda kind, key: seen.append(key)
    put(world, "b", AUTO)
    assert not [key for key in seen if "probe" in key]
    assert said(world) == CommitWay("quoted", *HERE)


@pytest.mark.parametrize("mind", [DENIED, Mind(False, "exclusive")])
def test_who_is_told_otherwise_asks_the_root_and_goes_by_it(world: World, mind: Mind) -> None:
    put(world, "a", AUTO)
    put(world, "b", mind)
    assert said(world) == CommitWay("quoted", *HERE)
    assert manifest(world).key_count == 2
    assert [key for key in world.store.objects if key.startswith("db.lock.")] == []


@pytest.mark.parametrize("lock", [None, "exclusive"])
def test_a_store_that_learnt_conditions_is_moved_by_who_knows_of_them(world: World, lock: str | None) -> None:
    world.store.conditions = "ignored"
    put(world, "a", AUTO)
    world.store.conditions = "work"
    # Who does not know better goes by the root, and tries nothing.
    put(world, "b", Mind("auto", lock))
    assert said(world) == CommitWay("tickets", *HERE)
    put(world, "c", Mind(True, lock))
    assert said(world) == CommitWay("quoted", *HERE)
    assert manifest(world).key_count == 3


def test_who_is_told_wrong_moves_nothing(world: World) -> None:
    world.store.conditions = "ignored"
    put(world, "a", AUTO)
    put(world, "b", TOLD)
    assert said(world) == CommitWay("tickets", *HERE)
    assert manifest(world).key_count == 2


@pytest.mark.parametrize("lock", [None, "exclusive"])
def test_a_remembered_answer_that_went_stale_is_replaced(world: World, lock: str | None) -> None:
    mind = Mind("auto", lock)
    put(world, "a", mind)
    with world.open("a", mind, "w") as db:
        db["more"] = 1
        world.store.stuck = {key for key in world.store.objects if key == "db" or key.startswith("db.lock")}
        with pytest.warns(WeakStoreWarning, match="don't work any more"):
            assert db.changes().push()
    assert said(world) == CommitWay("tickets", *HERE)
    with world.open("a", mind, "w") as db:
        kept = json.loads(db._session.journal.get_meta("conditional_writes"))
        assert list(kept.values()) == ["unusable"]
        db["again"] = 1
        assert db.changes().push()
    put(world, "b", mind)
    assert manifest(world).key_count == 4


def test_a_store_that_begins_to_refuse_conditions_is_found_out(world: World) -> None:
    put(world, "a", AUTO)
    world.store.conditions = "refused"
    put(world, "b", AUTO)
    assert said(world) == CommitWay("tickets", *HERE)
    assert manifest(world).key_count == 2


def test_a_holder_of_the_lease_gives_way_to_nobody_when_the_store_changes(world: World) -> None:
    with world.open("a", Mind("auto", "exclusive")) as db:
        db["a"] = 1
        db.changes().push()
        world.store.stuck = {"db", "db.lock"}
        db["b"] = 1
        assert db.changes().push()
        # From here on its ticket keeps others out.
        with pytest.raises(ebooklet_tx.LockTimeoutError):
            open_database(
                db._connection,
                world.folder / "b.blt",
                "c",
                "orjson",
                lock_timeout=0.0,
                wrap_store=lambda _: world.store,
            )
    put(world, "b", Mind("auto", "exclusive"))
    assert manifest(world).key_count == 2


def test_what_a_root_says_of_another_place_counts_nothing(world: World) -> None:
    put(world, "a", AUTO)
    elsewhere = replace(manifest(world), commits=CommitWay("tickets", "http://elsewhere", "bucket"))
    tail = decode_root(world.store.objects["db"].data, name="db").tail
    world.store.put("db", encode_root(elsewhere, tail))
    put(world, "b", AUTO)
    assert said(world) == CommitWay("quoted", *HERE)
    assert manifest(world).key_count == 2


def test_a_root_that_says_nothing_is_told_under_both_locks(world: World) -> None:
    put(world, "a", AUTO)
    tail = decode_root(world.store.objects["db"].data, name="db").tail
    world.store.put("db", encode_root(replace(manifest(world), commits=None), tail))
    keys: list[str] = []
    world.store.on_request = lambda kind, key: keys.append(key) if kind == "put" else None
    put(world, "b", AUTO)
    root = max(number for number, key in enumerate(keys) if key == "db")
    before = keys[:root]
    assert "db.lock" in before
    assert any(key.startswith("db.lock.0") for key in before)
    assert said(world) == CommitWay("quoted", *HERE)


def test_fields_of_a_later_version_survive_a_push(world: World) -> None:
    put(world, "a", AUTO)
    root = decode_root(world.store.objects["db"].data, name="db")
    world.store.put("db", encode_root(replace(root.manifest, unknown={"room": [1]}), root.tail))
    put(world, "b", AUTO)
    put(world, "b", AUTO, "n")
    assert manifest(world).unknown == {"room": [1]}


def test_a_copy_says_it_for_its_own_place(world: World, tmp_path: Path) -> None:
    world.store.conditions = "ignored"
    put(world, "a", AUTO)
    target = DirectoryConnection(tmp_path / "copy", "db")
    with world.open("a", AUTO, "w") as db:
        db.copy_remote(target)
    data = (tmp_path / "copy" / "db").read_bytes()
    assert decode_root(data, name="copy").manifest.commits == CommitWay("quoted", "file", "")


def test_a_folder_says_it_wherever_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with open_database(f"file://{tmp_path}/one/db", tmp_path / "a.blt", "c", conditional_writes=False) as db:
        db["a"] = b"1"
        db.changes().push()
    root = tmp_path / "one" / "db"
    assert decode_root(root.read_bytes(), name="db").manifest.commits == CommitWay("tickets", "file", "")
    (tmp_path / "one").rename(tmp_path / "two")
    # A folder is known to swap: who is not told otherwise moves the database back.
    with open_database(f"file://{tmp_path}/two/db", tmp_path / "b.blt", "w") as db:
        db["b"] = b"1"
        db.changes().push()
    root = tmp_path / "two" / "db"
    assert decode_root(root.read_bytes(), name="db").manifest.commits == CommitWay("quoted", "file", "")


def test_a_push_where_all_agree_costs_what_it_did(world: World) -> None:
    put(world, "a", AUTO)
    counting = CountingStore(world.store)
    commit_mode.probe_results.clear()
    with world.open("a", AUTO, "w") as db:
        db._session.remote.store.inner = counting
        db["b"] = 1
        db.changes().push()
    assert dict(counting.requests) == {"put": 1}


def test_a_swap_that_is_refused_for_good_ends(world: World) -> None:
    put(world, "a", AUTO)
    world.store.stuck = {"db"}
    puts = 0

    def refuse_plain(kind: str, key: str) -> None:
        nonlocal puts
        if (kind, key) == ("put", "db"):
            puts += 1
            if puts > 20:
                raise AssertionError("never ends")

    world.store.on_request = refuse_plain
    with world.open("a", AUTO, "w") as db:
        db["b"] = 1
        assert db.changes().push()
    assert puts <= 10


@pytest.mark.parametrize("told", ["auto", True, False])
@pytest.mark.parametrize("lock", ["exclusive", None])
def test_reads_that_lag_behind_cost_no_commit(world: World, told: bool | str, lock: str | None) -> None:
    put(world, "a", AUTO)
    old = world.store.get("db")
    put(world, "b", AUTO)
    mind = Mind(told, lock)
    with world.open("c", mind) as db:
        db._session.remote.store.inner = LaggingStore(world.store, old)
        db.changes().pull()
        db["c"] = 1
        with pytest.raises(OfflineError, match="another state than the store has"):
            db.changes().push()
        assert said(world) == CommitWay("quoted", *HERE)
        db._session.remote.store.inner = world.store
        assert db.changes().push()
    with world.open("d", AUTO, "r") as db:
        assert dict(db.items()) == {"a": 1, "b": 1, "c": 1}
    assert not [name for name in world.store.objects if ".probe-" in name]


@pytest.mark.parametrize("told", [True, False])
def test_a_database_that_does_not_show_yet_is_not_created_again(world: World, told: bool) -> None:
    with world.open("b", Mind(told, None)) as db:
        db["b"] = 1
        put(world, "a", AUTO)
        db._session.remote.store.inner = LaggingStore(world.store, None)
        with pytest.raises(OfflineError):
            db.changes().push()
        db._session.remote.store.inner = world.store
        assert db.changes().push()
    with world.open("d", AUTO, "r") as db:
        assert dict(db.items()) == {"a": 1, "b": 1}
