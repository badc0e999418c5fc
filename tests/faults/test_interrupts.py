"""KeyboardInterrupt at any bytecode of open, commit, push, pull, prune, close: nothing leaks, is lost or torn."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from tests.campaigns import amounts
from tests.interrupts import OPERATIONS, Stand, bytecodes_of, made_stand, problems_after

pytestmark = [
    # What an interrupt throws off the stack is closed by its own end, and an interrupt in that is not passed on.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ebooklet_tx.errors.WeakStoreWarning"),
]
KINDS = ("directory", "memory", "tickets")


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stand]:
    folder = tmp_path_factory.mktemp("interrupts")
    return {kind: made_stand(folder / kind, kind) for kind in KINDS}


def interrupt(stand: Stand, folder: Path, operation: str, times: int, seed: int) -> list[str]:
    """Interrupts an operation so many times, at bytecodes drawn from all those that it runs."""
    chosen = random.Random(f"{stand.kind} {operation} {seed}")
    bytecodes = bytecodes_of(stand, folder / "count", operation)
    problems = []
    for number in range(times):
        at = chosen.choice(chosen.choice(bytecodes))
        problems += problems_after(stand, folder / str(number), operation, at, go_on=chosen.random() < 0.5)
    return problems


@pytest.mark.parametrize("times", amounts(1, 2))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interrupt_leaves_nothing_held_lost_or_torn(
    stands: dict[str, Stand], tmp_path: Path, operation: str, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ebooklet_tx")
    problems = [
        problem
        for kind in KINDS
        for problem in interrupt(stands[kind], tmp_path / kind, operation, times=times, seed=1)
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_interrupts_anywhere(
    stands: dict[str, Stand], tmp_path: Path, operation: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ebooklet_tx")
    problems = interrupt(stands[kind], tmp_path / kind, operation, times=38, seed=2)
    assert not problems, "\n".join(problems)
