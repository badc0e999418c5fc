"""A model of the tickets: a bakery in which everybody's number is read off a listing.

Owns no state but what its states hold. The invariant: numbers and turns are decided by `tickets` itself, and
the order of the steps is that of `TicketLock.acquire`. A listing takes its time: it shows first the tickets
with a number and later those that are still being chosen, in the order of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ebooklet_tx.locks.tickets import Ticket, next_number, stands_before

OVER = ("done", "crashed")


class Writer(NamedTuple):
    """A writer; `listed` is the first half of the listing that it is at, `clear` that it saw nobody before."""

    at: str = "out"
    mine: Ticket | None = None
    listed: frozenset[Ticket] = frozenset()
    clear: bool = False


class State(NamedTuple):
    tickets: frozenset[Ticket]
    writers: tuple[Writer, ...]
    crashes: int = 0


@dataclass(frozen=True)
class Rules:
    """What is decided, as it should be; a mutation replaces one of them."""

    next_number: Callable[[list[Ticket]], int] = next_number
    stands_before: Callable[[Ticket, Ticket], bool] = stands_before
    announces_that_it_chooses: bool = True
    looks_twice: bool = True
    dead_are_removed: bool = True


@dataclass(frozen=True)
class Bounds:
    writers: int = 2
    crashes: int = 0


class TicketModel:
    """Writers that each want to be alone once."""

    def __init__(self, bounds: Bounds, rules: Rules | None = None) -> None:
        self.bounds = bounds
        self.rules = rules or Rules()

    def initial(self) -> State:
        return State(frozenset(), (Writer(),) * self.bounds.writers, self.bounds.crashes)

    def problem(self, state: State) -> str | None:
        inside = [number for number, writer in enumerate(state.writers) if writer.at == "inside"]
        return f"writers {inside} commit at the same time" if len(inside) > 1 else None

    def at_rest(self, state: State) -> bool:
        return all(writer.at in OVER for writer in state.writers)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        for number, writer in enumerate(state.writers):
            yield from self._step(state, number, writer)
            if state.crashes and writer.at not in ("out", *OVER):
                crashed = state._replace(crashes=state.crashes - 1)
                yield f"{number} crashes", _with(crashed, number, Writer("crashed"))
        if self.rules.dead_are_removed:
            yield from self._bury(state)

    def _bury(self, state: State) -> Iterator[tuple[str, State]]:
        """A waiter finds that a ticket stood still for a whole TTL; here only the dead do."""
        for ticket in sorted(state.tickets):
            if state.writers[int(ticket.owner)].at == "crashed":
                yield f"the dead {ticket.owner}'s ticket is removed", _without(state, ticket)

    def _step(self, state: State, number: int, writer: Writer) -> Iterator[tuple[str, State]]:
        name = str(number)
        choosing = Ticket(0, name)
        if writer.at == "out":
            after = _add(state, choosing) if self.rules.announces_that_it_chooses else state
            yield f"{name} says that it is choosing", _with(after, number, Writer("choose"))
        elif writer.at == "choose":
            # Only numbers count, and a listing shows those at the beginning.
            mine = Ticket(self.rules.next_number(list(state.tickets)), name)
            yield f"{name} chooses {mine.number}", _with(state, number, Writer("number", mine))
        elif writer.at == "number" and writer.mine is not None:
            yield f"{name} puts its number", _with(_add(state, writer.mine), number, writer._replace(at="list"))
        elif writer.at == "list":
            listed = frozenset(ticket for ticket in state.tickets if ticket.number)
            listing = writer._replace(at="list on", listed=listed)
            yield f"{name} lists the numbers", _with(state, number, listing)
        elif writer.at == "list on" and writer.mine is not None:
            yield self._listed(state, number, writer, writer.mine)
        elif writer.at == "inside" and writer.mine is not None:
            yield f"{name} leaves", _with(_without(state, writer.mine), number, Writer("done"))

    def _listed(self, state: State, number: int, writer: Writer, mine: Ticket) -> tuple[str, State]:
        choosing = Ticket(0, mine.owner)
        tickets = writer.listed | {ticket for ticket in state.tickets if not ticket.number}
        before = any(self.rules.stands_before(mine, ticket) for ticket in tickets)
        after = _without(state, choosing)
        if before:
            waiting = writer._replace(at="list", listed=frozenset(), clear=False)
            return f"{number} waits", _with(after, number, waiting)
        if writer.clear or not self.rules.looks_twice:
            return f"{number} goes inside", _with(after, number, Writer("inside", mine))
        looking = writer._replace(at="list", listed=frozenset(), clear=True)
        return f"{number} sees nobody before it", _with(after, number, looking)


def _add(state: State, ticket: Ticket) -> State:
    return state._replace(tickets=state.tickets | {ticket})


def _without(state: State, ticket: Ticket) -> State:
    return state._replace(tickets=state.tickets - {ticket})


def _with(state: State, number: int, writer: Writer) -> State:
    return state._replace(writers=(*state.writers[:number], writer, *state.writers[number + 1 :]))
