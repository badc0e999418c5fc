"""Random programs over databases, readers, kills and failing disks, held against dict models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.campaigns import amounts
from tests.property.machine import ROOMY_CACHE, DatabaseMachine, Totals

SEEDS: dict[int, dict[str, Any]] = {3: {}, 2: ROOMY_CACHE}
"""The default run's programs are two tests, so that two workers share them; each has limits of its own."""
QUICK_EXAMPLES, CI_EXAMPLES, SLOW_EXAMPLES = 4, 20, 2000
STEPS_PER_EXAMPLE = 80
FEWEST_STEPS_PER_EXAMPLE = 50
"""On average: a program may end early."""


def run(examples: int, capsys: pytest.CaptureFixture[str], machine: type[RuleBasedStateMachine]) -> type[Totals]:
    Totals.reset()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS_PER_EXAMPLE,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    with capsys.disabled():
        print(f"\n{Totals.told()}")
    return Totals


@pytest.mark.parametrize("examples", amounts(QUICK_EXAMPLES, CI_EXAMPLES))
@pytest.mark.parametrize("chosen", SEEDS)
def test_random_programs_agree_with_their_models(
    chosen: int, examples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # A class of its own, as the seed stays with the class.
    machine = type("SeededMachine", (DatabaseMachine,), {"instead": SEEDS[chosen]})
    totals = run(examples, capsys, seed(chosen)(machine))
    assert totals.steps >= examples * FEWEST_STEPS_PER_EXAMPLE
    assert min(totals.kills, totals.faults, totals.conflicts, totals.unanswered) > 0
    assert min(totals.packs, totals.segments) > 0


@pytest.mark.slow
def test_many_random_programs_agree_with_their_models(capsys: pytest.CaptureFixture[str]) -> None:
    totals = run(SLOW_EXAMPLES, capsys, DatabaseMachine)
    assert totals.steps >= SLOW_EXAMPLES * FEWEST_STEPS_PER_EXAMPLE
