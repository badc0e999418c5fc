"""The least rights with which a reader and a writer can work, and what is said where one is missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from ebooklet_tx import RemoteAccessError, WeakStoreWarning
from ebooklet_tx.errors import ObjectMissingError
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.stores.capabilities import CleaningDeniedError, probe
from ebooklet_tx.stores.object_store import ObjectStore
from tests.memory_store import MemoryStore
from tests.model.minds import Mind, World
from tests.store_wrappers import PassingStore

T = TypeVar("T")
GET = frozenset({"get", "get_range", "head"})
GET_PUT = GET | {"put", "put_parts", "part"}
ALL = GET_PUT | {"list", "delete"}
LARGE = "l" * 50_000


class Rights(PassingStore):
    """Denies every request of another kind; without the right to list, what is missing is denied as well."""

    def __init__(self, inner: ObjectStore, kinds: frozenset[str], *, as_aws: bool = True) -> None:
        super().__init__(inner)
        self._kinds = kinds
        self._as_aws = as_aws

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if kind not in self._kinds:
            raise RemoteAccessError(f"403 AccessDenied: {kind} of {key!r}")
        try:
            return send()
        except ObjectMissingError as error:
            if "list" in self._kinds or not self._as_aws:
                raise
            raise RemoteAccessError(f"403 AccessDenied: {kind} of {key!r}") from error


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStoreWarning)
        yield World(tmp_path, MemoryStore())


def made(world: World) -> MemoryStore:
    """Makes a database with every right."""
    store = world.store
    with world.open("first", Mind("auto", None), "n") as db:
        db.update({"small": 1, "large": LARGE})
        db.changes().push()
    return store


def test_a_reader_needs_the_right_to_get_alone(world: World) -> None:
    store = made(world)
    world.store = Rights(store, GET - {"head"})  # type: ignore[assignment]
    with world.open("reader", Mind("auto", "exclusive"), "r") as db:
        assert dict(db.items()) == {"small": 1, "large": LARGE}
        db.changes().pull()
        assert not db.load_items()


@pytest.mark.parametrize("told", ["auto", True])
@pytest.mark.parametrize("lock", [None, "exclusive"])
def test_a_writer_needs_the_rights_to_get_and_put(world: World, told: bool | str, lock: str | None) -> None:
    store = made(world)
    world.store = Rights(store, GET_PUT)  # type: ignore[assignment]
    for number in range(2):
        with world.open("writer", Mind(told, lock), "w") as db:
            db[f"more{number}"] = LARGE
            assert db.changes().push()
            db[f"more{number}"] = number
            assert db.changes().push()
    world.store = store
    assert set(world.contents()) == {"small", "large", "more0", "more1"}
    assert [key for key in store.objects if ".lock." in key] == []


@pytest.mark.parametrize("lock", [None, "exclusive"])
def test_a_maker_whose_store_tells_what_is_missing_needs_no_more(world: World, lock: str | None) -> None:
    store = world.store
    world.store = Rights(store, GET_PUT, as_aws=False)  # type: ignore[assignment]
    with world.open("maker", Mind("auto", lock), "c") as db:
        db["a"] = 1
        assert db.changes().push()
    assert [key for key in store.objects if ".lock." in key] == []
    way = decode_root(store.objects["db"].data, name="db").manifest.commits
    assert way is not None
    assert way.how == "quoted"
    world.store = store
    assert world.contents() == {"a": 1}


def test_where_the_root_shows_that_conditions_are_ignored_the_commit_is_in_and_says_so(world: World) -> None:
    store = world.store
    store.conditions = "ignored"
    world.store = Rights(store, GET_PUT, as_aws=False)  # type: ignore[assignment]
    with world.open("maker", Mind("auto", None), "c") as db:
        db["a"] = 1
        assert db.changes().push()
        db["b"] = 1
        with pytest.raises(RemoteAccessError, match="s3:ListBucket, s3:DeleteObject"):
            db.changes().push()
    assert [key for key in store.objects if ".lock." in key] == []
    world.store = store
    assert world.contents() == {"a": 1}


def test_where_conditions_are_refused_the_missing_right_is_named(world: World) -> None:
    store = world.store
    store.conditions = "refused"
    world.store = Rights(store, GET_PUT, as_aws=False)  # type: ignore[assignment]
    with world.open("maker", Mind("auto", None), "c") as db:
        db["a"] = 1
        with pytest.raises(RemoteAccessError, match="s3:ListBucket, s3:DeleteObject"):
            db.changes().push()
        assert [change["key"] for change in db.changes().iter_changes()] == ["a"]
    assert store.objects == {}


@pytest.mark.parametrize("missing", ["list", "delete"])
def test_a_probe_that_can_not_clean_up_writes_nothing(missing: str) -> None:
    store = MemoryStore()
    with pytest.raises(
        CleaningDeniedError, match={"list": "s3:ListBucket", "delete": "s3:DeleteObject"}[missing]
    ):
        probe(Rights(store, ALL - {missing}), "db.lock", store)
    assert store.objects == {}


@pytest.mark.parametrize("missing", ["list", "delete"])
def test_tickets_name_the_right_that_is_missing_and_leave_none_behind(world: World, missing: str) -> None:
    world.store.conditions = "ignored"
    store = made(world)
    world.store = Rights(store, ALL - {missing}, as_aws=False)  # type: ignore[assignment]
    with world.open("writer", Mind("auto", None), "w") as db:
        db["a"] = 1
        with pytest.raises(RemoteAccessError, match="tickets, which need the rights"):
            db.changes().push()
    assert [key for key in store.objects if ".lock." in key] == []


def test_a_right_to_write_that_is_missing_is_told_and_everything_stays_pending(world: World) -> None:
    store = made(world)
    world.store = Rights(store, GET)  # type: ignore[assignment]
    with world.open("writer", Mind("auto", None), "w") as db:
        db["a"] = 1
        with pytest.raises(RemoteAccessError, match="put of 'db'"):
            db.changes().push()
        assert [change["key"] for change in db.changes().iter_changes()] == ["a"]
