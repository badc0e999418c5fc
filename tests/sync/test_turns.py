"""Writers that commit at once take turns: nobody waits for long, and little time is lost between commits.

The writers run as threads of which one is awake at a time, on a clock that jumps to the next that wakes. So each
outcome is the same on every machine.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ebooklet_tx.records import CommitRecord
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit.turns import ME, Turns, count_before, round_of
from tests.campaigns import amounts

BUILD_SECONDS = 0.005


class World:
    """A clock, and the root that all writers swap."""

    def __init__(self, request_seconds: float) -> None:
        self.now = 0.0
        self.records: list[CommitRecord] = []
        self.request_seconds = request_seconds
        self._asleep: list[tuple[float, int, threading.Event]] = []
        self._awake = 0
        self._number = 0
        self._idle = threading.Event()

    def sleep(self, seconds: float) -> None:
        """Called by a writer: lets the others go on until so much time has passed."""
        wakes = threading.Event()
        self._number += 1
        heapq.heappush(self._asleep, (self.now + seconds, self._number, wakes))
        self._idle.set()
        wakes.wait()

    def run(self, writers: list[Callable[[], None]]) -> None:
        """Runs writers to their ends, one awake at a time."""

        def work(writer: Callable[[], None]) -> None:
            self.sleep(0.0)
            try:
                writer()
            finally:
                self._idle.set()

        threads = [threading.Thread(target=work, args=(writer,), daemon=True) for writer in writers]
        for thread in threads:
            self._idle.clear()
            thread.start()
            self._idle.wait(60)
        while self._asleep:
            self.now, _, wakes = heapq.heappop(self._asleep)
            self._idle.clear()
            wakes.set()
            assert self._idle.wait(60)
        for thread in threads:
            thread.join(60)


@dataclass
class Writer:
    """One session: it knows the root up to a commit, and swaps in its own on top of that."""

    world: World
    name: str
    draws: random.Random
    knows: int = 0
    took: list[float] = field(default_factory=list)
    requests: int = 0

    def __post_init__(self) -> None:
        self.turns = Turns(
            RetryPolicy(clock=lambda: self.world.now, sleep=self.world.sleep, random=self.draws.random)
        )

    def pull(self) -> bool:
        """Reads the root."""
        self.requests += 1
        self.world.sleep(self.world.request_seconds)
        before, self.knows = self.knows, len(self.world.records)
        return self.knows > before

    def newest(self) -> list[CommitRecord]:
        """What the root that this writer knows tells of."""
        return self.world.records[max(0, self.knows - 64) : self.knows][::-1]

    def signed(self) -> CommitRecord:
        """Returns the record of a commit that this writer makes now."""
        stamp_us = 10**9 + int(self.world.now * 1e6)
        return CommitRecord(self.knows, f"{self.knows:032x}", stamp_us, self.name, 1, 0, 1)

    def push(self) -> None:
        """Commits once, as often as another comes first."""
        began = self.world.now
        while True:
            self.turns.await_turn(self.newest, self.pull)
            round_began = self.world.now
            self.world.sleep(BUILD_SECONDS + self.world.request_seconds / 2)
            applied = len(self.world.records) == self.knows
            if applied:
                self.knows += 1
                self.world.records.append(self.signed())
            self.requests += 1
            self.world.sleep(self.world.request_seconds / 2)
            if applied:
                self.turns.won(self.knows, self.world.now - round_began)
                break
            self.pull()
            self.turns.lost(self.world.now - round_began)
        self.took.append(self.world.now - began)


@pytest.mark.parametrize("request_seconds", [0.003, 0.03])
@pytest.mark.parametrize("at_once", [2, 8, 30])
@pytest.mark.parametrize("seed", amounts(1, 8))
def test_all_get_their_turn(seed: int, at_once: int, request_seconds: float) -> None:
    """Each slot makes the pushes of one writer after the other, each a new process."""
    world = World(request_seconds)
    writers: list[Writer] = []

    def slot(number: int) -> Callable[[], None]:
        def work() -> None:
            for turn in range(4):
                writer = Writer(world, f"w{number}.{turn}", random.Random(f"{seed} {number} {turn}"))
                writers.append(writer)
                writer.pull()
                for _ in range(10):
                    writer.push()
                    world.sleep(0.001)

        return work

    world.run([slot(number) for number in range(at_once)])
    alone = BUILD_SECONDS + request_seconds
    took = [each for writer in writers for each in writer.took]
    rate = len(took) / world.now * (alone + 0.001)
    requests = sum(writer.requests for writer in writers) / len(took)
    assert len(took) == at_once * 40 == len(world.records)
    assert rate >= 0.6
    # Two that never meet anybody else can keep a third waiting for as long as they push one after the other.
    assert max(took) <= 6 * max(at_once, 5) * alone
    assert requests <= 16


def test_a_writer_alone_never_waits() -> None:
    world = World(0.03)
    writer = Writer(world, "one", random.Random(1))

    def work() -> None:
        for _ in range(20):
            writer.push()

    world.run([work])
    assert writer.requests == 20
    assert writer.took == pytest.approx([0.035] * 20)


@pytest.mark.parametrize(("age_seconds", "most_seconds"), [(0, 1.5), (60, 0.6)])
def test_a_writer_that_met_others_once_soon_goes_alone_again(age_seconds: float, most_seconds: float) -> None:
    world = World(0.03)
    writer = Writer(world, "one", random.Random(1))

    def commit_of(seq: int, age_seconds: float) -> CommitRecord:
        return CommitRecord(seq, f"{seq:032x}", int(1e9 - age_seconds * 1e6), f"w{seq}", 1, 0, 1)

    def work() -> None:
        world.records += [commit_of(seq, age_seconds) for seq in range(1, 9)]
        writer.pull()
        world.records.append(commit_of(9, 0.0))
        for _ in range(6):
            writer.push()

    world.run([work])
    assert writer.took[-3:] == pytest.approx([0.035] * 3)
    assert sum(writer.took) < most_seconds


@pytest.mark.parametrize(
    ("newest_first", "expected"),
    [("", ""), ("a", "a"), ("abca", "abc"), ("aab", "a"), ("abcde", "abcde"), ("caca", "ca")],
)
def test_a_round_is_the_newest_commits_as_long_as_each_is_of_another(newest_first: str, expected: str) -> None:
    assert round_of(newest_first) == list(expected)


def test_the_oldest_of_a_round_goes_first() -> None:
    assert [count_before("dcbad", each) for each in "abcdx"] == [0, 1, 2, 3, None]
    # One that has ended is left out once the others have come again.
    assert count_before("dcbdcb", "a") is None
    assert count_before(["b", ME, "c"], ME) == 1
    assert count_before([], ME) is None


def test_writers_of_one_machine_with_a_queue_take_turns_as_one() -> None:
    writer = Writer(World(0.03), "one", random.Random(1))
    names = ["a:1", "b:1", "a:2"]
    records = [CommitRecord(seq, f"{seq:032x}", 10**9, name, 1, 0, 1) for seq, name in enumerate(names, 1)][::-1]
    assert writer.turns._before(records) is None
    writer.turns.as_one, writer.turns._writers = "a:", {}
    assert writer.turns._before(records) == 1


def test_commits_of_a_database_that_was_made_anew_are_not_waited_for() -> None:
    world = World(0.03)
    writer = Writer(world, "one", random.Random(1))
    for seq in range(500, 508):
        writer.turns._writers[seq] = f"w{seq}"
    world.records.append(CommitRecord(1, "1" * 32, 0, "other", 1, 0, 1))
    assert writer.turns._before(world.records) is None
    assert writer.turns._writers == {1: "other"}
