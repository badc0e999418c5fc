"""The parent's side of mutations: folders with a truth, one file changed at a time, and the verdicts."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ebooklet_tx
from tests.faults.crashes import end_as_by_a_crash, put_back
from tests.faults.killing import KillServer
from tests.faults.mutating import Mutation
from tests.faults.reading import FRESH_FILE, Truth
from tests.faults.scenarios import FILE, REMOTE_FOLDER, remote_of, small_packs, value_of

BUCKETS = 101
KEYS = 120

MUTATED = {"MALLOC_ARENA_MAX": "1"}
"""Variables for the children: arenas take address space that is never used, and it is what is limited."""

PROBLEM = "PROBLEM"
UNCHANGED = "unchanged"
LOCAL = {"journal": f"{FILE}.journal", "wal": f"{FILE}.journal-wal", "booklet": FILE}
REMOTE = ("root", "index", "history", "pack")


def _fill(truth: Truth, database: Any, numbers: Iterable[int], salt: str, size_bytes: int) -> None:
    for number in numbers:
        key = f"k{number:03}"
        if key in truth.values:
            truth.older.setdefault(key, []).append(truth.values[key])
            truth.older_timestamps.setdefault(key, []).append(truth.timestamps[key])
        value = value_of(key, salt, size_bytes)
        stamp = 1_700_000_000_000_000 + number * 1_000_000 + len(salt)
        database.set(key, value, timestamp=stamp)
        truth.values[key], truth.timestamps[key] = value, stamp


def _drop(truth: Truth, database: Any, numbers: Iterable[int]) -> None:
    for number in numbers:
        key = f"k{number:03}"
        del database[key]
        truth.older.setdefault(key, []).append(truth.values.pop(key))
        truth.older_timestamps.setdefault(key, []).append(truth.timestamps.pop(key))


def _make_pushed(folder: Path) -> Truth:
    """A database of some packs, index objects and history, part of it changed since, its local copy whole."""
    truth = Truth(metadata={"first": 1})
    with (
        small_packs(),
        ebooklet_tx.open(remote_of(folder), folder / FILE, "c", n_buckets=BUCKETS, lock=None) as database,
    ):
        database.set_metadata({"first": 1})
        for start in range(0, KEYS, 40):
            _fill(truth, database, range(start, start + 40), "first", 900 + start)
            database.changes().push()
        _fill(truth, database, range(10, 14), "replaced", 700)
        _drop(truth, database, range(14, 17))
        database.changes().push()
    return truth


def _make_closed(folder: Path) -> Truth:
    truth = _make_pushed(folder)
    with ebooklet_tx.open(remote_of(folder), folder / FILE, "w", lock=None) as database:
        _fill(truth, database, [*range(20, 26), *range(200, 206)], "pending", 400)
        _drop(truth, database, range(30, 33))
        truth.only_in_journal.update(f"k{number:03}" for number in range(30, 33))
        truth.older_metadata.append(truth.metadata)
        truth.metadata = {"pending": 1}
        database.set_metadata(truth.metadata)
    return truth


def _make_crashed(folder: Path) -> Truth:
    """As after a crash: what was committed last lies in the -wal alone."""
    truth = _make_closed(folder)
    database = ebooklet_tx.open(remote_of(folder), folder / FILE, "w", lock=None)
    for number in range(4):
        _fill(truth, database, range(40 + number * 3, 43 + number * 3), "staged", 300)
        _fill(truth, database, [300 + number], "staged", 300)
        database.sync()
    with database.transaction():
        _drop(truth, database, range(60, 63))
    truth.only_in_journal.update(f"k{number:03}" for number in [*range(40, 52), *range(60, 63), *range(300, 304)])
    end_as_by_a_crash(database, folder)
    return truth


def _make_bare(folder: Path) -> Truth:
    """The remote alone: whoever comes has no copy."""
    truth = _make_pushed(folder)
    for path in folder.glob(f"{FILE}*"):
        path.unlink()
    return truth


PLAN = {
    ("closed", "journal"): 700,
    ("crashed", "journal"): 500,
    ("crashed", "wal"): 800,
    ("closed", "booklet"): 600,
    ("crashed", "booklet"): 400,
    ("closed", "root"): 300,
    ("closed", "index"): 400,
    ("closed", "history"): 100,
    ("closed", "pack"): 300,
    ("bare", "root"): 200,
    ("bare", "index"): 300,
    ("bare", "history"): 100,
    ("bare", "pack"): 300,
}
"""How often each file of each template is mutated: 5,000 times in all."""

TEMPLATES: dict[str, Callable[[Path], Truth]] = {
    "closed": _make_closed,
    "crashed": _make_crashed,
    "bare": _make_bare,
}


@dataclass
class Verdicts:
    """What became of mutations."""

    count: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        files = sorted({name.partition(": ")[0] for name in self.count})
        outcomes = ("right", "error", "told", PROBLEM)
        lines = [f"{'':22}" + "".join(f"{outcome:>11}" for outcome in outcomes)]
        for file in files:
            lines.append(f"{file:22}" + "".join(f"{self.count[f'{file}: {outcome}']:11}" for outcome in outcomes))
        return "\n".join(lines)


class Specimen:
    """A folder that is mutated and put back as it was, again and again."""

    def __init__(self, server: KillServer, scratch: Path, name: str) -> None:
        self.name = name
        self._server = server
        self._base = scratch / f"mutated-{name}"
        self._folder = self._base / "work"
        self._folder.mkdir(parents=True)
        self.truth = TEMPLATES[name](self._folder)
        self._truth_file = self._base / "truth"
        self.keep_truth()
        self._saved = {
            path: (path.read_bytes(), path.stat()) for path in self._folder.rglob("*") if path.is_file()
        }
        self._anchor = self._base / "anchor"
        if (self._folder / FILE).exists():
            # The journal knows the Booklet file by its inode, which must outlive a rebuild.
            os.link(self._folder / FILE, self._anchor)

    def keep_truth(self) -> None:
        """Writes the truth down for the children."""
        self._truth_file.write_bytes(pickle.dumps(self.truth))

    def remove(self) -> None:
        shutil.rmtree(self._base)

    def files(self, kind: str) -> list[Path]:
        """The files of a kind that are there."""
        if kind in LOCAL:
            return [path for path in [self._folder / LOCAL[kind]] if path in self._saved]
        remote = self._folder / REMOTE_FOLDER
        if kind == "root":
            return [remote / "db"]
        return sorted(path for path in self._saved if path.parent == remote / "db.d" / kind)

    def _restore(self) -> None:
        for path in [*self._folder.rglob("*")]:
            if path.is_file() and path not in self._saved:
                path.unlink()
        if self._anchor.exists():
            (self._folder / FILE).unlink(missing_ok=True)
            os.link(self._anchor, self._folder / FILE)
        for path, (data, status) in self._saved.items():
            put_back(path, data, status)

    def check(self) -> None:
        """Without a mutation all is right, and nothing is told."""
        for flag in "rw":
            self._restore()
            events = self._run(flag)
            if events:
                raise AssertionError(f"{self.name} with flag {flag}, as it is: {events}")

    def _run(self, flag: str) -> list[str]:
        order = {"folder": str(self._folder), "flag": flag, "truth": str(self._truth_file)}
        return self._server.run(order).events

    def go_through(self, mutations: Iterable[Mutation], count: int, verdicts: Verdicts) -> None:
        """Applies so many mutations to the folder as it was, and lets a child read everything after each.

        One that changes no byte, as a swap of two equal pages does, is passed over.
        """
        left = count
        for mutation in mutations:
            if left == 0:
                return
            kind = f"{self.name} {mutation.file}"
            outcome, text = self._one(mutation)
            verdicts.count[f"{kind}: {outcome}"] += 1
            left -= outcome != UNCHANGED
            if outcome == PROBLEM:
                verdicts.problems.append(f"{self.name}: {mutation}: {text}")

    def _one(self, mutation: Mutation) -> tuple[str, str]:
        self._restore()
        paths = self.files(mutation.file)
        path = paths[mutation.seed % len(paths)]
        data, status = self._saved[path]
        changed, told = mutation.apply(data)
        if changed == data:
            return UNCHANGED, told
        put_back(path, changed)
        if not mutation.noticed:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        begun = time.monotonic()
        try:
            events = self._run(mutation.flag)
        except AssertionError as error:
            return PROBLEM, f"{told}: after {time.monotonic() - begun:.1f} s: {error}"
        kinds = {event.split()[0] for event in events}
        if "problem" in kinds:
            wrong = [event for event in events if event.startswith(("problem", "told"))]
            return PROBLEM, f"{told}: {'; '.join(wrong)[:600]}"
        return ("error" if "error" in kinds else "told" if "told" in kinds else "right"), told


__all__ = ["FRESH_FILE", "LOCAL", "MUTATED", "PLAN", "REMOTE", "TEMPLATES", "Specimen", "Verdicts"]
