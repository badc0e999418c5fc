"""Clients of different minds about one store, run by a seeded schedule, a request at a time.

The code is the real one: each client is a thread that stops before each request to the store until the
schedule lets it on, and everybody else stands still meanwhile. So one seed is one interleaving.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ebooklet_tx
from ebooklet_tx import MISSING, Conflict, Database
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit import commit_mode
from tests.doors import open_database
from tests.memory_store import MemoryStore
from tests.pairs import N_BUCKETS

PATIENCE_SECONDS = 60.0
# Who waits for a lock lets the others on at each look; the schedule decides how long that is.
POLICY = replace(RetryPolicy.without_backoff(), lock_sleep=lambda _seconds: None)


def added_up(conflict: Conflict) -> int:
    """Merges two counts: what both sides added to their common base."""
    base, ours, theirs = (
        0 if value is MISSING else value for value in (conflict.base, conflict.ours, conflict.theirs)
    )
    return int(ours + theirs - base)


@dataclass
class Schedule:
    """Lets threads on one at a time, in an order that a seed decides."""

    seed: int
    steps: int = 0
    at_step: dict[int, Callable[[], None]] = field(default_factory=dict)
    _waiting: set[int] = field(default_factory=set)
    _ours: set[int] = field(default_factory=set)
    _turn: int | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def on_request(self, _kind: str, _key: str) -> None:
        """Stops a client before a request; threads of the package's own pass."""
        me = threading.get_ident()
        if me not in self._ours:
            return
        with self._changed:
            self._waiting.add(me)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._turn == me, PATIENCE_SECONDS):
                raise TimeoutError("never let on")
            self._turn = None
            self._waiting.discard(me)

    def run(self, works: list[Callable[[], None]]) -> None:
        """Runs all to their end; raises what the first of them raised."""
        failures: list[BaseException] = []
        running = len(works)

        def one(work: Callable[[], None]) -> None:
            nonlocal running
            with self._changed:
                self._ours.add(threading.get_ident())
            try:
                self.on_request("begin", "")
                work()
            except BaseException as error:
                failures.append(error)
            finally:
                with self._changed:
                    self._ours.discard(threading.get_ident())
                    running -= 1
                    self._changed.notify_all()

        threads = [threading.Thread(target=one, args=(work,)) for work in works]
        # The order in which they begin is the schedule's as well: one after the other to its first stop.
        order = []
        for thread in threads:
            known = set(self._waiting)
            thread.start()
            with self._changed:
                self._changed.wait_for(lambda known=known: bool(self._waiting - known), PATIENCE_SECONDS)
                order += list(self._waiting - known)
        chance = random.Random(self.seed)
        while True:
            with self._changed:
                ready = self._changed.wait_for(
                    lambda: self._turn is None and len(self._waiting) == running, PATIENCE_SECONDS
                )
                if not ready or failures or not running:
                    break
                self.steps += 1
                act = self.at_step.pop(self.steps, None)
                if act is not None:
                    act()
                self._turn = chance.choice([each for each in order if each in self._waiting])
                self._changed.notify_all()
        if failures:
            with self._changed:
                self._ours.clear()
                self._changed.notify_all()
            raise failures[0]
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        if running:
            raise TimeoutError(f"{running} clients did not come to their end")


@dataclass(frozen=True)
class Mind:
    """A client: what it is told of the store, and whether it takes the lock."""

    conditional_writes: bool | str
    lock: str | None


@dataclass
class World:
    """A store with clients that each push one more for a counter of their own and for a common one."""

    folder: Path
    store: MemoryStore
    pushes: int = 2

    def open(self, name: str, mind: Mind, flag: str = "c") -> Database:
        # Each client is a process of its own: what another has found out is not known to it.
        commit_mode.probe_results.clear()
        return open_database(
            S3Connection("id", "key", "db", "bucket", "http://127.0.0.1:9"),
            self.folder / f"{name}.blt",
            flag,
            "orjson",
            N_BUCKETS,
            lock=mind.lock,
            lock_timeout=PATIENCE_SECONDS,
            retry=POLICY,
            conditional_writes=mind.conditional_writes,
            wrap_store=lambda _: self.store,
        )

    def count(self, name: str, mind: Mind) -> None:
        """Pushes some times; with a lock the database is opened each time, as only that lets others in."""
        if mind.lock is None:
            with self.open(name, mind) as db:
                for _ in range(self.pushes):
                    self._count_one(name, db)
            return
        for _ in range(self.pushes):
            with self.open(name, mind) as db:
                self._count_one(name, db)

    def _count_one(self, name: str, db: Database) -> None:
        for key in (f"own/{name}", "shared"):
            db[key] = db.get(key, 0) + 1
        db.changes().push(on_conflict=added_up)

    def run(self, minds: list[Mind], seed: int, changes: dict[int, Callable[[], None]] | None = None) -> Schedule:
        """Lets all of them count, by a seed's schedule."""
        schedule = Schedule(seed, at_step=dict(changes or {}))
        self.store.on_request = schedule.on_request
        works = [lambda name=f"{number}", mind=mind: self.count(name, mind) for number, mind in enumerate(minds)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ebooklet_tx.WeakStoreWarning)
            schedule.run(works)
        self.store.on_request = lambda kind, key: None
        return schedule

    def contents(self) -> dict[str, Any]:
        """What a reader sees who comes afterwards."""
        with self.open("reader", Mind("auto", None), "r") as db:
            return dict(db.items())

    def expected(self, minds: list[Mind]) -> dict[str, Any]:
        """What there is if no commit was lost."""
        own = {f"own/{number}": self.pushes for number in range(len(minds))}
        return own | {"shared": self.pushes * len(minds)}
