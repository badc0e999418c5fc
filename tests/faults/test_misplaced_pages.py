"""Pages of the journal in each other's place: SQLite finds them sound, and looks up the wrong rows."""

from __future__ import annotations

import random
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import ebooklet_tx
from ebooklet_tx.errors import Error
from tests.pairs import Bench, push

PAGE_BYTES = 4096
B_TREE_PAGES = (0x02, 0x05, 0x0A, 0x0D)
KEYS = 1500
SECONDS = 20
ABSENT = ["", "a", "key 0100x", "key 9", "zzz", "key 0000 "]


def value_of(number: int) -> bytes:
    return b"value of %d" % number


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A pair whose journal has some levels of pages: most keys pushed, some pending, some deleted since."""
    bench = Bench(tmp_path_factory.mktemp("pages"))
    push(bench, "a", {f"key {number:04}": value_of(number) for number in range(KEYS)})
    with bench.open("a", "w") as db:
        for number in range(0, KEYS, 7):
            db[f"key {number:04}"] = value_of(-number)
        for number in range(3, KEYS, 70):
            del db[f"key {number:04}"]
        db["pending"] = b"new"
    return bench


@pytest.fixture(scope="module")
def truth(pristine: Bench) -> dict[str, bytes]:
    with pristine.open("a", "r", offline=True) as db:
        return dict(db.items())


def pages_by_type(content: bytes) -> dict[int, list[int]]:
    pages = defaultdict(list)
    for number in range(1, len(content) // PAGE_BYTES):
        kind = content[number * PAGE_BYTES]
        if kind in B_TREE_PAGES:
            pages[kind].append(number)
    return {kind: numbers for kind, numbers in pages.items() if len(numbers) > 1}


def misplace(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Swaps two pages of one type, or writes one over the other."""
    pages = pages_by_type(content)
    kind = rng.choice(sorted(pages))
    first, second = rng.sample(pages[kind], 2)
    there = [content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] for number in (first, second)]
    changed = bytearray(content)
    changed[first * PAGE_BYTES : (first + 1) * PAGE_BYTES] = there[1]
    swap = rng.random() < 0.6
    if swap:
        changed[second * PAGE_BYTES : (second + 1) * PAGE_BYTES] = there[0]
    return bytes(changed), f"type {kind:#x}, {'swap' if swap else 'copy'} of {first} and {second}"


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def too_late(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wrong_answers(db: ebooklet_tx.Database, truth: dict[str, bytes], rng: random.Random) -> Iterator[str]:
    """Asks in every way; an error of ours is a right answer, and so is the truth."""
    try:
        if len(db) != len(truth):
            yield f"len() is {len(db)}, not {len(truth)}"
    except Error:
        pass
    try:
        if list(db.keys()) != sorted(truth):
            yield "keys() are others"
    except Error:
        pass
    try:
        if dict(db.items()) != truth:
            yield "items() are others"
    except Error:
        pass
    prefix = f"key {rng.randrange(10, 16):02}"[:6]
    try:
        if list(db.keys(prefix)) != sorted(key for key in truth if key.startswith(prefix)):
            yield f"keys({prefix!r}) are others"
    except Error:
        pass
    some = rng.sample(sorted(truth), 40)
    try:
        if dict(db.get_items([*some, *ABSENT])) != {**{key: truth[key] for key in some}, **dict.fromkeys(ABSENT)}:
            yield "get_items() are others"
    except Error:
        pass
    for key in [*truth, *ABSENT]:
        try:
            if db.get(key) != truth.get(key):
                yield f"get({key!r}) is {db.get(key)!r}"
            if (key in db) != (key in truth):
                yield f"{key!r} in db is {key in db}"
        except Error:
            pass


def judge(pristine: Bench, folder: Path, truth: dict[str, bytes], seed: int, flag: str) -> str | None:
    """Opens a copy with misplaced pages; says what was answered wrongly, if anything was."""
    rng = random.Random(seed)
    bench = Bench(folder)
    folder.mkdir()
    shutil.copytree(pristine.folder / "remote", folder / "remote")
    shutil.copy2(pristine.path(), bench.path())
    # A copy has another inode, which is looked into first: settled once, it is as it was left.
    shutil.copy(pristine.journal(), bench.journal())
    with bench.open("a", "w", offline=True):
        pass
    content, told = misplace(bench.journal().read_bytes(), rng)
    bench.journal().write_bytes(content)
    try:
        with within(SECONDS), bench.open("a", flag, offline=True) as db:
            wrong = next(wrong_answers(db, truth, rng), None)
    except Error:
        wrong = None
    except BaseException as error:
        wrong = f"{type(error).__name__}: {error}"
    shutil.rmtree(folder)
    return None if wrong is None else f"seed {seed}, flag {flag}, {told}: {wrong}"


def campaign(pristine: Bench, folder: Path, truth: dict[str, bytes], seeds: range) -> list[str]:
    verdicts = [judge(pristine, folder / str(seed), truth, seed, "r" if seed % 3 else "w") for seed in seeds]
    return [verdict for verdict in verdicts if verdict]


def test_no_misplaced_page_is_answered_from(pristine: Bench, truth: dict[str, bytes], tmp_path: Path) -> None:
    assert campaign(pristine, tmp_path, truth, range(15)) == []


@pytest.mark.slow
def test_no_misplaced_page_is_answered_from_often(
    pristine: Bench, truth: dict[str, bytes], tmp_path: Path
) -> None:
    assert campaign(pristine, tmp_path, truth, range(100, 500)) == []
