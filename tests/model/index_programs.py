"""Programs for worlds: random ones, and shorter ones that fail alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.model.index_world import KEYS, MERGING, Step

COPIES = "abc"

WEIGHTS = {
    "set": 14.0,
    "delete": 5.0,
    "push": 14.0,
    "get": 7.0,
    "pull": 5.0,
    "len": 4.0,
    "keys": 4.0,
    "get_beside": 2.0,
    "len_beside": 0.7,
    "keys_beside": 1.5,
    "discard": 1.0,
    "compact": 2.0,
    "forget": 3.0,
    "land": 2.0,
    "sweep": 2.0,
    "meet": 4.0,
    "keep": 1.0,
    "restore": 1.0,
    "save": 0.5,
    "rewind": 0.7,
    "new": 0.5,
    "fork": 1.0,
    "work": 2.0,
    "merge": 2.0,
    "fleet": 3.0,
}
READS = ("get", "pull", "len", "keys", "push", "compact", "restore", "get_beside", "len_beside", "keys_beside")
"""Steps with requests, at which others may act."""

FATES = ("answer", "unanswered", "unanswered", "lost", "late", "late")
LIVELY = 0.25


@dataclass(frozen=True)
class _Taste:
    """What a program prefers: some faults need many steps of one kind, or few keys."""

    weights: dict[str, float]
    shares: list[float]
    keys: list[str]
    merging: str | None


def random_program(dice: random.Random, length: int) -> list[Step]:
    """Returns a program of about as many steps."""
    taste = _taste(dice)
    begin = [Step("a", "set", key=key, value=1) for key in taste.keys if dice.random() < 0.7]
    steps: list[Step] = []
    while len(steps) < length:
        steps += _some(dice, taste)
    return [*begin, Step("a", "push"), *steps]


def _taste(dice: random.Random) -> _Taste:
    return _Taste(
        {what: weight * dice.choice([0.1, 1, 1, 4]) for what, weight in WEIGHTS.items()},
        [dice.choice([0.15, 1, 3]) for _ in COPIES],
        dice.sample(KEYS, dice.randint(2, len(KEYS))),
        dice.choice([*MERGING, None]),
    )


def _some(dice: random.Random, taste: _Taste, *, inner: bool = False) -> list[Step]:
    """Returns a step, or a few that go together."""
    (what,) = dice.choices(list(taste.weights), list(taste.weights.values()))
    (who,) = dice.choices(COPIES, taste.shares)
    if what == "sweep":
        return [Step(who, each) for each in ("collect", "wait", "collect")[dice.randint(0, 1) :]]
    if what == "meet":
        other, key = dice.choice(COPIES), dice.choice(taste.keys)
        writings = [Step(one, "set", key=key, value=dice.randint(1, 3)) for one in (who, other)]
        pushes = [Step(one, "push", choice=dice.choice(["raise", "ours"])) for one in (other, who)]
        return [*writings, *pushes][: dice.randint(2, 4)]
    if what == "fleet":
        keys = dice.sample(taste.keys, dice.randint(1, min(3, len(taste.keys))))
        work = [Step(who, "work", key=key, value=dice.choice([None, 1, 2, 3])) for key in keys]
        between = [] if dice.random() < 0.6 else _some(dice, taste, inner=inner)
        return [Step(who, "fork"), *work, *between, Step(dice.choice([who, *COPIES]), "merge")]
    key = dice.choice(taste.keys) if what in ("set", "delete", "get", "get_beside", "discard", "work") else ""
    step = Step(who, what, key, dice.choice([1, 2, 2, 3]) if what in ("set", "work") else None)
    if what in ("push", "compact"):
        step = replace(step, merging=taste.merging or dice.choice(list(MERGING)))
    if what == "push":
        step = replace(step, choice=dice.choice(["raise", "raise", "ours", "theirs"]))
    if what in READS and not inner and dice.random() < LIVELY:
        others = [each for _ in range(dice.randint(1, 4)) for each in _some(dice, taste, inner=True)]
        step = replace(step, at=dice.randint(1, 5), meanwhile=tuple(others))
    if what == "push" and dice.random() < 0.3:
        step = replace(step, fate=dice.choice(FATES))
        if step.fate == "late" and not inner and dice.random() < 0.7:
            between = [] if dice.random() < 0.5 else _some(dice, taste)
            return [step, *between, Step(who, "land")]
    return [step]


def varied(dice: random.Random, program: Sequence[Step]) -> list[Step]:
    """Returns a program with some steps more."""
    taste = _taste(dice)
    steps = list(program)
    for _ in range(dice.randint(1, 5)):
        at = dice.randint(1, len(steps))
        steps[at:at] = _some(dice, taste)
    return steps


def shortened(program: Sequence[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Leaves out of a failing program what it fails without."""
    steps = list(program)
    size = max(1, len(steps) // 2)
    while size:
        start = 0
        while start < len(steps):
            shorter = steps[:start] + steps[start + size :]
            if fails(shorter):
                steps = shorter
            else:
                start += size
        size //= 2
    while (plainer := next(filter(fails, _plainer(steps)), None)) is not None:
        steps = plainer
    return steps


def _plainer(steps: list[Step]) -> Iterator[list[Step]]:
    """Yields the same program with a little less to it."""
    for number, step in enumerate(steps):
        before, after = steps[:number], steps[number + 1 :]
        yield [*before, *after]
        if step.meanwhile:
            alone = replace(step, at=0, meanwhile=())
            yield [*before, alone, *after]
            yield [*before, *step.meanwhile, alone, *after]
            for each in range(len(step.meanwhile)):
                others = step.meanwhile[:each] + step.meanwhile[each + 1 :]
                yield [*before, replace(step, meanwhile=others), *after]
        plain = (replace(step, fate=""), replace(step, merging="none"), replace(step, choice="raise"))
        yield from ([*before, other, *after] for other in plain if other != step)
