"""Many processes count together, and no increment is lost, whatever the store and the lock."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebooklet_tx import WeakStoreWarning
from tests.campaigns import amounts
from tests.pairs import commits_of
from tests.places import MAKERS, Place, new_place
from tests.processes import workers
from tests.writer_processes import count, open_at

COUNTERS = 5
SECONDS_AT_MOST = 1500.0


@dataclass(frozen=True)
class Size:
    """How many processes make how many pushes each."""

    processes: int
    pushes: int


def small(kind: str, many: Size) -> Size:
    """The size for every day; where writers take turns by listings, each commit takes a moment."""
    return many if kind in ("directory", "ministack") else Size(3, 2)


FULL = Size(16, 25)


@pytest.mark.parametrize(
    ("kind", "lock"),
    [
        *((kind, lock) for kind in ("directory", "ministack", "rclone") for lock in (None, "exclusive")),
        ("refusing", None),
        ("unquoted", None),
        ("failing", "exclusive"),
    ],
)
@pytest.mark.parametrize("many", amounts(Size(4, 3), Size(5, 5)))
def test_every_increment_counts(
    kind: str, lock: str | None, many: Size, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    all_count(new_place(kind, request, tmp_path), tmp_path, small(kind, many), lock)


@pytest.mark.slow
@pytest.mark.parametrize("lock", [None, "exclusive"])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_increment_of_sixteen_writers_counts(
    kind: str, lock: str | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    all_count(new_place(kind, request, tmp_path), tmp_path, FULL, lock)


def all_count(place: Place, folder: Path, size: Size, lock: str | None) -> None:
    """Lets processes count all at once and checks the sums, and that each push was one commit."""
    begin(place, folder / "first.blt")
    with workers() as start:
        crowd = [
            start(count, place, folder / f"{number}.blt", number, size.pushes, COUNTERS, lock)
            for number in range(size.processes)
        ]
        for worker in crowd:
            assert worker.receive() == "ready"
        for worker in crowd:
            worker.send("go")
        commit_ids = [commit_id for worker in crowd for commit_id in worker.finish(SECONDS_AT_MOST)]
        # In each process the first to open finds out how the store is, and says so once.
        expected = ["WeakStoreWarning"] if place.weak else []
        assert [worker.warned for worker in crowd] == [expected] * size.processes
    total = size.processes * size.pushes
    with open_at(place, folder / "last.blt", "r") as db:
        assert dict(db.items()) == {
            **{f"own/{number}": size.pushes for number in range(size.processes)},
            **{f"shared/{each}": total for each in range(COUNTERS)},
        }
        log = [(record.seq, record.commit_id) for record in commits_of(db)]
    assert [seq for seq, _ in log] == list(range(1, total + 2))
    assert sorted(commit_id for _, commit_id in log[1:]) == sorted(commit_ids)


def begin(place: Place, path: Path) -> None:
    """Makes the empty database that everybody then works on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStoreWarning)
        with open_at(place, path, "n") as db:
            assert db.changes().push()
