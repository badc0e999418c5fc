"""Power loss after a plain booklet's edits were taken in: what was acknowledged no longer rests on its cache.

Booklet never fsyncs, so its edits may be in the page cache alone when a session of ours takes them in.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import booklet
import pytest

import ebooklet_tx
from tests.faults.power import Disk, Moment, seem_untouched
from tests.faults.scenarios import FILE, Content, content_of, make_base, remote_of, value_of

KEEPS = (0.0, 0.5, 0.9)


def edit(target: booklet.VariableLengthValue | Content) -> None:
    for number in range(6):
        target[f"k{number:03}"] = value_of(f"k{number:03}", "plain", 3000)
    del target["k020"]


def make(folder: Path, *, with_journal: bool) -> Content:
    """A pair, and what it holds once it is edited; without its journal it is to be adopted."""
    made = make_base(folder)
    expected = made.local.copy()
    edit(expected)
    if not with_journal:
        (folder / f"{FILE}.journal").unlink()
        # Nobody knows then what was deleted, so that comes back from the remote.
        for key in made.remote.keys() - expected.keys():
            expected[key] = made.remote[key]
    return expected


def record(folder: Path) -> list[Moment]:
    """Edits the file, opens it, syncs; returns the moments after `open` and after `sync` returned."""
    path = folder / FILE
    before = path.read_bytes()
    with booklet.open(path, "w") as plain:
        edit(plain)
    disk = Disk(folder)
    disk.left_unsynced(path, before)
    with disk.recording(), ebooklet_tx.open(remote_of(folder), path, "w", lock=None) as database:
        disk.done = 0
        disk.remember()
        database.sync()
        disk.done = 1
        disk.remember()
    return [moment for moment in disk.moments if moment.done >= 0]


@pytest.mark.parametrize("with_journal", [True, False])
def test_edits_that_were_taken_in_survive_power_loss(scratch: Path, *, with_journal: bool) -> None:
    folder = scratch / f"unsynced-{with_journal}"
    (folder / "made").mkdir(parents=True)
    expected = make(folder / "made", with_journal=with_journal)
    shutil.copytree(folder / "made", folder / "edited")
    failures = []
    for moment in record(folder / "edited"):
        for state, keep in enumerate(KEEPS):
            chance = random.Random(state)
            left = folder / f"left-{state}"
            shutil.copytree(folder / "made", left)
            for path in left.glob(f"{FILE}*"):
                path.unlink()
            moment.write_to(left, keep, chance)
            if state == 1:
                seem_untouched(left)
            try:
                with ebooklet_tx.open(remote_of(left), left / FILE, "w", lock=None) as database:
                    found = content_of(database)
                if not found.same_as(expected):
                    failures.append(f"after step {moment.done}: {found.difference(expected)}")
            except ebooklet_tx.Error as error:
                failures.append(f"after step {moment.done}: {type(error).__name__}: {error}")
            shutil.rmtree(left)
    shutil.rmtree(folder)
    assert failures == []
