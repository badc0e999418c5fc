"""Two reader processes and a writer process on one local file: readers never wait, and see what is committed.

Each read of a key is held to the register's rule: it shows a version that was the committed one at some moment
between the beginning and the end of the call. So does len(), for the number of keys.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.campaigns import amounts
from tests.places import Place, new_place
from tests.processes import workers
from tests.reader_processes import (
    ALL_KEYS,
    METADATA_KEY,
    STABLE_KEYS,
    Account,
    Commit,
    read,
    value_of,
    write,
)
from tests.writer_processes import open_at

LONGEST_WAIT_SECONDS = 1.0


def run(place: Place, folder: Path, seconds: float) -> tuple[list[Commit], Counter[str], list[Account]]:
    path = folder / "data.blt"
    with open_at(place, path, "n", lock=None) as db:
        db.update({key: value_of(key, 0, 1000) for key in STABLE_KEYS})
        db.set_metadata({"number": 0})
        db.changes().push()
    with workers() as start:
        writer = start(write, place, path, seconds, 1)
        readers = [start(read, place, path, seconds, seed) for seed in (2, 3)]
        everybody = [writer, *readers]
        for worker in everybody:
            assert worker.receive() == "ready"
        for worker in everybody:
            worker.send("go")
        commits, done = writer.receive()
        accounts = [reader.receive() for reader in readers]
        for worker in everybody:
            assert worker.finish() == []
    with open_at(place, path, "r") as db:
        expected = last_numbers(commits)
        assert {key: value["number"] for key, value in db.items()} == expected
    return commits, done, accounts


def last_numbers(commits: list[Commit]) -> dict[str, int]:
    numbers: dict[str, int | None] = dict.fromkeys(STABLE_KEYS, 0)
    for commit in commits:
        numbers |= commit.numbers
    return {key: number for key, number in numbers.items() if number is not None and key != METADATA_KEY}


class Register:
    """What could be read at which time: versions, each from the beginning of its commit on."""

    def __init__(self, first: int | None) -> None:
        self._began = [float("-inf")]
        self._ended = [float("-inf")]
        self._versions: list[int | None] = [first]

    def set(self, commit: Commit, version: int | None) -> None:
        self._began.append(commit.began_seconds)
        self._ended.append(commit.ended_seconds)
        self._versions.append(version)

    def possible(self, began_seconds: float, ended_seconds: float) -> list[int | None]:
        """The versions that a read between two moments may show."""
        oldest = bisect.bisect_right(self._ended, began_seconds) - 1
        newest = bisect.bisect_right(self._began, ended_seconds)
        return self._versions[oldest:newest]


def wrong_reads(commits: list[Commit], account: Account) -> list[str]:
    """Says of each read that shows what was not committed at any moment of it."""
    registers = {key: Register(0 if key in STABLE_KEYS else None) for key in ALL_KEYS}
    registers[METADATA_KEY] = Register(0)
    there = set(STABLE_KEYS)
    length = Register(len(there))
    for commit in commits:
        for key, number in commit.numbers.items():
            registers[key].set(commit, number)
            if key != METADATA_KEY:
                (there.discard if number is None else there.add)(key)
        length.set(commit, len(there))
    wrong = list(account.wrong)
    for key, number, began, ended in account.seen:
        possible = registers[key].possible(began, ended)
        if number not in possible:
            wrong.append(f"{key!r} was {number} where one of {possible} was due")
    for key, there_then, began, ended in account.there:
        possible = registers[key].possible(began, ended) if key in registers else [None]
        if there_then not in {number is not None for number in possible}:
            wrong.append(f"{key!r} was {'' if there_then else 'not '}there where one of {possible} was due")
    for found, began, ended in account.lengths:
        possible = length.possible(began, ended)
        if found not in possible:
            wrong.append(f"len() was {found} where one of {possible} was due")
    return wrong


def check(commits: list[Commit], done: Counter[str], accounts: list[Account]) -> str:
    """Holds all that was seen to the commits, and returns the account of it for people."""
    for account in accounts:
        assert wrong_reads(commits, account)[:5] == []
        assert max(account.waits.values()) <= LONGEST_WAIT_SECONDS, account.waits
        assert {"get", "contains", "len", "keys", "items", "get_items", "get_metadata", "pull"} <= set(
            account.calls
        )
    assert min(done[kind] for kind in ("transactions", "syncs", "pushes", "prunes", "openings")) >= 1
    waits = {kind: max(account.waits[kind] for account in accounts) for kind in accounts[0].waits}
    calls = sum((account.calls for account in accounts), Counter())
    told = ", ".join(f"{kind} {calls[kind]} ({wait * 1000:.0f} ms)" for kind, wait in sorted(waits.items()))
    return (
        f"{len(commits)} commits, {dict(done)}; {calls.total()} calls, the longest wait "
        f"{max(waits.values()) * 1000:.0f} ms; by kind: {told}; load {os.getloadavg()[0]:.1f}"
    )


@pytest.mark.parametrize("seconds", amounts(1.5, 3.0))
def test_readers_beside_a_writer_for_a_moment(
    seconds: float, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = check(*run(new_place("directory", request, tmp_path), tmp_path, seconds=seconds))
    with capsys.disabled():
        print(f"\n{told}")


@pytest.mark.slow
def test_readers_beside_a_writer_for_half_a_minute(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = check(*run(new_place("directory", request, tmp_path), tmp_path, seconds=30.0))
    with capsys.disabled():
        print(f"\n{told}")


# -- the check itself ------------------------------------------------------------------------------

KEY = STABLE_KEYS[0]
HISTORY = [Commit(10.0, 11.0, {KEY: 1}), Commit(20.0, 21.0, {KEY: 2, "passing/000": 3})]


@pytest.mark.parametrize(
    ("began", "ended", "fine"),
    [
        (1.0, 2.0, {0}),
        (1.0, 10.5, {0, 1}),
        (10.2, 10.4, {0, 1}),
        (11.5, 12.0, {1}),
        (10.9, 20.5, {0, 1, 2}),
        (11.5, 20.5, {1, 2}),
        (30.0, 31.0, {2}),
    ],
)
def test_a_read_that_can_not_be_is_found_out(began: float, ended: float, fine: set[int]) -> None:
    for number in (0, 1, 2, -1, None):
        account = Account(seen=[(KEY, number, began, ended)])
        assert (wrong_reads(HISTORY, account) == []) == (number in fine)


@pytest.mark.parametrize(("length", "at", "fine"), [(60, 15.0, True), (61, 15.0, False), (61, 25.0, True)])
def test_a_length_that_can_not_be_is_found_out(length: int, at: float, fine: bool) -> None:
    account = Account(lengths=[(length, at, at + 1.0)])
    assert (wrong_reads(HISTORY, account) == []) == fine


@pytest.mark.parametrize(
    ("key", "at", "fine"),
    [
        ("passing/000", 15.0, {False}),
        ("passing/000", 20.5, {False, True}),
        ("passing/000", 25.0, {True}),
        (KEY, 15.0, {True}),
        ("nobody's", 25.0, {False}),
    ],
)
def test_a_key_that_can_not_be_there_is_found_out(key: str, at: float, fine: set[bool]) -> None:
    for there in (False, True):
        account = Account(there=[(key, there, at, at + 0.1)])
        assert (wrong_reads(HISTORY, account) == []) == (there in fine)


def test_a_wait_that_is_too_long_is_found_out(tmp_path: Path) -> None:
    kinds = ("get", "contains", "len", "keys", "items", "get_items", "get_metadata", "pull")
    sound = Account(waits=dict.fromkeys(kinds, 0.1), calls=Counter(dict.fromkeys(kinds, 1)))
    done = Counter(transactions=1, syncs=1, pushes=1, prunes=1, openings=1)
    assert "8 calls" in check(HISTORY, done, [sound])
    with pytest.raises(AssertionError):
        check(HISTORY, done, [dataclasses.replace(sound, waits=sound.waits | {"len": 1.5})])
