"""One story of two writers and a reader, end to end on every kind of store."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import MISSING, ConflictError, Database, WeakStoreWarning
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import LockLostError, LockTimeoutError, OfflineError
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit import commit_mode
from tests.pairs import N_BUCKETS, limit_tails
from tests.places import Place, new_place
from tests.s3_proxy import Fault, Mode, Rule, S3Proxy

PROXIES = {
    "refuses": Mode.REFUSES,
    "unquoted": Mode.UNQUOTED,
    "fails losers": Mode.FAILS_ALL_LOSERS,
}
KINDS = ("directory", "ministack", "rclone", *PROXIES)
WEAK = ("rclone", "refuses")
POLICY = RetryPolicy.without_backoff()


class Shop:
    """Opens one database at one place, with local files of different names."""

    def __init__(self, place: Place, folder: Path, *, weak: bool) -> None:
        self.place = place
        self.weak = weak
        self._folder = folder

    def open(self, name: str, flag: str = "w", **options: Any) -> Database:
        given: dict[str, Any] = {
            "value_serializer": "orjson",
            "n_buckets": N_BUCKETS,
            "retry": POLICY,
        } | options
        return ebooklet_tx.open(self.place.connection, self._folder / f"{name}.blt", flag, **given)

    def expect_warning(self) -> AbstractContextManager[Any]:
        return pytest.warns(WeakStoreWarning, match="tickets") if self.weak else nullcontext()

    def objects(self) -> list[str]:
        store = open_store(self.place.connection, policy=POLICY)
        try:
            return [found.key for found in store.list("")]
        finally:
            store.close()


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(commit_mode, "probe_results", {})
    kind: str = request.param
    place = new_place("ministack" if kind in PROXIES else kind, request, tmp_path)
    if kind in PROXIES:
        assert isinstance(place.connection, S3Connection)
        endpoint = request.getfixturevalue("proxy_in")(PROXIES[kind]).endpoint
        place = Place(dataclasses.replace(place.connection, endpoint_url=endpoint), weak=kind in WEAK)
    return Shop(place, tmp_path, weak=kind in WEAK)


@pytest.mark.parametrize("lock", ["exclusive", None])
def test_two_writers_and_a_reader(shop: Shop, lock: str | None) -> None:
    with shop.expect_warning():
        first = shop.open("first", "c", lock=lock)
    with first:
        first.update({f"k{number:02}": {"by": "first"} for number in range(20)})
        first["big"] = "x" * 100_000
        first.set_metadata({"made": "here"})
        pushed = first.changes().push()
        assert pushed
        assert (pushed.seq, pushed.set_count) == (1, 22)
        assert not first.changes().push()
    # No warning from here on: filterwarnings makes it an error.
    with shop.open("second", lock=lock) as second:
        assert len(second) == 21
        assert second["big"] == "x" * 100_000
        assert second.get_metadata() == {"made": "here"}
        second["k00"] = {"by": "second"}
        del second["k01"]
        assert second.changes().push().seq == 2
    with shop.open("first", lock=lock) as first:
        first.changes().pull()
        assert first["k00"] == {"by": "second"}
        assert "k01" not in first
        first["new"] = 1
        assert first.changes().push().seq == 3
    with shop.open("reader", "r") as reader:
        expected: dict[str, Any] = {f"k{number:02}": {"by": "first"} for number in range(2, 20)}
        expected |= {"k00": {"by": "second"}, "big": "x" * 100_000, "new": 1}
        assert dict(reader.items()) == expected
    leases_only = [name for name in shop.objects() if ".lock" in name]
    assert leases_only in ([], ["db.lock"])
    assert (leases_only == ["db.lock"]) is (lock is not None and not shop.weak)


def test_a_conflict_is_raised_and_settled(shop: Shop) -> None:
    with shop.expect_warning():
        first = shop.open("first", "c", lock=None)
    with first:
        first.update({"a": 0, "b": 0, "c": 0})
        first.changes().push()
        with shop.open("second", lock=None) as second:
            first.update({"a": 1, "own": 1})
            second.update({"a": 2, "b": 2, "c": 2})
            assert second.changes().push()
            with pytest.raises(ConflictError) as caught:
                first.changes().push()
            assert [(c.key, c.base, c.ours, c.theirs) for c in caught.value.conflicts] == [("a", 0, 1, 2)]
            assert (first["a"], first["b"], first["own"]) == (1, 2, 1)
            assert first.changes().resolve("a", 3) == 1
            assert first.changes().push().seq == 3
            second["a"] = 4
            assert second.changes().push(on_conflict=lambda c: c.ours + c.theirs).seq == 4
            first["b"] = 5
            second["b"] = 6
            assert first.changes().push()
            assert second.changes().push(on_conflict=lambda _: MISSING)
    with shop.open("reader", "r") as reader:
        assert dict(reader.items()) == {"a": 7, "c": 2, "own": 1}


def test_the_exclusive_lock_keeps_others_out_until_it_is_forced(shop: Shop) -> None:
    with shop.expect_warning():
        first = shop.open("first", "c")
    with first:
        first["a"] = 1
        first.changes().push()
        with pytest.raises(LockTimeoutError, match="is locked by"):
            shop.open("second", lock_timeout=0)
        with shop.open("reader", "r") as reader:
            assert reader["a"] == 1
        first["a"] = 2
        with shop.open("second", force_lock=True) as second:
            assert second["a"] == 1
            second["b"] = 2
            assert second.changes().push()
            with pytest.raises(LockLostError, match="still pending"):
                first.changes().push()
            assert [change["key"] for change in first.changes().iter_changes()] == ["a"]
    with shop.open("first") as first:
        assert first["a"] == 2
        # And again in the same session, under a lock that was not taken over.
        assert first.changes().push()
        first["a"] = 3
        assert first.changes().push()
    with shop.open("reader", "r") as reader:
        assert dict(reader.items()) == {"a": 3, "b": 2}


def test_a_database_started_anew_replaces_one_whose_lock_was_once_taken_over(shop: Shop) -> None:
    with shop.expect_warning():
        first = shop.open("first", "c")
    with first:
        first["a"] = 1
        first.changes().push()
        # Raises the root's fence.
        shop.open("second", force_lock=True).close()
    with shop.open("third", "n") as third:
        third["x"] = 1
        assert third.changes().push()
        third["y"] = 2
        assert third.changes().push()
    with shop.open("fourth", "r") as reader:
        assert dict(reader.items()) == {"x": 1, "y": 2}


@pytest.mark.parametrize("lock", ["exclusive", None])
def test_an_index_object_is_written_and_read(
    shop: Shop, lock: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tails(monkeypatch, 2000)
    model: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStoreWarning)
        first = shop.open("first", "c")
    with first:
        for number in range(4):
            change = {f"k{number}/{each:03}": f"{number}-{each}" * 5 for each in range(60)}
            model |= change
            first.update(change)
            assert first.changes().push().seq == number + 1
    assert any("/index/" in name for name in shop.objects())
    with shop.open("reader", "r") as reader:
        assert dict(reader.items()) == model


@pytest.mark.parametrize("mode", [Mode.PLAIN, Mode.REFUSES])
def test_a_store_that_stops_taking_the_root_is_offline_and_everything_stays_pending(
    mode: Mode,
    proxy_in: Callable[[Mode], S3Proxy],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    place = new_place("ministack", request, tmp_path)
    assert isinstance(place.connection, S3Connection)
    proxy = proxy_in(mode)
    connection = dataclasses.replace(place.connection, endpoint_url=proxy.endpoint)
    works = mode is Mode.PLAIN
    shop = Shop(Place(connection), tmp_path, weak=False)
    with shop.open("first", "c", lock=None, conditional_writes=works) as db:
        db["a"] = 1
        db.changes().push()
        db["a"] = 2
        proxy.arm(Rule("PUT root", Fault.ERROR_503, times=100))
        with pytest.raises(OfflineError, match=r"push|put"):
            db.changes().push()
        assert [change["key"] for change in db.changes().iter_changes()] == ["a"]
        proxy.reset()
        assert db.changes().push().seq == 2
    with shop.open("reader", "r") as reader:
        assert reader["a"] == 2
