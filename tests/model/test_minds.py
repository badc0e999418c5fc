"""Clients that disagree about a store, or that it changes under: no commit is lost, in any interleaving tried."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest

from ebooklet_tx import WeakStoreWarning
from tests.memory_store import MemoryStore
from tests.model.minds import Mind, World

LOCKS = (None, "exclusive")
BEFORE = ("disagree", "ignored", "refused", "versioning")
SEEDS = {"disagree": (3, 30, 34), "ignored": (3, 9, 49), "refused": (1, 2), "versioning": (0, 9)}
"""Interleavings that need what is tested here."""

MANY_SEEDS = 100


def minds_of(chance: random.Random, count: int) -> list[Mind]:
    return [Mind(chance.choice(("auto", True, False)), chance.choice(LOCKS)) for _ in range(count)]


def begun(world: World, told: bool | str) -> None:
    """Makes the empty database, by a client that is told something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStoreWarning)
        with world.open("first", Mind(told, None), "n") as db:
            db.changes().push()


def learns(store: MemoryStore) -> None:
    store.conditions = "work"


def switches_versioning_on(store: MemoryStore) -> None:
    # The root and the locks that are there refuse every ETag; conditions on new objects are ignored.
    store.stuck = {key for key in store.objects if key == "db" or key.startswith("db.lock")}
    store.conditions = "ignored"


def suspends_versioning(store: MemoryStore) -> None:
    # As seen: the old objects refuse as before, and new ones pass a probe.
    store.conditions = "work"


def run(folder: Path, seed: int, before: str) -> None:
    chance = random.Random(f"{before} {seed}")
    store = MemoryStore("work" if before in ("disagree", "versioning") else before)  # type: ignore[arg-type]
    world = World(folder, store)
    minds = minds_of(chance, 3)
    changes = {}
    first = chance.randint(10, 60)
    if before == "versioning":
        changes[first] = lambda: switches_versioning_on(store)
        changes[first + chance.randint(5, 60)] = lambda: suspends_versioning(store)
    elif before != "disagree":
        changes[first] = lambda: learns(store)
    # Who is told that conditions work where they don't has been told wrong: it can't have been the first.
    weak = before in ("ignored", "refused")
    told = chance.choice(("auto", False) if weak else ("auto", True, False))
    begun(world, told)
    world.run(minds, seed, changes)
    assert world.contents() == world.expected(minds), f"{before} {seed}: {minds}"


@pytest.mark.parametrize(("before", "seed"), [(before, seed) for before in BEFORE for seed in SEEDS[before]])
def test_no_commit_is_lost(tmp_path: Path, before: str, seed: int) -> None:
    run(tmp_path, seed, before)


@pytest.mark.slow
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("seed", range(MANY_SEEDS))
def test_no_commit_is_lost_in_many_interleavings(tmp_path: Path, before: str, seed: int) -> None:
    run(tmp_path, seed, before)
