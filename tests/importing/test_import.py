"""Imports that stop and go on, meet other writers, and stay small, over remotes written here by the layouts."""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import ebooklet_tx
from ebooklet_tx.connection import connect
from ebooklet_tx.errors import ContentionError, InvalidArgumentError, PickleRefusedError, PickleWarning
from ebooklet_tx.importing import source_root
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import remote_at
from tests.ebooklet_remotes import (
    FIRST_US,
    KEY,
    LAYOUTS,
    METADATA,
    PLACE,
    bucket_in_memory,
    made_objects,
    shelved,
)
from tests.import_processes import SMALL_BYTES, import_and_die, make_small, source_of, values_of
from tests.pairs import Bench
from tests.processes import workers
from tests.store_wrappers import HookedStore


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch.setattr)


def run(store: ObjectStore, bench: Bench, copy: str = "a", **options: Any) -> ebooklet_tx.ImportReport:
    options.setdefault("retry", RetryPolicy.without_backoff())
    options.setdefault("lock_timeout", 5.0)
    wrap_target: Callable[[ObjectStore], ObjectStore] = options.pop("wrap_target", lambda inner: inner)
    with bucket_in_memory(store, wrap_target):
        return ebooklet_tx.import_ebooklet(PLACE, bench.url, bench.path(copy), **options)


def target_of(bench: Bench, copy: str = "fresh") -> dict[str, tuple[int, bytes]]:
    with bench.open(copy, "r") as db:
        return {key: (stamp, value) for key, stamp, value in db.timestamps(include_value=True)}


@pytest.mark.parametrize(
    ("layout", "kills"),
    [("one", [(3, False), (12, True)]), ("grouped", [(12, False)])],
    ids=["one", "grouped"],
)
def test_killed_it_goes_on(bench: Bench, layout: str, kills: list[tuple[int, bool]], small_batches: None) -> None:
    """What the target has is not fetched again; what was fetched and not pushed is not lost."""
    values = values_of()
    with workers() as start:
        for at, after in kills:
            worker = start(import_and_die, layout, bench.url, bench.path(), at, after)
            assert worker.wait_until_gone() == -signal.SIGKILL
    there = target_of(bench)
    assert 0 < len(there) < len(values)
    store = source_of(layout)
    fetched: set[str] = set()
    store.on_request = lambda kind, key: fetched.add(key)
    report = run(store, bench, max_local_bytes=SMALL_BYTES)
    if layout != "grouped":
        assert not {f"{KEY}/{key}" for key in there} & fetched
    assert report.imported_keys + report.present_keys == len(values)
    assert report.present_keys >= len(there)
    assert target_of(bench, "other") == values
    assert run(store, bench, verify=True).verified_keys == len(values)


def test_what_is_here_is_bounded(bench: Bench, small_batches: None) -> None:
    """More than what may be here passes through. SQLite's log is left out: it is up to 4 MB at any size."""
    values = values_of(120, 4000)
    store = shelved(made_objects("grouped", values, serializer=None, group_bytes=100_000))
    sizes: list[int] = []
    paths = [bench.folder / name for name in ("a.blt", "a.blt.journal", "a.blt.rebuild")]
    store.on_request = lambda kind, key: sizes.append(sum(path.stat().st_size for path in paths if path.exists()))
    report = run(store, bench, max_local_bytes=SMALL_BYTES, verify=True)
    assert report.pushes > 15
    assert report.verified_keys == len(values)
    empty_bytes = min(size for size in sizes if size)
    assert max(sizes) - empty_bytes < 1.5 * SMALL_BYTES < len(values) * 4000 / 3
    assert target_of(bench) == values


