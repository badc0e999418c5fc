"""Random programs over databases, readers, kills and failing disks, held against dict models."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.machine import DatabaseMachine, Totals

EXAMPLES = 40
STEPS_PER_EXAMPLE = 80
SLOW_FACTOR = 50


def run(examples: int, capsys: pytest.CaptureFixture[str]) -> type[Totals]:
    Totals.reset()
    run_state_machine_as_test(
        DatabaseMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS_PER_EXAMPLE,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            derandomize=examples == EXAMPLES,
        ),
    )
    with capsys.disabled():
        print(f"\n{Totals.told()}")
    return Totals


def test_random_programs_agree_with_their_models(capsys: pytest.CaptureFixture[str]) -> None:
    totals = run(EXAMPLES, capsys)
    assert totals.steps >= 2000
    assert min(totals.kills, totals.faults, totals.conflicts, totals.unanswered) > 0
    assert min(totals.packs, totals.segments) > 0


@pytest.mark.slow
def test_many_random_programs_agree_with_their_models(capsys: pytest.CaptureFixture[str]) -> None:
    totals = run(EXAMPLES * SLOW_FACTOR, capsys)
    assert totals.steps >= 2000 * SLOW_FACTOR
