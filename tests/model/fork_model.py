"""A model of a fork's life: a worker, its coordinator, another writer, and collects, on the store's one clock.

Owns no state but what its states hold. The invariant: what is old, since when it is dead, and what a renewal is
worth is decided by the functions that the package itself decides with; the order of the steps is that of
`PartWork`, `renew`, `push` and `sweep`.

There are three objects: F, the fork's; B, a pack that the fork's base names and that another writer then
overwrites; and W, the pack that the worker sends. An hour is a step of the clock, which every actor may sleep
through, but one: between its renewal and its swap a push takes less than the fork's time to live and the grace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ebooklet_tx.maintenance.collect import dead_since, is_old
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.forks.protection import Renewal, judge_renewal

F, B, W = "FBW"
Times = tuple[tuple[str, int], ...]
Names = frozenset[str]
HOUR = timedelta(hours=1)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Collect(NamedTuple):
    """A collect at work: what it has listed, read and decided so far."""

    at: str = "begin"
    listed: Times = ()
    named: Names = frozenset()
    root_written: int = 0
    read_fork: bool = False
    doomed: Names = frozenset()


class State(NamedTuple):
    """Everything.

    Attributes:
        now: The store's clock, in hours.
        named: What the root names.
        root_written: When the root was written.
        objects: What is there, and when each was written.
        note: Since when earlier collects have seen what dead.
        worker: Where the worker stands: "", "reads", "done" or "gone".
        push: Where the coordinator stands: "", "read", "looked", "renewed", "pushed", "refused" or "gone".
        before: When the fork's object had been written before it was renewed; None where it was gone then.
        overwritten: Whether the other writer has made its commit.
        collect: The collect at work.
        collects: How many are still to come.
        crashes: How many crashes are still to come.
    """

    now: int = 0
    named: Names = frozenset(B)
    root_written: int = 0
    objects: Times = ((B, 0), (F, 0))
    note: Times = ()
    worker: str = ""
    push: str = ""
    before: int | None = None
    overwritten: bool = False
    collect: Collect | None = None
    collects: int = 2
    crashes: int = 1


@dataclass(frozen=True)
class Rules:
    """What is decided, as it should be; a mutation replaces one of them."""

    is_old: Callable[..., bool] = is_old
    dead_since: Callable[..., dict[str, datetime]] = dead_since
    judge_renewal: Callable[..., Renewal] = judge_renewal
    margin_hours: int = 1
    forks_protect: bool = True
    lists_forks_again: bool = True
    reads_root_again: bool = True
    renews: bool = True
    missing_is_too_late: bool = True


@dataclass(frozen=True)
class Bounds:
    """How long a fork lives, how long garbage is kept, and when the story ends, in hours."""

    ttl: int = 1
    grace: int = 2
    end: int = 5
    collects: int = 1
    crashes: int = 0


def at(hours: int) -> datetime:
    return EPOCH + hours * HOUR


class ForkModel:
    """See the module."""

    def __init__(self, bounds: Bounds | None = None, rules: Rules | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.rules = rules or Rules()

    def initial(self) -> State:
        return State(collects=self.bounds.collects, crashes=self.bounds.crashes)

    def at_rest(self, state: State) -> bool:
        never_begun = state.worker == "" and F not in dict(state.objects)
        return state.collect is None and (never_begun or state.push in ("pushed", "refused", "gone"))

    def problem(self, state: State) -> str | None:
        there = dict(state.objects)
        for name in sorted(state.named):
            if name not in there:
                return f"the root names {name}, which is gone"
        if state.worker == "reads" and B not in there and self._is_live(there, state.now):
            return "a worker reads a live fork, and a part of its base is gone"
        return None

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        if state.now < self.bounds.end and self._may_pass(state):
            yield "an hour passes", state._replace(now=state.now + 1)
        yield from self._worker(state)
        yield from self._coordinator(state)
        if not state.overwritten:
            yield (
                "another writer overwrites what lies in B",
                state._replace(named=state.named - {B}, root_written=state.now, overwritten=True),
            )
        yield from self._collect(state)

    # -- the actors ------------------------------------------------------------------------------

    def _is_live(self, there: dict[str, int], now: int) -> bool:
        return F in there and now < there[F] + self.bounds.ttl

    def _may_pass(self, state: State) -> bool:
        """Between its renewal and its swap a push does not sleep for a time to live and the grace."""
        written = dict(state.objects).get(F)
        if state.push != "renewed" or written is None:
            return True
        return state.now + 1 < written + self.bounds.ttl + self.bounds.grace

    def _worker(self, state: State) -> Iterator[tuple[str, State]]:
        there = dict(state.objects)
        if state.worker == "" and F in there:
            yield "the worker opens its part", state._replace(worker="reads")
        if state.worker == "reads":
            yield "the worker sends W, and hands its receipt back", _put(state, W)._replace(worker="done")
        if state.worker == "reads" and state.crashes:
            yield "the worker dies", state._replace(worker="gone", push="gone", crashes=state.crashes - 1)

    def _coordinator(self, state: State) -> Iterator[tuple[str, State]]:
        there, rules = dict(state.objects), self.rules
        if state.push == "" and state.worker == "done":
            if not rules.renews:
                yield "the coordinator pushes", self._pushed(state)
            elif F in there:
                yield "the push reads the fork", state._replace(push="read")
            else:
                yield "the push finds no fork", state._replace(push="refused")
        if state.push == "read":
            # Gone since it was read: nothing of it can be relied on.
            refused = F not in there and rules.missing_is_too_late
            yield (
                "the push looks when the fork was written",
                state._replace(push="refused" if refused else "looked", before=there.get(F)),
            )
        if state.push == "looked":
            yield "the push writes the fork anew", _put(state, F)._replace(push="renewed")
        if state.push == "renewed":
            yield "the push swaps the root, or refuses", self._decided(state)
        if state.push in ("read", "looked", "renewed") and state.crashes:
            yield "the coordinator dies", state._replace(push="gone", crashes=state.crashes - 1)

    def _decided(self, state: State) -> State:
        if state.before is None:
            return self._pushed(state)
        written = dict(state.objects).get(F, state.now)
        verdict = self.rules.judge_renewal(
            at(state.before),
            at(written),
            ttl_seconds=self.bounds.ttl * 3600,
            left_seconds=(self.bounds.grace - self.rules.margin_hours) * 3600,
        )
        gone = verdict is Renewal.LATE and W not in dict(state.objects)
        if verdict is Renewal.TOO_LATE or gone:
            return state._replace(push="refused")
        return self._pushed(state)

    def _pushed(self, state: State) -> State:
        return state._replace(push="pushed", named=state.named | {W}, root_written=state.now)

    def _collect(self, state: State) -> Iterator[tuple[str, State]]:
        work = state.collect
        if work is None:
            if state.collects:
                begun = Collect("listed", state.objects)
                yield "a collect lists", state._replace(collect=begun, collects=state.collects - 1)
            return
        if work.at == "listed":
            read = work._replace(
                at="read",
                named=state.named,
                root_written=state.root_written,
                read_fork=F in dict(work.listed) and F in dict(state.objects),
            )
            yield "the collect reads root and fork", state._replace(collect=read)
        if work.at == "read":
            yield "the collect notes what is dead", self._noted(state, work)
        if work.at == "noted":
            relisted = work._replace(at="relisted")
            if self.rules.lists_forks_again and dict(state.objects).get(F) not in (
                None,
                dict(work.listed).get(F),
            ):
                relisted = relisted._replace(doomed=work.doomed - {F, B, W})
            yield "the collect lists forks again", state._replace(collect=relisted)
        if work.at == "relisted":
            named = state.named if self.rules.reads_root_again else frozenset[str]()
            yield (
                "the collect reads the root again",
                state._replace(collect=work._replace(at="deletes", doomed=work.doomed - named)),
            )
        if work.at == "deletes":
            for name in sorted(work.doomed):
                left = tuple(item for item in state.objects if item[0] != name)
                after = work._replace(doomed=work.doomed - {name})
                yield f"the collect deletes {name}", state._replace(objects=left, collect=after)
            yield "the collect ends", state._replace(collect=None)

    def _noted(self, state: State, work: Collect) -> State:
        listed, now = dict(work.listed), state.now
        live = expired = frozenset[str]()
        if self.rules.forks_protect and work.read_fork:
            protected = frozenset({F, B, W})
            if self._is_live(listed, now):
                live = protected
            else:
                expired = protected
        dead = [name for name in listed if name not in work.named and name not in live]
        since = self.rules.dead_since(
            dead,
            {name: at(hour) for name, hour in state.note},
            at(work.root_written),
            {name: at(listed[F] + self.bounds.ttl) for name in expired},
        )
        grace = self.bounds.grace * HOUR
        doomed = {
            name
            for name in dead
            if self.rules.is_old(StoredObject(name, "", 0, at(listed[name])), since.get(name), at(now), grace)
        }
        note = tuple(sorted((name, (moment - EPOCH) // HOUR) for name, moment in since.items()))
        return state._replace(note=note, collect=work._replace(at="noted", doomed=frozenset(doomed)))


def _put(state: State, name: str) -> State:
    """Returns the state in which an object was just written."""
    there = dict(state.objects) | {name: state.now}
    return state._replace(objects=tuple(sorted(there.items())))


def with_rules(**changed: object) -> ForkModel:
    """Returns a model in which some rules are other ones."""
    return ForkModel(rules=replace(Rules(), **changed))  # type: ignore[arg-type]
