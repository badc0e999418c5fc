"""Many processes, which change their minds about a store that changes too, lose no commit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from ebooklet_tx import WeakStoreWarning
from tests.pairs import commits_of
from tests.places import Place, new_place
from tests.processes import Worker, first_to_speak, workers
from tests.s3_proxy import Mode, S3Proxy
from tests.writer_processes import count_changing_its_mind, open_at

SECONDS_AT_MOST = 1500.0
CHANGES = {
    "disagree": (Mode.PLAIN, Mode.PLAIN),
    "learnt": (Mode.IGNORES, Mode.PLAIN),
    "allowed": (Mode.REFUSES, Mode.PLAIN),
    "versioning": (Mode.PLAIN, Mode.VERSIONED, Mode.SUSPENDED),
}
"""How the store appears, one after another."""

KINDS = {Mode.PLAIN: "plain", Mode.IGNORES: "ignoring", Mode.REFUSES: "refusing"}


@pytest.mark.parametrize("change", ["learnt", "versioning"])
def test_no_commit_is_lost_when_the_store_changes(
    change: str, proxy_in: Callable[[Mode], S3Proxy], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    all_count(change, proxy_in, request, tmp_path, of_each=1, pushes=2)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_no_commit_of_twelve_exclusive_and_twelve_optimistic_writers_is_lost(
    change: str, proxy_in: Callable[[Mode], S3Proxy], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    all_count(change, proxy_in, request, tmp_path, of_each=12, pushes=2)


def all_count(
    change: str,
    proxy_in: Callable[[Mode], S3Proxy],
    request: pytest.FixtureRequest,
    folder: Path,
    *,
    of_each: int,
    pushes: int,
) -> None:
    """Lets exclusive and optimistic writers count all at once, and changes the store on the way."""
    modes = list(CHANGES[change])
    place = new_place(KINDS[modes[0]], request, folder)
    proxy = proxy_in(modes.pop(0))
    begin(place, folder / "first.blt")
    total = 2 * of_each * pushes
    moments = [total * (number + 1) // (len(modes) + 2) for number in range(len(modes))]
    with workers() as start:
        crowd = [
            start(count_changing_its_mind, place, folder / f"{number}.blt", number, pushes, lock)
            for number, lock in enumerate([None, "exclusive"] * of_each)
        ]
        for worker in crowd:
            assert worker.receive() == "ready"
        for worker in crowd:
            worker.send("go")

        def pushed(count: int) -> None:
            while moments and count >= moments[0]:
                moments.pop(0)
                proxy.mode = modes.pop(0)

        commit_ids = listen(crowd, pushed)
    assert modes == []
    with open_at(place, folder / "last.blt", "r") as db:
        own = {f"own/{number}": pushes for number in range(2 * of_each)}
        assert dict(db.items()) == {**own, "shared/0": total}
        logged = {record.commit_id for record in commits_of(db)}
    assert len(set(commit_ids)) == total
    assert logged >= set(commit_ids)


def listen(crowd: list[Worker], pushed: Callable[[int], None]) -> list[str]:
    """Returns what the workers say until all have ended, and tells after each word how many there were."""
    said: list[str] = []
    at_work = list(crowd)
    while at_work:
        speaking = first_to_speak(at_work, SECONDS_AT_MOST)
        assert speaking, f"nobody said anything after {len(said)} pushes"
        for worker in speaking:
            word = worker.receive()
            if word is None:
                at_work.remove(worker)
            else:
                said.append(word)
                pushed(len(said))
    return said


def begin(place: Place, path: Path) -> None:
    """Makes the empty database that everybody then works on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStoreWarning)
        with open_at(place, path, "n") as db:
            assert db.changes().push()
