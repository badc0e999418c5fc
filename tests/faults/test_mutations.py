"""Bytes of the journal, its WAL, the Booklet file or the remote are changed: right values, or errors of ours.

Each child has a limit on its memory and on its time. Not among the mutations, because nothing within the files
could tell: a whole older state put in place of the newer one, in every file that remembers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.campaigns import amounts
from tests.faults.killing import KillServer
from tests.faults.mutated import MUTATED, PLAN, Specimen, Verdicts
from tests.faults.mutating import planned

KIND = "mutations"
Counted = Callable[[str, int], None]
DEFAULT_SHARE, CI_SHARE = 100, 50
"""The default run takes one of so many, which makes 50; CI takes 100."""

SEED = 9


@pytest.fixture(scope="module")
def server() -> Iterator[KillServer]:
    server = KillServer(MUTATED)
    yield server
    server.close()


@pytest.fixture(scope="module")
def specimen(server: KillServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Specimen]]:
    made: dict[str, Specimen] = {}

    def get(name: str) -> Specimen:
        if name not in made:
            made[name] = Specimen(server, tmp_path_factory.mktemp("mutated"), name)
            made[name].check()
        return made[name]

    yield get
    for one in made.values():
        one.remove()


def _go_through(specimen: Specimen, file: str, count: int, counted: Counted) -> None:
    verdicts = Verdicts()
    specimen.go_through(planned(file, SEED), count, verdicts)
    counted(KIND, count)
    print(verdicts.table())
    assert not verdicts.problems, "\n".join(verdicts.problems)


@pytest.mark.parametrize("share", amounts(DEFAULT_SHARE, CI_SHARE))
@pytest.mark.parametrize(("name", "file"), PLAN)
def test_mutations(
    specimen: Callable[[str], Specimen], name: str, file: str, share: int, counted: Counted
) -> None:
    _go_through(specimen(name), file, PLAN[name, file] // share, counted)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), PLAN)
def test_five_thousand_mutations(
    specimen: Callable[[str], Specimen], name: str, file: str, counted: Counted
) -> None:
    _go_through(specimen(name), file, PLAN[name, file], counted)


def test_a_mutation_is_told_from_none(specimen: Callable[[str], Specimen], tmp_path: Path) -> None:
    """Without this, a judge who sees nothing would pass: here the truth itself is another one."""
    other = Specimen(specimen("bare")._server, tmp_path, "bare")
    other.truth.values["k050"] = b"another"
    other.keep_truth()
    with pytest.raises(AssertionError, match="k050"):
        other.check()
