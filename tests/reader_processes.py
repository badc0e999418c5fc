"""What the child processes of the tests with readers beside a writer do; see `tests.processes`.

The writer tells between which two moments each commit became durable; the readers tell between which two
moments they saw what. From that alone it follows whether each of them saw a state that was committed then.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, TypeVar

import ebooklet_tx
from ebooklet_tx import Database
from tests.places import Place
from tests.processes import say
from tests.writer_processes import open_at

T = TypeVar("T")

STABLE_KEYS = [f"stable/{number:03}" for number in range(60)]
"""Set again and again, and never deleted."""

PASSING_KEYS = [f"passing/{number:03}" for number in range(60)]
PAIRS = [(f"pair/{number:02}/left", f"pair/{number:02}/right") for number in range(10)]
"""Set, deleted and set again together, in transactions."""

ALL_KEYS = [*STABLE_KEYS, *PASSING_KEYS, *(key for pair in PAIRS for key in pair)]
METADATA_KEY = ""
ROLLED_BACK = -1
LEAST_ROUNDS = 40
EVICT_ALL_US = 2**55


@dataclass(frozen=True)
class Commit:
    """What one commit set: sequence numbers by key, None for a delete."""

    began_seconds: float
    ended_seconds: float
    numbers: dict[str, int | None]


@dataclass
class Account:
    """What a reader saw, and how long it waited.

    Attributes:
        seen: (key, sequence number or None, seconds of the beginning and of the end).
        there: (key, whether it was there, seconds of the beginning and of the end).
        lengths: (len(), seconds of the beginning and of the end).
        waits: The longest wait for each kind of call, in seconds.
        calls: How many there were.
        wrong: What can't be true, in words.
    """

    seen: list[tuple[str, int | None, float, float]] = field(default_factory=list)
    there: list[tuple[str, bool, float, float]] = field(default_factory=list)
    lengths: list[tuple[int, float, float]] = field(default_factory=list)
    waits: dict[str, float] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def timed(self, kind: str, call: Callable[[], T]) -> tuple[T, float, float]:
        """Makes a call, and counts it and its wait."""
        began = time.monotonic()
        result = call()
        ended = time.monotonic()
        self.calls[kind] += 1
        self.waits[kind] = max(self.waits.get(kind, 0.0), ended - began)
        return result, began, ended


def value_of(key: str, number: int, size_bytes: int) -> dict[str, Any]:
    """A value that tells whose it is, and that it is whole."""
    pad = f"{number:x}" * (size_bytes // len(f"{number:x}"))
    return {"key": key, "number": number, "pad": pad, "sum": _sum(key, number, pad)}


def _sum(key: str, number: int, pad: str) -> str:
    return hashlib.blake2b(f"{key}\0{number}\0{pad}".encode(), digest_size=16).hexdigest()


def write(pipe: Pipe, place: Place, path: Path, seconds: float, seed: int) -> None:
    """Sets, deletes, transacts, syncs, pushes, prunes, evicts and opens anew; says every commit at the end."""
    chance = random.Random(seed)
    commits: list[Commit] = []
    done: Counter[str] = Counter()
    number = 0

    def next_value(key: str) -> dict[str, Any]:
        nonlocal number
        number += 1
        return value_of(key, number, chance.choice([10, 100, 1000, 6000]))

    def committed(numbers: dict[str, int | None], commit: Callable[[], object]) -> None:
        began = time.monotonic()
        commit()
        commits.append(Commit(began, time.monotonic(), numbers))

    db = open_at(place, path, "w", lock=None)
    try:
        say(pipe, "ready")
        pipe.recv()
        deadline = time.monotonic() + seconds
        turn = 0
        while turn < LEAST_ROUNDS or time.monotonic() < deadline:
            turn += 1
            if turn % 3 == 0:
                _transact(db, chance, next_value, commits)
                done["transactions"] += 1
            else:
                numbers: dict[str, int | None] = {}
                for key in chance.sample([*STABLE_KEYS, *PASSING_KEYS], chance.randint(1, 6)):
                    if key in PASSING_KEYS and key in db and chance.random() < 0.5:
                        del db[key]
                        numbers[key] = None
                    else:
                        db[key] = next_value(key)
                        numbers[key] = db[key]["number"]
                if turn % 7 == 0:
                    number += 1
                    db.set_metadata({"number": number})
                    numbers[METADATA_KEY] = number
                committed(numbers, db.sync)
                done["syncs"] += 1
            if turn % 11 == 0:
                db.changes().push()
                done["pushes"] += 1
            if turn % 13 == 0:
                db.prune(timestamp=EVICT_ALL_US if turn % 2 else None)
                done["prunes"] += 1
            if turn % 29 == 0:
                db.close()
                db = open_at(place, path, "w", lock=None)
                done["openings"] += 1
    finally:
        db.close()
    say(pipe, (commits, done))


def _transact(
    db: Database, chance: random.Random, next_value: Callable[[str], dict[str, Any]], commits: list[Commit]
) -> None:
    """Sets or deletes both of a pair; first a transaction that is rolled back, whose values nobody may see."""
    pair = chance.choice(PAIRS)
    try:
        with db.transaction():
            for key in pair:
                db[key] = value_of(key, ROLLED_BACK, 100)
            db[PASSING_KEYS[0]] = value_of(PASSING_KEYS[0], ROLLED_BACK, 100)
            raise _RollBackError
    except _RollBackError:
        pass
    numbers: dict[str, int | None] = {}
    gone = pair[0] in db and chance.random() < 0.5
    began = 0.0
    with db.transaction():
        for key in pair:
            if gone:
                del db[key]
                numbers[key] = None
            else:
                value = next_value(key)
                db[key] = value
                numbers[key] = value["number"]
        began = time.monotonic()
    commits.append(Commit(began, time.monotonic(), numbers))


class _RollBackError(Exception):
    pass


def read(pipe: Pipe, place: Place, path: Path, seconds: float, seed: int) -> None:
    """Reads in every way that there is, and says at the end what was seen."""
    chance = random.Random(seed)
    account = Account()
    with open_at(place, path, "r") as db:
        say(pipe, "ready")
        pipe.recv()
        deadline = time.monotonic() + seconds
        turn = 0
        while turn < LEAST_ROUNDS or time.monotonic() < deadline:
            turn += 1
            _read_one_by_one(db, chance, account)
            length, began, ended = account.timed("len", lambda: len(db))
            account.lengths.append((length, began, ended))
            if turn % 5 == 0:
                _iterate(db, account)
            if turn % 17 == 0:
                account.timed("pull", lambda: db.changes().pull())
    say(pipe, account)


def _read_one_by_one(db: Database, chance: random.Random, account: Account) -> None:
    for key in chance.sample(ALL_KEYS, 10):
        value, began, ended = account.timed("get", lambda key=key: db.get(key))  # type: ignore[misc]
        _note(account, key, value, began, ended)
    key = chance.choice(ALL_KEYS)
    there, began, ended = account.timed("contains", lambda: key in db)
    account.there.append((key, there, began, ended))
    several = chance.sample(ALL_KEYS, 5)
    found, began, ended = account.timed("get_items", lambda: dict(db.get_items(several)))
    for each, value in found.items():
        _note(account, each, value, began, ended)
    metadata, began, ended = account.timed("get_metadata", db.get_metadata)
    account.seen.append((METADATA_KEY, metadata["number"], began, ended))


def _note(account: Account, key: str, value: Any, began: float, ended: float) -> None:
    if value is not None and (value["key"] != key or value["sum"] != _sum(key, value["number"], value["pad"])):
        account.wrong.append(f"{key} was read as {value!r:.200}")
    account.seen.append((key, None if value is None else value["number"], began, ended))


def _iterate(db: Database, account: Account) -> None:
    """Goes through the items; each step is a call that may not wait."""
    began = time.monotonic()
    came = []
    for key, value in _timed_steps(db.items(), account):
        came.append(key)
        _note(account, key, value, began, time.monotonic())
    if came != sorted(set(came)):
        account.wrong.append(f"items came out of order, or twice: {came}")
    if missing := set(STABLE_KEYS) - set(came):
        account.wrong.append(f"items left out {sorted(missing)}")
    keys, began, ended = account.timed("keys", lambda: list(db))
    if keys != sorted(set(keys)):
        account.wrong.append(f"keys came out of order, or twice: {keys}")
    account.there.extend((key, key in keys, began, ended) for key in {*ALL_KEYS, *keys})


def _timed_steps(items: Any, account: Account) -> Iterator[tuple[str, Any]]:
    steps = iter(items)
    while True:
        item, _, _ = account.timed("items", lambda: next(steps, None))
        if item is None:
            return
        yield item


def read_in_rounds(pipe: Pipe, url: str, path: Path, rounds: int) -> None:
    """Reads each key so many times, each of whose values begins with it, and says how many rounds it made."""
    say(pipe, "ready")
    with ebooklet_tx.open(url, path, "r") as db:
        for _ in range(rounds):
            for key in list(db):
                value = db.get(key)
                assert value is None or value[:4] == key.encode(), (key, value[:20])
    say(pipe, rounds)