def test_keys_come_in_order_whatever_the_window(small_batches: None) -> None:
    values = values_of(100, 1)
    store = shelved(made_objects("per_key", values))
    with bucket_in_memory(store):
        root = source_root.read_source(remote_at(connect(PLACE)))
    windows = list(root.windows())
    assert [len(window) for window in windows] == [40, 40, 20]
    assert [place.key for window in windows for place in window] == sorted(values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_is_older_in_the_target_is_replaced(bench: Bench, layout: str) -> None:
    values = values_of(10, 10)
    store = shelved(made_objects(layout, values, serializer=None))
    run(store, bench)
    with bench.open("b", "w") as db:
        db.set("k001", b"mine", FIRST_US + 10**6)
        db.set("k002", b"older", FIRST_US - 1)
        db["own"] = b"own"
        db.changes().push()
    report = run(store, bench, "c", verify=True)
    assert (report.present_keys, report.newer_keys, report.imported_keys) == (8, 1, 1)
    assert (report.verified_keys, report.other_keys, bool(report)) == (9, 1, True)
    found = target_of(bench)
    assert found.pop("own")[1] == b"own"
    assert found == values | {"k001": (FIRST_US + 10**6, b"mine")}


def test_an_import_tells_how_far_it_is_in_the_whole(bench: Bench, small_batches: None) -> None:
    values, told = values_of(30, 1000), list[ebooklet_tx.Progress]()
    store = shelved(made_objects("one", values, serializer=None))
    report = run(store, bench, verify=True, progress=told.append)
    for phase in ("import", "compare"):
        events = [event for event in told if event.phase == phase]
        assert (events[0].keys_done, events[-1].keys_done, events[-1].keys_total) == (0, 30, 30)
        assert events[-1].bytes_done == sum(len(value) for _, value in values.values())
    assert report.pushes
    # What a batch needs lies within.
    assert {"send", "index", "commit", "fetch"} <= {event.phase for event in told}
    again = list[ebooklet_tx.Progress]()
    run(store, bench, progress=again.append)
    assert [event.keys_done for event in again if event.phase == "import"][-1] == 30


def test_what_ebooklet_pushes_later_comes_with_the_next_run(bench: Bench) -> None:
    values = values_of(10, 10)
    run(shelved(made_objects("per_key", values, serializer=None)), bench)
    values["k003"] = (FIRST_US + 10**6, b"changed")
    values["new"] = (FIRST_US, b"new")
    later = made_objects("per_key", values, serializer=None, metadata=({"n": 2}, FIRST_US + 200))
    assert run(shelved(later), bench).imported_keys == 2
    assert target_of(bench) == values
    with bench.open("fresh", "r") as db:
        assert db.get_metadata(include_timestamp=True) == ({"n": 2}, FIRST_US + 200)


def test_metadata_that_is_newer_in_the_target_stays(bench: Bench) -> None:
    store = shelved(made_objects("grouped", values_of(3, 3), serializer=None))
    run(store, bench)
    with bench.open("b", "w") as db:
        assert db.get_metadata(include_timestamp=True) == (METADATA, FIRST_US + 100)
        db.set_metadata("mine", FIRST_US + 101)
        db.changes().push()
    assert run(store, bench, verify=True)
    assert bench.fresh_contents()[""] == "mine"


@pytest.mark.parametrize("stamp", [0, 1, 630_000_000_000_000, 2**55])
def test_any_time_that_is_stored_comes_over(bench: Bench, stamp: int) -> None:
    store = shelved(made_objects("per_key", {"k": (stamp, b"v")}, serializer=None))
    assert run(store, bench, verify=True).verified_keys == 1
    assert target_of(bench) == {"k": (stamp, b"v")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_another_writer_sets_in_the_target_meanwhile_is_not_replaced_by_what_is_older(
    bench: Bench, layout: str, small_batches: None
) -> None:
    """Also where its key is of a batch that is written on top of that commit."""
    values = values_of(60, 1000)
    newer = {f"k{number:03}": (FIRST_US + 10**6, b"mine") for number in range(0, 60, 4)}
    older = {f"k{number:03}": (FIRST_US - 1, b"older") for number in range(38, 60, 7)}

    times: list[str] = []

    def set_meanwhile() -> None:
        if times:
            return
        times.append("once")
        with bench.open("b", "c", lock=None) as db:
            for key, (stamp, value) in {**older, **newer}.items():
                db.set(key, value, stamp)
            db.changes().push()

    def wrap(inner: ObjectStore) -> ObjectStore:
        return HookedStore(inner, "db.d/pack/*", before=set_meanwhile)

    store = shelved(made_objects(layout, values, serializer=None))
    report = run(store, bench, wrap_target=wrap, verify=True, max_local_bytes=SMALL_BYTES)
    found = target_of(bench)
    assert {key: found[key] for key in newer} == newer
    assert {key: one for key, one in found.items() if key not in newer} == {
        key: one for key, one in values.items() if key not in newer
    }
    assert report
    assert report.newer_keys


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_one_becomes_an_empty_one(bench: Bench, layout: str) -> None:
    assert run(shelved(made_objects(layout, {})), bench, verify=True).imported_keys == 0
    assert target_of(bench) == {}


def test_a_value_that_is_larger_than_a_batch(bench: Bench, small_batches: None) -> None:
    values = {"large": (FIRST_US, bytes(range(256)) * 5000), "small": (FIRST_US, b"s")}
    for layout in ("one", "grouped"):
        other = Bench(bench.folder / layout)
        other.folder.mkdir()
        store = shelved(made_objects(layout, values, serializer=None))
        assert run(store, other, max_local_bytes=SMALL_BYTES, verify=True).verified_keys == 2
        assert target_of(other) == values


# -- a source that is written to ------------------------------------------------------------------


def test_a_value_of_a_push_that_was_cut_short_has_its_own_time(bench: Bench) -> None:
    """ebooklet replaces objects before its root: a killed push leaves newer ones than the index says."""
    values = values_of(5, 10)
    objects = made_objects("per_key", values, serializer=None)
    objects[f"{KEY}/k002"] = b"newer", {"timestamp": str(FIRST_US + 10**6)}
    report = run(shelved(objects), bench, verify=True)
    assert (report.retimed_keys, report.verified_keys, bool(report)) == (1, 5, True)
    assert target_of(bench)["k002"] == (FIRST_US + 10**6, b"newer")
    assert run(shelved(objects), bench, verify=True).imported_keys == 0


def test_ebooklet_pushes_meanwhile(bench: Bench) -> None:
    """Its groups get new names with each push, and the old ones are gone."""
    values = values_of(50, 1000)
    store = shelved(made_objects("grouped", values, serializer=None, group_bytes=10_000))
    later = values | {"k001": (FIRST_US + 10**6, b"later")}

    def push(kind: str, key: str) -> None:
        if key.startswith(f"{KEY}/3."):
            store.on_request = lambda kind, key: None
            store.objects = shelved(
                made_objects("grouped", dict(reversed(later.items())), serializer=None, group_bytes=9_000)
            ).objects
            del store.objects[next(name for name in store.objects if name.startswith(f"{KEY}/3."))]

    store.on_request = push
    with pytest.raises(ContentionError, match="run the import again"):
        run(store, bench)
    store.objects = shelved(made_objects("grouped", later, serializer=None)).objects
    assert run(store, bench, verify=True)
    assert target_of(bench) == later


def test_values_that_go_when_ebooklet_pushes_later_are_not_missing(bench: Bench) -> None:
    """One was lost before, so that the root was looked at already."""
    objects = made_objects("per_key", values_of(20, 10), serializer=None)
    del objects[f"{KEY}/k000"]
    store = shelved(objects)

    def push(kind: str, key: str) -> None:
        if key == f"{KEY}/k010":
            store.objects.pop(key, None)
            store.objects[KEY] = shelved(made_objects("per_key", values_of(19, 10), serializer=None)).objects[KEY]

    store.on_request = push
    with pytest.raises(ContentionError, match="run the import again"):
        run(store, bench, accept_missing=True)


def test_the_root_is_replaced_while_it_is_read(bench: Bench, small_batches: None) -> None:
    store = shelved(made_objects("per_key", values_of(), serializer=None))
    seen: list[str] = []

    def replace(kind: str, key: str) -> None:
        seen.append(key)
        if len(seen) == 5:
            store.objects[KEY] = shelved(made_objects("per_key", values_of(90), serializer=None)).objects[KEY]

    store.on_request = replace
    with pytest.raises(ContentionError, match="has changed while it was read"):
        run(store, bench)


# -- serializers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "orjson"])
def test_the_serializer_is_the_sources(bench: Bench, given: str | None) -> None:
    values = {"k": (FIRST_US, orjson.dumps([1]))}
    report = run(shelved(made_objects("per_key", values)), bench, value_serializer=given)
    assert report.serializer == "orjson"
    assert bench.fresh_contents()["k"] == [1]


def test_another_serializer_is_refused(bench: Bench) -> None:
    store = shelved(made_objects("per_key", {"k": (FIRST_US, b"1")}))
    with pytest.raises(InvalidArgumentError, match="leave value_serializer out; nothing was imported"):
        run(store, bench, value_serializer="str")
    assert not bench.path().exists()


class Reversed:
    @staticmethod
    def dumps(value: str) -> bytes:
        return value[::-1].encode()

    @staticmethod
    def loads(value: bytes) -> str:
        return value.decode()[::-1]


@pytest.mark.parametrize("given", [None, Reversed])
def test_the_class_of_the_values_is_not_needed(bench: Bench, given: Any) -> None:
    objects = made_objects("grouped", {"k": (FIRST_US, b"olleh")})
    objects[KEY][1]["init_bytes"] = made_objects("one", {}, serializer=None)[KEY][1]["init_bytes"]
    code = bytearray(base64.urlsafe_b64decode(objects[KEY][1]["init_bytes"]))
    code[29:31] = bytes(2)
    objects[KEY][1]["init_bytes"] = base64.urlsafe_b64encode(code).decode()
    assert run(shelved(objects), bench, value_serializer=given, verify=True).serializer == "custom"
    with bench.open("b", "r", value_serializer=Reversed) as db:
        assert db["k"] == "hello"
    with pytest.raises(InvalidArgumentError, match="pass that class"):
        bench.open("c", "r")


def test_a_serializer_of_a_later_booklet(bench: Bench) -> None:
    objects = made_objects("grouped", {"k": (FIRST_US, b"v")})
    header = bytearray(base64.urlsafe_b64decode(objects[KEY][1]["init_bytes"]))
    header[29:31] = (999).to_bytes(2, "little")
    objects[KEY][1]["init_bytes"] = base64.urlsafe_b64encode(header).decode()
    with pytest.raises(InvalidArgumentError, match=r"number 999.*value_serializer='bytes'"):
        run(shelved(objects), bench)
    assert not bench.path().exists()
    run(shelved(objects), bench, value_serializer="bytes")
    assert bench.fresh_contents()["k"] == b"v"


def test_a_root_without_what_s3_kept_with_it(bench: Bench) -> None:
    """As in a folder, or behind a web server: values are bytes there unless a serializer is named."""
    objects = made_objects("per_key", {"k": (FIRST_US, b"1")})
    plain = {name: (data, {}) for name, (data, _) in objects.items()}
    assert run(shelved(plain), bench, verify=True).serializer is None
    assert bench.fresh_contents()["k"] == b"1"
    other = Bench(bench.folder, "other")
    assert run(shelved(plain), other, "b", value_serializer="orjson").serializer == "orjson"
    assert target_of(other) == {"k": (FIRST_US, 1)}


def test_pickled_values_are_copied_and_never_unpickled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shelved(made_objects("grouped", {"k": (FIRST_US, b"no pickle at all")}, serializer="pickle"))
    with pytest.raises(PickleRefusedError):
        run(store, bench, allow_pickle=False)
    with pytest.warns(PickleWarning, match="'old'"):
        assert run(store, bench, verify=True).verified_keys == 1
    # The values are another writer's, although the database began on this machine.
    with pytest.warns(PickleWarning, match=bench.url), bench.open("a", "r") as db:
        assert set(db) == {"k"}
    quiet = Bench(bench.folder, "quiet")
    assert run(store, quiet, "q", allow_pickle=True)
