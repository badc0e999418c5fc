"""Power loss at every change of the Booklet file: opening again needs no help and loses nothing.

The states are made by a model (`tests.faults.power`): at each call that changes the file or the folder,
what has not been fsynced is kept, lost, or kept in part, at random but from a fixed seed.
"""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ebooklet_tx
from tests.campaigns import amounts
from tests.faults import checks
from tests.faults.power import Disk, Moment, seem_untouched
from tests.faults.scenarios import (
    FILE,
    SCENARIOS,
    Child,
    Content,
    Template,
    content_of,
    plain_content_of,
    remote_of,
)

KIND = "power-loss states"
Counted = Callable[[str, int], None]
NAMES = (
    "append",
    "append that grows the index",
    "prune",
    "creation",
    "copy for writing",
    "keeping what is fetched",
    "plain edits",
    "starting anew",
)
DEFAULT_STATES, CI_STATES = 21, 45
DEFAULT_SOURCES, CI_SOURCES = 3, 6
STATES_PER_RECOVERY = 12
KEEPS = (0.0, 1.0, 0.5)
SEED = 20_240_229


class _Losses:
    """One scenario whose changes are recorded, and the states that losing power may leave."""

    def __init__(self, scratch: Path, name: str) -> None:
        self.folder = scratch / f"power-{uuid.uuid4().hex}"
        self.folder.mkdir()
        self.scenario = SCENARIOS[name]
        template = self.folder / "template"
        template.mkdir()
        self.template: Template = self.scenario.make(template)
        self._copies = 0

    def copy(self, source: Path | None = None) -> Path:
        self._copies += 1
        folder = self.folder / f"copy{self._copies:06}"
        shutil.copytree(source or self.folder / "template", folder)
        return folder

    def allowed(self, moment: Moment) -> list[Content]:
        states = self.scenario.states(self.template.local)
        numbers = range(moment.done + 1, max(moment.begun, moment.done) + 2)
        return [states[number] for number in numbers] + self.scenario.other_states(self.template)

    def record(self, source: Path | None = None) -> list[Moment]:
        """Runs the scenario to its end and returns the moments at which power may be lost."""
        folder = self.copy(source)
        disk = Disk(folder)
        child = Child(folder, remote_of(folder), self.scenario.flag)
        with disk.recording():
            for number, step in enumerate(self.scenario.steps):
                disk.begun = number
                step.run(child)
                disk.done = number
            disk.remember()
        shutil.rmtree(folder)
        return disk.moments

    def leave(self, moment: Moment, keep: float, chance: random.Random, source: Path | None = None) -> Path:
        """Makes the folder that is found after power was lost at a moment."""
        folder = self.copy(source)
        for path in folder.glob(f"{FILE}*"):
            path.unlink()
        moment.write_to(folder, keep, chance)
        if chance.random() < 0.5:
            seem_untouched(folder)
        return folder

    def check(self, folder: Path, allowed: list[Content], *, push: bool) -> None:
        """Raises unless what was committed is there, for this package and for plain booklet."""
        remote = remote_of(folder)
        if push:
            checks.reopen_and_push(remote, folder, allowed, flag=self.template.reopen_flag)
        else:
            with ebooklet_tx.open(
                remote, folder / FILE, self.template.reopen_flag, lock=None, lock_timeout=0
            ) as database:
                checks.check_nothing_lost(database)
                found = checks.one_of(content_of(database), allowed, "after the loss the file holds")
            checks.one_of(plain_content_of(folder / FILE), [found], "plain booklet finds")
        checks.check_files(folder, self.template.may_leave)

    def go_through(
        self,
        moments: list[Moment],
        states: int,
        chance: random.Random,
        *,
        source: Path | None = None,
        allowed: list[Content] | None = None,
    ) -> int:
        """Checks so many states, spread over the moments."""
        failures = []
        uncertain = [moment for moment in moments if not moment.certain] + moments[-1:]
        chosen = [uncertain[index * len(uncertain) // states] for index in range(states)]
        for index, moment in enumerate(chosen):
            keep = KEEPS[index % len(KEEPS)] if index < 2 * states // 3 else chance.random()
            folder = self.leave(moment, keep, chance, source)
            try:
                self.check(folder, allowed or self.allowed(moment), push=index % 8 == 0)
            except Exception as error:
                place = moments.index(moment)
                failures.append(
                    f"moment {place} of {len(moments)}, keep {keep:.2f}: {type(error).__name__}: {error}"
                )
            shutil.rmtree(folder)
        assert not failures, "\n".join(failures)
        return states


@pytest.fixture
def losses(request: pytest.FixtureRequest, scratch: Path) -> Iterator[_Losses]:
    made = _Losses(scratch, request.param)
    yield made
    shutil.rmtree(made.folder)


@pytest.mark.parametrize("states", amounts(DEFAULT_STATES, CI_STATES))
@pytest.mark.parametrize("losses", NAMES, indirect=True)
def test_power_lost(losses: _Losses, states: int, counted: Counted) -> None:
    counted(KIND, losses.go_through(losses.record(), states, random.Random(SEED)))


@pytest.mark.slow
@pytest.mark.parametrize("losses", NAMES, indirect=True)
def test_power_lost_often(losses: _Losses, counted: Counted) -> None:
    moments = losses.record()
    counted(KIND, losses.go_through(moments, 10 * len(moments), random.Random(SEED + 1)))


def _lose_power_in_recovery(scratch: Path, *, sources: int, states_each: int) -> int:
    chance = random.Random(SEED + 2)
    append = _Losses(scratch, "append")
    recovery = _Losses(scratch, "recovery")
    checked = 0
    try:
        moments = [moment for moment in append.record() if not moment.certain]
        for index in range(sources):
            moment = moments[index * len(moments) // sources]
            source = append.leave(moment, chance.choice(KEEPS), chance)
            checked += recovery.go_through(
                recovery.record(source), states_each, chance, source=source, allowed=append.allowed(moment)
            )
    finally:
        shutil.rmtree(append.folder)
        shutil.rmtree(recovery.folder)
    return checked


@pytest.mark.parametrize("sources", amounts(DEFAULT_SOURCES, CI_SOURCES))
def test_power_lost_in_recovery(scratch: Path, sources: int, counted: Counted) -> None:
    checked = _lose_power_in_recovery(scratch, sources=sources, states_each=STATES_PER_RECOVERY)
    counted(KIND, checked)


@pytest.mark.slow
def test_power_lost_often_in_recovery(scratch: Path, counted: Counted) -> None:
    counted(KIND, _lose_power_in_recovery(scratch, sources=60, states_each=100))
