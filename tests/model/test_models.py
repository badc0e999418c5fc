"""The protocols, explored exhaustively within bounds: the promises hold, and each rule is needed for them.

A mutation breaks one rule and must be found out, or the model would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from ebooklet_tx.locks.tickets import Ticket
from ebooklet_tx.maintenance.collect import dead_since
from ebooklet_tx.sync.commit.swap_rules import Fate, RootSeen, Verdict, fate_of, judge
from tests.model import fork_model, lease_model, push_model, ticket_model
from tests.model.explorer import Exploration, Model, explore
from tests.model.fork_model import ForkModel
from tests.model.lease_model import LeaseModel
from tests.model.push_model import A, B, PushModel, Rows, S
from tests.model.ticket_model import TicketModel

Show = Callable[[str, Exploration[Any]], None]

FIRST: Rows = ((A, 1011), (S, 1011))
SECOND: Rows = ((B, 2021), (S, 2021))
TAKEN_BACK: Rows = ((A, 1100), (S, 1113))
TWO = ((FIRST,), (SECOND,))
ONE = ((FIRST, TAKEN_BACK),)
THREADED = ((FIRST, ((A, 1100),)), (((S, 2021),),))
ALIKE = ((((S, 1011),),), (((S, 2011),),))

Push = push_model.Bounds
Lease = lease_model.Bounds
Tickets = ticket_model.Bounds
Forks = fork_model.Bounds

SOUND: dict[str, Model[Any]] = {
    "push: 2 writers, a reader, a crash, a loss": PushModel(Push(TWO)),
    "push: 2 writers and a reader, every interleaving": PushModel(Push(TWO, losses=0, crashes=0, reduced=False)),
    "push: a writer who takes back, a reader, a crash, 2 losses": PushModel(Push(ONE, losses=2)),
    "push: the same, the first commit of all": PushModel(Push(ONE, losses=2, begun=False)),
    "push: 2 writers, one pulling in two threads": PushModel(
        Push(THREADED, losses=0, crashes=0, reader=False, pulls=1)
    ),
    "push: 2 writers of one value, a crash, a loss": PushModel(Push(ALIKE, reader=False)),
    "lease: 2 sessions, a crash": LeaseModel(Lease(2, crashes=1)),
    "lease: 2 sessions, a loss": LeaseModel(Lease(2, losses=1)),
    "lease: 2 sessions, one forcing, an unlocking": LeaseModel(Lease(2, forces=1, unlocks=1)),
    "tickets: 2 writers, a crash": TicketModel(Tickets(2, crashes=1)),
    "tickets: 3 writers": TicketModel(Tickets(3)),
    "forks: a worker, a push, another writer, a collect": ForkModel(Forks()),
}

LARGER: dict[str, Model[Any]] = {
    "push: 2 writers, a reader, a crash, a loss, every interleaving": PushModel(Push(TWO, reduced=False)),
    "push: 2 writers, one taking back, a crash, 2 losses": PushModel(
        Push(((FIRST, TAKEN_BACK), (SECOND,)), losses=2, reader=False)
    ),
    "push: 2 writers, one pulling in two threads, a crash": PushModel(
        Push(THREADED, losses=0, reader=False, pulls=1)
    ),
    "lease: 3 sessions": LeaseModel(Lease(3)),
    "lease: 2 sessions, a renewal, a loss, a crash": LeaseModel(Lease(2, renewals=1, losses=1, crashes=1)),
    "lease: 2 sessions of 2 pushes, a crash, one forcing": LeaseModel(Lease(2, pushes=2, crashes=1, forces=1)),
    "tickets: 3 writers, a crash": TicketModel(Tickets(3, crashes=1)),
    "forks: the same, a crash": ForkModel(Forks(end=6, crashes=1)),
    "forks: the same, of longer life, a crash": ForkModel(Forks(ttl=2, grace=3, end=9, crashes=1)),
    "forks: the same, 2 collects": ForkModel(Forks(end=6, collects=2)),
}


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Tells people what was explored, past pytest's capture."""

    def tell(name: str, found: Exploration[Any]) -> None:
        with capsys.disabled():
            print(
                f"\n{name}: {found.states} states, {found.transitions} transitions, depth {found.depth}", end=" "
            )

    return tell


@pytest.mark.parametrize("name", SOUND)
def test_every_promise_holds(name: str, show: Show) -> None:
    all_holds(name, SOUND[name], show)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_every_promise_holds_within_larger_bounds(name: str, show: Show) -> None:
    all_holds(name, LARGER[name], show)


def all_holds(name: str, model: Model[Any], show: Show) -> None:
    found = explore(model)
    show(name, found)
    assert found.problem is None, found.story()
    assert found.states > 200


def _untouched_is_ours(seen: RootSeen | None, *, commit_id: str, base_etag: str | None) -> Verdict:
    verdict = judge(seen, commit_id=commit_id, base_etag=base_etag)
    return Verdict.OURS if verdict is Verdict.UNTOUCHED else verdict


def _only_the_root_itself(commit: int, seq: int, base_etag: int | None, *, root_seq: int, **seen: Any) -> Fate:
    fate = fate_of(commit, seq, base_etag, root_seq=root_seq, **seen)  # type: ignore[arg-type]
    return Fate.DROPPED if fate is Fate.APPLIED and seq < root_seq else fate


