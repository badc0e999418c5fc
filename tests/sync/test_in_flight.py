"""The bytes that are in flight at once: bounded exactly, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebooklet_tx.errors import Error, OfflineError
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.pack import PACK_BYTES
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.records import ObjectRef, digest_of
from ebooklet_tx.stores.wrapper import PassingStore
from ebooklet_tx.sync import in_flight
from ebooklet_tx.sync.commit import packing
from ebooklet_tx.sync.in_flight import IN_FLIGHT_BYTES, ByteBudget, side_by_side
from ebooklet_tx.sync.read import fetch, load, near_ranges, ranges
from ebooklet_tx.sync.read.ranges import fetch_ranges, sound_values
from ebooklet_tx.sync.remote import Remote
from tests.memory_store import MemoryStore
from tests.pairs import Bench, make, many_large

LIMIT = 1_000


class WeighingStore(PassingStore):
    """Weighs the ranges that are read: from the request on, until a test lets go of what it got.

    Attributes:
        held_bytes: What is held now.
        most_bytes: The most that was held at once.
        begun: For each request its length, and what was held before it.
    """

    def __init__(self, inner: MemoryStore, *, until_answered: bool = False) -> None:
        super().__init__(inner)
        self._until_answered = until_answered
        self.held_bytes = 0
        self.most_bytes = 0
        self.begun: list[tuple[int, int]] = []

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        self.hold(length_bytes)
        data = super().get_range(key, offset_bytes, length_bytes, if_match=if_match)
        if self._until_answered:
            self.hold(-length_bytes)
        return data

    def hold(self, length_bytes: int) -> None:
        with self._mutex:
            if length_bytes > 0:
                self.begun.append((length_bytes, self.held_bytes))
            self.held_bytes += length_bytes
            self.most_bytes = max(self.most_bytes, self.held_bytes)


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "IN_FLIGHT_BYTES", LIMIT)
    monkeypatch.setattr(ranges, "MAX_RANGE_BYTES", 400)
    monkeypatch.setattr(near_ranges, "JOIN_GAP_BYTES", 0)


def remote_with(lengths: list[int], threads: int) -> tuple[Remote, WeighingStore, list[RemoteValue]]:
    """Returns a remote with values that lie apart from each other in one object."""
    inner = MemoryStore()
    wanted: list[RemoteValue] = []
    data = b""
    for number, length in enumerate(lengths):
        value = bytes([number % 251]) * length
        wanted.append(
            RemoteValue(f"k{number}", digest_of(value), 0, ObjectRef("pack/1", "", 0), len(data), length)
        )
        data += value + b"."
    etag = inner.put("db.d/pack/1", data)
    ref = ObjectRef("pack/1", etag, len(data))
    store = WeighingStore(inner)
    return Remote(store, ObjectNames("db"), threads=threads), store, [item._replace(ref=ref) for item in wanted]


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
def test_what_is_fetched_and_not_let_go_stays_within_the_bound(threads: int) -> None:
    lengths = [300, 10, 390, 120, 400, 77] * 30
    remote, store, wanted = remote_with(lengths, threads)
    seen = 0
    for group, data in fetch_ranges(remote, wanted):
        assert isinstance(data, bytes)
        assert all(value is not None for _, value in sound_values(group, data))
        seen += len(group)
        store.hold(-len(data))
    assert seen == len(lengths)
    assert store.held_bytes == 0
    assert store.most_bytes <= LIMIT
    # As many as there is room for: the bound is used.
    assert store.most_bytes > (0 if threads == 1 else 400)


@pytest.mark.parametrize("threads", [1, 64])
def test_a_value_above_the_bound_travels_alone_and_in_parts(threads: int) -> None:
    lengths = [300, 300, 300, 2_500, 300, 300]
    remote, store, wanted = remote_with(lengths, threads)
    for _, data in fetch_ranges(remote, wanted):
        assert isinstance(data, bytes)
        store.hold(-len(data))
    assert max(length for length, _ in store.begun) <= 400
    # The parts of the large one, each of them after those before it and nothing else.
    held = [held for length, held in store.begun if length in (400, 100)]
    assert held == [0, 400, 800, 1200, 1600, 2000, 2400]


def test_a_load_with_many_threads_stays_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LARGE_VALUE_BYTES", 10_000)
    monkeypatch.setattr(fetch, "PART_BYTES", LIMIT)
    bench = Bench(tmp_path)
    values = {f"k{number:03}": bytes([number]) * (500 + number) for number in range(100)} | many_large(2)
    make(bench, values)
    with bench.open("b", "c") as db:
        remote = db._session.remote
        remote.threads = 32
        store = WeighingStore(remote.store, until_answered=True)  # type: ignore[arg-type]
        remote.store = store
        assert db.load_items() == {}
        assert dict(db.items()) == values
    assert store.most_bytes <= LIMIT
    assert sum(length for length, _ in store.begun) >= sum(map(len, values.values()))


def test_packs_of_a_push_stay_within_the_bound() -> None:
    # One is filled while the others travel.
    assert packing.PACKS_IN_FLIGHT * PACK_BYTES <= IN_FLIGHT_BYTES


def test_once_the_store_is_out_of_reach_nothing_more_is_asked() -> None:
    remote, store, wanted = remote_with([300] * 20, 1)

    def refuse(*_: object, **__: object) -> bytes:
        store.hold(1)
        raise OfflineError("no route")

    store.get_range = refuse  # type: ignore[method-assign]
    outcomes = [data for _, data in fetch_ranges(remote, wanted)]
    assert len(outcomes) == 20
    assert all(isinstance(data, OfflineError) for data in outcomes)
    assert len(store.begun) == 1


def test_outcomes_come_in_order_and_a_failure_ends_it() -> None:
    def work(number: int) -> int:
        if number == 7:
            raise Error("seven")
        return number * 10

    running = side_by_side(range(20), work, size_bytes=lambda _: 100, threads=5)
    assert [next(running) for _ in range(7)] == [(number, number * 10) for number in range(7)]
    with pytest.raises(Error, match="seven"):
        next(running)


def test_no_task_is_taken_before_there_is_room() -> None:
    taken: list[int] = []

    def generate() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    running = side_by_side(generate(), str, size_bytes=lambda _: 600, threads=4)
    assert next(running) == (0, "0")
    # The one in flight, and the one that waits for room.
    assert taken == [0, 1]
    assert [outcome for _, outcome in running] == ["1", "2", "3", "4", "5"]


def test_threads_share_a_budget() -> None:
    budget = ByteBudget(100)
    order: list[str] = []

    def second() -> None:
        with budget.taking(50):
            order.append("second")

    with ThreadPoolExecutor(max_workers=1) as pool:
        with budget.taking(60):
            future = pool.submit(second)
            with budget.taking(40):
                order.append("first")
        future.result()
    assert order == ["first", "second"]


def test_more_than_the_whole_budget_is_taken_alone() -> None:
    budget = ByteBudget(100)
    together = 0
    most = 0
    mutex = threading.Lock()

    def take(size: int) -> None:
        nonlocal together, most
        with budget.taking(size):
            with mutex:
                together += size
                most = max(most, together if together != 500 else 0)
            with mutex:
                together -= size

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(take, [30, 500, 60, 40, 500, 70, 90, 10] * 10))
    assert most <= 100
