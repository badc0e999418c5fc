"""SIGKILL at file-system calls: whatever the moment, opening again needs no help and loses nothing.

strace's fault injection kills a real child at its n-th call of a kind. Where there is no strace, the
child kills itself at its n-th call from Python or at its n-th statement in SQLite, which leaves the
single writes within a statement out.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

import ebooklet_tx
from tests.campaigns import amounts
from tests.faults import checks
from tests.faults.killing import (
    KillServer,
    Outcome,
    Point,
    counting_options,
    killing_options,
    points_of,
)
from tests.faults.scenarios import (
    FILE,
    READER_FILE,
    SCENARIOS,
    Content,
    Template,
    content_of,
    newer_code,
    remote_of,
)

Counted = Callable[[str, int], None]
KIND = "file-system points"
WITHIN_KIND = "points from within"
T = TypeVar("T")


class Matrix:
    """One scenario: its template, and copies of it in which children die."""

    def __init__(self, server: KillServer, scratch: Path, name: str, *, strace: bool) -> None:
        self.server = server
        self.scenario = SCENARIOS[name]
        self.name = name
        self.strace = strace
        self.kind = KIND if strace else WITHIN_KIND
        self._folder = scratch / name.replace(" ", "-")
        self._folder.mkdir()
        self._template_folder = self._folder / "template"
        self._template_folder.mkdir()
        self.template: Template = self.scenario.make(self._template_folder)
        self._copies = 0

    @contextmanager
    def copy(self, source: Path | None = None) -> Iterator[Path]:
        """A copy of the template, or of another folder, that is gone afterwards."""
        # Each under the same length of name, so that a journal's pages are filled alike.
        self._copies += 1
        folder = self._folder / f"copy{self._copies:06}"
        shutil.copytree(source or self._template_folder, folder)
        yield folder
        shutil.rmtree(folder)

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    def _order(self, folder: Path, injection: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "scenario": self.name,
            "folder": str(folder),
            "remote": remote_of(folder),
            "flag": self.scenario.flag,
            "injection": injection,
        }

    def points(self, source: Path | None = None) -> list[Point]:
        """Lets one child live and returns the calls that it could have died at."""
        with self.copy(source) as folder:
            if self.strace:
                log = self._folder / "strace.log"
                self.server.run(self._order(folder), strace=counting_options(log))
                return points_of(log, folder)
            outcome = self.server.run(self._order(folder, {"what": "files", "at": -1}))
            return [Point("event", int(event.split()[0])) for event in outcome.events]

    def kill(self, folder: Path, point: Point) -> Outcome:
        """Runs a child in a folder and kills it at a point."""
        if self.strace:
            return self.server.run(self._order(folder), strace=killing_options(point))
        return self.server.run(self._order(folder, {"what": "files", "at": point.number}))

    def allowed(self, outcome: Outcome) -> list[Content]:
        """Returns what a child that came so far may leave."""
        states = self.scenario.states(self.template.local)
        allowed = [states[number] for number in outcome.allowed()]
        return allowed + self.scenario.other_states(self.template)

    def check(self, folder: Path, allowed: list[Content], *, as_reader: bool) -> None:
        """Raises unless all that is promised holds in a folder whose child was killed."""
        remote, path = remote_of(folder), folder / FILE
        second = folder / READER_FILE
        with newer_code(folder):
            if second.exists():
                found = checks.read_remote(remote, second)
                checks.one_of(found, [self.template.remote], "the second reader sees")
            if as_reader and self.template.readable and path.exists():
                with ebooklet_tx.open(remote, path) as reader:
                    checks.one_of(content_of(reader), allowed, "a reader of the killed file sees")
            expected = checks.reopen_and_push(remote, folder, allowed, flag=self.template.reopen_flag)
            checks.one_of(checks.read_remote(remote, second), [expected], "then the second reader sees")
            checks.check_files(folder, self.template.may_leave)


def _spread(points: Sequence[T], limit: int) -> list[T]:
    """Takes at most so many, evenly over all."""
    if len(points) <= limit:
        return list(points)
    return [points[index * len(points) // limit] for index in range(limit)]


def _go_through(
    matrix: Matrix,
    points: Sequence[Point],
    *,
    source: Path | None = None,
    allowed: list[Content] | None = None,
) -> int:
    """Kills at each point, checks what is left, and returns how many children died."""
    killed = 0
    failures = []
    for index, point in enumerate(points):
        with matrix.copy(source) as folder:
            outcome = matrix.kill(folder, point)
            killed += outcome.killed
            try:
                matrix.check(folder, allowed or matrix.allowed(outcome), as_reader=index % 2 == 0)
            except Exception as error:
                failures.append(f"{matrix.name} at {point}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
    # Now and then a child makes a call less than the one whose calls were counted.
    assert killed >= len(points) * 9 // 10, f"{len(points)} points, {killed} kills"
    return killed


DEFAULT_POINTS = {
    "sync": 55,
    "append": 60,
    "append that grows the index": 30,
    "prune": 40,
    "prune to a size": 40,
    "creation": 30,
    "migration": 50,
    "copy for writing": 10,
    "copy for reading": 15,
    "keeping what is fetched": 12,
    "keeping what a reader fetched": 10,
    "plain edits": 12,
    "a damaged journal": 12,
    "starting anew": 16,
}
"""How many points of each scenario CI takes, and the default run a quarter of them; `-m slow` takes them all."""

RECOVERY_SOURCES = 4
POINTS_PER_RECOVERY = 14
WITHIN_POINTS = 12
EVERY = sys.maxsize
SLOW_POINTS_PER_RECOVERY = 25


@pytest.fixture
def matrix(
    request: pytest.FixtureRequest, kill_server: KillServer, scratch: Path, strace_is_there: bool
) -> Iterator[Matrix]:
    made = Matrix(kill_server, scratch, request.param, strace=strace_is_there)
    yield made
    made.remove()


@pytest.fixture
def matrix_from_within(
    request: pytest.FixtureRequest, kill_server: KillServer, scratch: Path
) -> Iterator[Matrix]:
    made = Matrix(kill_server, scratch, request.param, strace=False)
    yield made
    made.remove()


@pytest.mark.parametrize("one_in", amounts(4, 1))
@pytest.mark.parametrize("matrix", DEFAULT_POINTS, indirect=True)
def test_kill_at_calls(matrix: Matrix, counted: Counted, one_in: int) -> None:
    points = _spread(matrix.points(), DEFAULT_POINTS[matrix.name] // one_in)
    counted(matrix.kind, _go_through(matrix, points))


@pytest.mark.slow
@pytest.mark.parametrize("matrix", DEFAULT_POINTS, indirect=True)
def test_kill_at_every_call(matrix: Matrix, counted: Counted) -> None:
    counted(matrix.kind, _go_through(matrix, matrix.points()))


@pytest.mark.parametrize("matrix_from_within", ["append"], indirect=True)
def test_kill_from_within(matrix_from_within: Matrix, counted: Counted) -> None:
    """What stands in for strace where there is none is tried where there is one, too."""
    points = _spread(matrix_from_within.points(), WITHIN_POINTS)
    counted(WITHIN_KIND, _go_through(matrix_from_within, points))


@pytest.mark.slow
@pytest.mark.parametrize("matrix_from_within", DEFAULT_POINTS, indirect=True)
def test_kill_from_within_everywhere(matrix_from_within: Matrix, counted: Counted) -> None:
    counted(WITHIN_KIND, _go_through(matrix_from_within, matrix_from_within.points()))


def _kill_in_recovery(
    kill_server: KillServer, scratch: Path, *, strace: bool, sources: int, points_each: int
) -> int:
    """Kills appends, then kills what recovers from that, then opens."""
    append = Matrix(kill_server, scratch, "append", strace=strace)
    recovery = Matrix(kill_server, scratch, "recovery", strace=strace)
    killed = 0
    try:
        # Deaths around calls on the Booklet file itself leave the most to do.
        in_flux = [point for point in append.points() if point.path in ("", FILE)]
        for point in _spread(in_flux, sources):
            with append.copy() as source:
                allowed = append.allowed(append.kill(source, point))
                points = _spread(recovery.points(source), points_each)
                killed += _go_through(recovery, points, source=source, allowed=allowed)
    finally:
        append.remove()
        recovery.remove()
    return killed


@pytest.mark.parametrize("sources", amounts(1, RECOVERY_SOURCES))
def test_kill_in_recovery(
    kill_server: KillServer, scratch: Path, strace_is_there: bool, counted: Counted, sources: int
) -> None:
    killed = _kill_in_recovery(
        kill_server,
        scratch,
        strace=strace_is_there,
        sources=sources,
        points_each=POINTS_PER_RECOVERY,
    )
    counted(KIND if strace_is_there else WITHIN_KIND, killed)


@pytest.mark.slow
def test_kill_everywhere_in_recovery(
    kill_server: KillServer, scratch: Path, strace_is_there: bool, counted: Counted
) -> None:
    killed = _kill_in_recovery(
        kill_server, scratch, strace=strace_is_there, sources=EVERY, points_each=SLOW_POINTS_PER_RECOVERY
    )
    counted(KIND if strace_is_there else WITHIN_KIND, killed)
