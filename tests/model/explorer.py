"""An explicit-state explorer: every state that a model can reach, breadth first.

Owns what it has found while it runs. The invariant: a state is looked at once; the way to it that is kept is
a shortest one, so the trace of a violation holds no step that is not needed.
"""

from __future__ import annotations

import gc
import itertools
from array import array
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Model(Protocol[S]):
    """A system of steps between immutable, hashable states."""

    def initial(self) -> S:
        """Returns the state that everything begins from."""
        ...

    def steps(self, state: S) -> Iterable[tuple[str, S]]:
        """Yields every step that is possible, named for people, with the state that it leads to."""
        ...

    def problem(self, state: S) -> str | None:
        """Says which promise a state breaks, None when it keeps them all."""
        ...

    def at_rest(self, state: S) -> bool:
        """True of a state in which everything that was asked for is done."""
        ...


@dataclass(slots=True)
class Exploration(Generic[S]):
    """What an exploration found.

    Attributes:
        states: How many states were reached.
        transitions: How many steps there are between them.
        depth: The most steps from the beginning to any state.
        problem: The promise that is broken, None when none is.
        trace: The steps to the broken state, the beginning having no name.
        stuck: How many states can't come to rest any more; the trace leads to the nearest.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    problem: str | None = None
    trace: list[tuple[str, S]] = field(default_factory=list)
    stuck: int = 0

    def story(self) -> str:
        """Returns the broken promise and how it came to that, a step a line."""
        lines = [f"{self.problem or 'no promise is broken'}, after {len(self.trace) - 1} steps:"]
        lines += [f"  {number:2}. {label}" for number, (label, _) in enumerate(self.trace) if number]
        if self.trace:
            lines.append(f"  state: {self.trace[-1][1]}")
        return "\n".join(lines)


class BoundExceededError(Exception):
    """There are more states than an exploration was meant to hold, so it would not be exhaustive."""


def explore(model: Model[S], *, most_states: int = 5_000_000) -> Exploration[S]:
    """Reaches every state of a model, unless one breaks a promise.

    Raises:
        BoundExceededError: There are more states than that.
    """
    # Nothing here is garbage, and looking for some among millions of tuples takes most of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _explore(model, most_states)
    finally:
        if collecting:
            gc.enable()


def _explore(model: Model[S], most_states: int) -> Exploration[S]:
    first = model.initial()
    numbers: dict[S, int] = {first: 0}
    states: list[S] = [first]
    parents = array("q", [-1])
    depths = array("l", [0])
    sources, targets = array("l"), array("l")
    found: Exploration[S] = Exploration()
    problem = model.problem(first)
    number = 0
    while problem is None and number < len(states):
        for _, after in model.steps(states[number]):
            known = numbers.get(after)
            if known is None:
                known = numbers[after] = len(states)
                if known >= most_states:
                    raise BoundExceededError(f"more than {most_states} states")
                states.append(after)
                parents.append(number)
                depths.append(depths[number] + 1)
                problem = model.problem(after)
            sources.append(number)
            targets.append(known)
            if problem is not None:
                break
        number += 1
    found.states, found.transitions, found.depth = len(states), len(targets), depths[-1]
    if problem is not None:
        found.problem = problem
        found.trace = _trace(model, states, parents, len(states) - 1)
        return found
    restless = _restless(model, states, sources, targets)
    if restless:
        found.problem = "it can't come to rest any more"
        found.stuck = len(restless)
        found.trace = _trace(model, states, parents, min(restless))
    return found


def _restless(model: Model[S], states: list[S], sources: array[int], targets: array[int]) -> list[int]:
    """Returns the states from which no state at rest can be reached."""
    before: list[list[int]] = [[] for _ in states]
    for source, target in zip(sources, targets, strict=True):
        before[target].append(source)
    calm = bytearray(len(states))
    todo = [number for number, state in enumerate(states) if model.at_rest(state)]
    for number in todo:
        calm[number] = 1
    while todo:
        for source in before[todo.pop()]:
            if not calm[source]:
                calm[source] = 1
                todo.append(source)
    return [number for number, is_calm in enumerate(calm) if not is_calm]


def _trace(model: Model[S], states: list[S], parents: array[int], last: int) -> list[tuple[str, S]]:
    way = [last]
    while parents[way[-1]] >= 0:
        way.append(parents[way[-1]])
    way.reverse()
    return [("", states[way[0]]), *_labelled(model, [states[number] for number in way])]


def _labelled(model: Model[S], way: list[S]) -> Iterator[tuple[str, S]]:
    """Finds the names of the steps of a way by taking them again; they are not kept for every state."""
    for before, after in itertools.pairwise(way):
        for label, reached in model.steps(before):
            if reached == after:
                yield label, after
                break
