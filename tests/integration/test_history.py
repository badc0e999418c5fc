"""A recorded history of commits and reads, under random kills, is that of one database.

Every commit sets one key of its own and the common key `last` to something unique, so that from what the
last root says of each key, the state at every root before it can be told: a read has to be one of these.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import random
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.local.journal.journal import Journal
from tests.campaigns import amounts
from tests.pairs import commits_of, index_of
from tests.places import Place, new_place
from tests.processes import Worker, first_to_speak, workers
from tests.writer_processes import Event, open_at, read_history, state_digest, write_history

KEPT_LOG_ROWS = 10_000


@dataclass
class Seat:
    """A place at the table: one local file, and the processes that one after another work on it."""

    number: int
    path: Path
    reads_only: bool
    lives: int = 0
    worker: Worker | None = None
    events: list[Event] = field(default_factory=list)


@dataclass
class Outcome:
    """What the last root says, as somebody sees it who has seen nothing yet."""

    log: list[tuple[int, str]]
    seq_of: dict[str, int]
    content: dict[str, Any]


@pytest.mark.parametrize("kind", ["directory"])
@pytest.mark.parametrize("pace", amounts((2.5, 0.6), (6.0, 1.5)))
def test_a_short_history_is_that_of_one_database(
    kind: str, pace: tuple[float, float], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = new_place(kind, request, tmp_path)
    seconds, rest_seconds = pace
    kills = run_history(place, tmp_path, seconds=seconds, rest_seconds=rest_seconds, writers=3, readers=1, seed=1)
    assert kills >= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "ministack", "failing"])
def test_a_minute_of_eight_processes_is_that_of_one_database(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = new_place(kind, request, tmp_path)
    kills = run_history(place, tmp_path, seconds=60.0, writers=6, readers=2, seed=2)
    assert kills >= 20


@pytest.mark.parametrize("left", ["empty", "without facts"])
def test_a_reader_goes_on_where_another_was_killed_making_the_copy(
    left: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = new_place("directory", request, tmp_path)
    content = {"a": 1, "b": "x" * 10_000}
    with open_at(place, tmp_path / "first.blt", "n") as db:
        db.update(content)
        db.changes().push()
    path = tmp_path / "copy.blt"
    journal = tmp_path / "copy.blt.journal"
    open_at(place, path, "r").close()
    for part in tmp_path.glob("copy.blt.journal*"):
        part.unlink()
    if left == "empty":
        with contextlib.closing(sqlite3.connect(journal)) as raw:
            raw.execute("PRAGMA journal_mode = WAL")
    else:
        Journal.open(journal, create=True).close()
    with open_at(place, path, "r") as db:
        assert dict(db.items()) == content
        assert not db.writable
        assert list(db.changes().iter_changes()) == []


def run_history(
    place: Place,
    folder: Path,
    *,
    seconds: float,
    writers: int,
    readers: int,
    seed: int,
    rest_seconds: float = 1.5,
) -> int:
    """Records a history, killing processes at random, and checks it; returns how many were killed.

    Args:
        rest_seconds: How long at most no process is killed.
    """
    chance = random.Random(seed)
    with open_at(place, folder / "first.blt", "n", lock=None) as db:
        db.changes().push()
    seats = [
        Seat(number, folder / f"seat{number}.blt", reads_only=number >= writers)
        for number in range(writers + readers)
    ]
    with workers() as start:

        def sit_down(seat: Seat) -> Worker:
            seat.lives += 1
            work = read_history if seat.reads_only else write_history
            seat.worker = start(work, place, seat.path, f"{seat.number}/{seat.lives}")
            return seat.worker

        by_worker = {sit_down(seat): seat for seat in seats}
        kills = 0
        deadline = time.monotonic() + seconds
        next_kill = time.monotonic() + chance.uniform(0.2, rest_seconds)
        while (now := time.monotonic()) < deadline:
            for worker in first_to_speak(by_worker, max(0.0, min(next_kill, deadline) - now)):
                by_worker[worker].events.append(worker.receive())
            if time.monotonic() >= next_kill:
                victim = chance.choice(list(by_worker))
                seat = by_worker.pop(victim)
                victim.kill()
                seat.events += victim.drain()
                by_worker[sit_down(seat)] = seat
                kills += 1
                next_kill = time.monotonic() + chance.uniform(0.2, rest_seconds)
        for worker in by_worker:
            worker.send("stop")
        for worker, seat in by_worker.items():
            seat.events += worker.finish()
    check(seats, last_root(place, folder / "last.blt"))
    return kills


def last_root(place: Place, path: Path) -> Outcome:
    with open_at(place, path, "r") as db:
        content = dict(db.items())
        log = [(record.seq, record.commit_id) for record in commits_of(db)]
        seq_of = {item.row.key: item.row.seq for item in index_of(db).scan()}
    return Outcome(log, seq_of, content)


# -- what holds of a history -------------------------------------------------------------------


def check(seats: Sequence[Seat], outcome: Outcome) -> None:
    """Holds a history to what the last root says."""
    labels = labels_by_seq(outcome)
    events = [event for seat in seats for event in seat.events]
    commits = [event for event in events if event.kind == "commit"]
    reads = [event for event in events if event.kind == "read"]
    assert commits
    assert reads
    check_log(outcome, labels)
    check_commits(commits, outcome)
    tried = {event.label for event in events if event.kind == "try"}
    assert {label for group in labels.values() for label in group} <= tried
    check_reads(reads, outcome, labels)
    seq_of_label = {group[-1]: seq for seq, group in labels.items()} | {None: 1}
    for seat in seats:
        check_never_back(seat.events, seq_of_label)
    check_real_time([*commits, *reads], seq_of_label)


def labels_by_seq(outcome: Outcome) -> dict[int, list[str]]:
    """Tells which labels each commit wrote, in the order of their writing; the last one is its `last`.

    A commit can hold more than one: what a killed process had committed locally, its successor pushes.
    """
    labels: dict[int, list[str]] = defaultdict(list)
    for key, seq in outcome.seq_of.items():
        if key.startswith("seq/"):
            labels[seq].append(key.removeprefix("seq/"))
    for group in labels.values():
        group.sort(key=lambda label: [int(part) for part in label.split("/")])
        assert len({label.partition("/")[0] for label in group}) == 1, f"two writers in one commit: {group}"
    return dict(labels)


def check_log(outcome: Outcome, labels: dict[int, list[str]]) -> None:
    """Every root is in the log once, and every commit but the first wrote something."""
    seqs = [seq for seq, _ in outcome.log]
    assert len(seqs) < KEPT_LOG_ROWS
    assert seqs == list(range(1, len(seqs) + 1))
    assert len({commit_id for _, commit_id in outcome.log}) == len(seqs)
    assert sorted(labels) == seqs[1:]
    assert outcome.content["last"] == labels[seqs[-1]][-1]


def check_commits(commits: Sequence[Event], outcome: Outcome) -> None:
    """Every acknowledged commit is an ancestor of the last root, at its place, with what it wrote."""
    seq_of_commit = {commit_id: seq for seq, commit_id in outcome.log}
    for event in commits:
        assert event.commit_id is not None
        assert seq_of_commit.get(event.commit_id) == event.seq == outcome.seq_of.get(f"seq/{event.label}"), event
    assert len({event.commit_id for event in commits}) == len(commits)


def check_reads(reads: Sequence[Event], outcome: Outcome, labels: dict[int, list[str]]) -> None:
    """Every read saw exactly what one root says."""
    seq_of_last: dict[str | None, int] = {group[-1]: seq for seq, group in labels.items()} | {None: 1}
    wanted = {}
    for event in reads:
        assert event.label in seq_of_last, f"a read saw what no root says: {event}"
        wanted[seq_of_last[event.label]] = event
    digests = dict(states(outcome, labels, set(wanted)))
    for event in reads:
        assert event.state == digests[seq_of_last[event.label]], f"a read saw a mixture: {event}"


def states(outcome: Outcome, labels: dict[int, list[str]], wanted: set[int]) -> Iterator[tuple[int, str]]:
    """Yields the digests of the states at some commits."""
    content: dict[str, Any] = {}
    for seq in range(1, len(outcome.log) + 1):
        for label in labels.get(seq, []):
            content |= {f"seq/{label}": outcome.content[f"seq/{label}"], "last": label}
        if seq in wanted:
            yield seq, state_digest(content)


def seq_seen(event: Event, seq_of_label: dict[str | None, int]) -> int:
    return event.seq if event.kind == "commit" else seq_of_label[event.label]


def check_never_back(events: Sequence[Event], seq_of_label: dict[str | None, int]) -> None:
    """What one local file shows never goes back, not over a kill either."""
    seen = [event for event in events if event.kind != "try"]
    for before, after in itertools.pairwise(seen):
        assert seq_seen(before, seq_of_label) <= seq_seen(after, seq_of_label), (before, after)


def check_real_time(events: Sequence[Event], seq_of_label: dict[str | None, int]) -> None:
    """What began after something had ended comes after it: the history is linearizable."""
    by_end = sorted(events, key=lambda event: event.ended_seconds)
    ends = [event.ended_seconds for event in by_end]
    newest = list(itertools.accumulate((seq_seen(event, seq_of_label) for event in by_end), max))
    for event in events:
        ended_before = bisect.bisect_left(ends, event.began_seconds)
        if ended_before:
            least = newest[ended_before - 1] + (event.kind == "commit")
            assert seq_seen(event, seq_of_label) >= least, event


# -- the checks themselves ---------------------------------------------------------------------


def invented() -> tuple[list[Seat], Outcome]:
    """A sound history of two writers and a reader, that took one second for each event."""
    outcome = Outcome(
        log=[(1, "c1"), (2, "c2"), (3, "c3")],
        seq_of={"seq/0/1/1": 2, "seq/1/1/1": 3, "last": 3},
        content={"seq/0/1/1": 1, "seq/1/1/1": 1, "last": "1/1/1"},
    )
    at_two = state_digest({"seq/0/1/1": 1, "last": "0/1/1"})
    events = [
        [Event("try", "0/1/1", 0, 0), Event("commit", "0/1/1", 0, 1, 2, "c2")],
        [Event("try", "1/1/1", 2, 2), Event("commit", "1/1/1", 2, 3, 3, "c3")],
        [
            Event("read", None, 0, 0.5, state=state_digest({})),
            Event("read", "0/1/1", 1.5, 2.5, state=at_two),
            Event("read", "1/1/1", 3.5, 4, state=state_digest(outcome.content)),
        ],
    ]
    return [Seat(n, Path(), n == 2, events=each) for n, each in enumerate(events)], outcome


def test_a_sound_history_passes() -> None:
    check(*invented())


@pytest.mark.parametrize(
    ("seat", "number", "change"),
    [
        pytest.param(0, 1, {"commit_id": "gone"}, id="an acknowledged commit is not in the log"),
        pytest.param(0, 1, {"commit_id": "c3"}, id="a commit stands elsewhere in the log"),
        pytest.param(0, 0, {"label": "9/9/9"}, id="a key is there that nobody wrote"),
        pytest.param(2, 1, {"state": state_digest({"last": "0/1/1"})}, id="a read saw a mixture"),
        pytest.param(2, 1, {"label": "7/7/7"}, id="a read saw what no root says"),
        pytest.param(2, 1, {"began_seconds": 3.2, "ended_seconds": 3.4}, id="a read came too late"),
        pytest.param(1, 1, {"began_seconds": -2, "ended_seconds": -1}, id="commits are out of order"),
        pytest.param(
            2, 2, {"label": None, "state": state_digest({}), "began_seconds": 0.1}, id="a read went back"
        ),
    ],
)
def test_an_unsound_history_is_found_out(seat: int, number: int, change: dict[str, Any]) -> None:
    seats, outcome = invented()
    seats[seat].events[number] = dataclasses.replace(seats[seat].events[number], **change)
    with pytest.raises(AssertionError):
        check(seats, outcome)


def test_a_commit_that_is_in_the_log_twice_is_found_out() -> None:
    seats, outcome = invented()
    outcome.log[0] = (1, "c2")
    with pytest.raises(AssertionError):
        check(seats, outcome)