def _no_ties(mine: Ticket, other: Ticket) -> bool:
    return other.owner != mine.owner and (other.number == 0 or other.number < mine.number)


def _push(scripts: tuple[tuple[Rows, ...], ...], rules: push_model.Rules, **bounds: Any) -> PushModel:
    return PushModel(Push(scripts, **({"reader": False, "crashes": 0} | bounds)), rules)


P = push_model.Rules
L = lease_model.Rules
T = ticket_model.Rules


def _since_the_root(dead: Any, known: Any, root: Any, expired: Any) -> dict[str, datetime]:
    return dead_since(dead, known, root, {})


def _forks(**changed: Any) -> tuple[ForkModel, str]:
    return fork_model.with_rules(**changed), "names W, which is gone"


IN_THREADS = {"losses": 0, "pulls": 1}

BROKEN: dict[str, tuple[Model[Any], str]] = {
    "the old root still there is taken for ours": (_push(TWO, P(judge=_untouched_is_ours)), "not in the chain"),
    "a refusal is not read back": (_push(ONE, P(reads_back=False)), "promise"),
    "the intent is dropped when the root is unchanged": (
        _push(ONE, P(keeps_intent_of_untouched=False)),
        "promise",
    ),
    "the intent is dropped when there is no root": (
        _push(ONE, P(may_still_apply=lambda base, root: False), begun=False),
        "promise",
    ),
    "the history below another's root is not looked at": (
        _push(TWO, P(fate_of=_only_the_root_itself)),
        "promise",
    ),
    "pushes on their way are not told apart": (_push(ONE, P(pushes_are_told_apart=False), losses=2), "promise"),
    "the root is put without If-Match": (_push(TWO, P(store_compares=False)), "overwritten"),
    "the root goes before the packs": (_push(TWO, P(packs_first=False), reader=True), "pack that is not there"),
    "a root older than the base is taken in": (
        _push(THREADED, P(stale_root_is_refused=False), **IN_THREADS),
        "promise",
    ),
    "uncommitted writes get another's commit as base": (
        _push(TWO, P(overlay_before_take_in=False), losses=0),
        "never told of",
    ),
    "a delete leaves no trace while the value is on its way": (
        _push(ONE, P(deletes_stay_while_on_its_way=False)),
        "promise 1",
    ),
    "conflicts are not looked for": (_push(TWO, P(conflicts_are_looked_for=False), losses=0), "never told of"),
    "what was written since is not based on one's own commit": (
        _push(ONE, P(own_rows_become_base=False)),
        "conflict with itself",
    ),
    "the lease is taken over without If-Match": (
        LeaseModel(Lease(2), L(compares_when_taking_over=False)),
        "not the one it looked at",
    ),
    "nobody is fenced off": (LeaseModel(Lease(2), L(owes_fence=lambda step, seen: False)), "commits after"),
    "the fence is not looked at": (LeaseModel(Lease(2), L(fenced_off=lambda root, mine: False)), "commits after"),
    "the fence is noted and the lock not verified": (
        LeaseModel(Lease(2), L(verifies_what_it_noted=False)),
        "commits after",
    ),
    "unlocking forgets that a holder is to be fenced off": (
        LeaseModel(Lease(2, unlocks=1), L(debt_is_passed_on=False)),
        "commits after",
    ),
    "one's own late renewal is taken for another's": (
        LeaseModel(Lease(2, losses=1, renewals=2), L(still_holds=lambda seen, me: False)),
        "is told that it is lost",
    ),
    "nobody says that he is choosing": (
        TicketModel(Tickets(2), T(announces_that_it_chooses=False)),
        "at the same time",
    ),
    "one look is enough": (TicketModel(Tickets(2), T(looks_twice=False)), "at the same time"),
    "equal numbers are no order": (TicketModel(Tickets(2), T(stands_before=_no_ties)), "at the same time"),
    "what a fork protected counts as dead since the root": _forks(dead_since=_since_the_root),
    "forks protect nothing": _forks(forks_protect=False),
    "a collect does not list forks again": _forks(lists_forks_again=False),
    "a collect does not read the root again": _forks(reads_root_again=False),
    "a push does not renew its forks": _forks(renews=False),
    "a fork is renewed up to the very grace": _forks(margin_hours=0),
    "a fork that went while it was renewed is relied on": _forks(missing_is_too_late=False),
    "the dead keep their turn": (
        TicketModel(Tickets(2, crashes=1), T(dead_are_removed=False)),
        "can't come to rest",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found_out(name: str) -> None:
    model, problem = BROKEN[name]
    found = explore(model)
    print(found.story())
    assert found.problem is not None, f"{found.states} states, and nobody noticed"
    assert problem in found.problem
    assert len(found.trace) > 1
    assert all(label for label, _ in found.trace[1:])


@pytest.mark.slow
def test_a_debt_that_is_not_passed_on_is_found_out() -> None:
    """Who took the lease over and could not open frees it: the next one has to fence the first holder off."""
    found = explore(LeaseModel(Lease(3, failures=1), L(debt_is_passed_on=False)))
    print(found.story())
    assert found.problem is not None
    assert "commits after" in found.problem
