"""A model of the lease and the fence: sessions that take turns, freeze, crash and believe what is no more.

Owns no state but what its states hold. The invariant: what to do about a lease is decided by `lease_rules`
and `swap_rules` themselves, and the order of the steps is that of `Lease`, `begin_locked`, `raise_fence` and
`push`.

Time is not in it. A waiter that has seen an ETag twice may find that a whole TTL has passed between, whatever
the holder did meanwhile: so a frozen holder, a slow one and one whose clock is wrong are all there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ebooklet_tx.locks.lease_rules import (
    Holder,
    LeaseRecord,
    Seen,
    Step,
    Watch,
    Written,
    judge_write,
    next_step,
    owes_fence,
    still_holds,
    watch_on,
)
from ebooklet_tx.sync.commit.swap_rules import RootSeen, Verdict, fenced_off, judge

TTL = 60.0
OVER = ("closed", "lost", "crashed", "failed")
"""Where a session does nothing any more."""

ALONE = ("fence", "round")
"""Where a session only thinks: the explorer lets it go on first."""


class Commit(NamedTuple):
    """What a root says; its ETag is its place in the chain, which nothing else ever has."""

    session: int
    number: int
    fence: int


class Put(NamedTuple):
    """A root on its way, to replace the one that `if_match` others came before."""

    commit: Commit
    if_match: int


class Write(NamedTuple):
    """A lease on its way; `purpose` says what goes on when it is there."""

    session: int
    record: LeaseRecord
    if_match: str | None
    purpose: str
    step: Step = Step.KEEP
    seen: Seen | None = None


class Session(NamedTuple):
    """A session that takes the lease once.

    Attributes:
        at: Where it stands in its program.
        watch: Since when the waiter has seen the lease's ETag.
        write: Its write of the lease, while that is under way.
        put: Its swap of the root, while that is under way.
        etag: The ETag of its lease.
        owed: Whether it has to raise the fence.
        fence: The fence that it noted when it began.
        base: The root on which it stands: how many commits there were, and their fence.
        pushes: How many it has still to make.
    """

    at: str
    pushes: int
    watch: Watch | None = None
    write: Write | None = None
    put: Put | None = None
    etag: str = ""
    owed: bool = False
    fence: int = 0
    base: tuple[int, int] = (0, 0)


class State(NamedTuple):
    """Everything; `order` is what really happened: who got the lease, one after the other."""

    lease: Seen | None
    chain: tuple[Commit, ...]
    order: tuple[int, ...]
    sessions: tuple[Session, ...]
    writes: tuple[Write, ...] = ()
    puts: tuple[Put, ...] = ()
    losses: int = 0
    crashes: int = 0
    forces: int = 0
    unlocks: int = 0
    failures: int = 0
    renewals: int = 0
    unlocked: bool = False
    flaw: str | None = None


@dataclass(frozen=True)
class Rules:
    """What is decided, as it should be; a mutation replaces one of them."""

    next_step: Callable[..., Step] = next_step
    judge_write: Callable[..., Written] = judge_write
    still_holds: Callable[[Seen | None, Holder], bool] = still_holds
    owes_fence: Callable[[Step, Seen | None], bool] = owes_fence
    judge: Callable[..., Verdict] = judge
    fenced_off: Callable[[int, int], bool] = fenced_off
    compares: bool = True
    compares_when_taking_over: bool = True
    verifies_what_it_noted: bool = True
    debt_is_passed_on: bool = True


@dataclass(frozen=True)
class Bounds:
    """How much happens in a model: sessions, pushes of each, and how many mishaps of each kind."""

    sessions: int = 2
    pushes: int = 1
    losses: int = 0
    crashes: int = 0
    forces: int = 0
    unlocks: int = 0
    failures: int = 0
    renewals: int = 0


def holder(number: int) -> Holder:
    return Holder(str(number), "host", "boot", number + 1)


class LeaseModel:
    """Sessions that want to push under the lease."""

    def __init__(self, bounds: Bounds, rules: Rules | None = None) -> None:
        self.bounds = bounds
        self.rules = rules or Rules()

    def initial(self) -> State:
        b = self.bounds
        return State(
            lease=None,
            chain=(Commit(-1, 0, 0),),
            order=(),
            sessions=(Session("out", b.pushes),) * b.sessions,
            losses=b.losses,
            crashes=b.crashes,
            forces=b.forces,
            unlocks=b.unlocks,
            failures=b.failures,
            renewals=b.renewals,
        )

    def problem(self, state: State) -> str | None:
        return state.flaw

    def at_rest(self, state: State) -> bool:
        return all(session.at in OVER for session in state.sessions)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        if state.flaw is not None:
            return
        for number, session in enumerate(state.sessions):
            if session.at in ALONE:
                yield from self._program(state, number, session)
                return
        for write in state.writes:
            rest = tuple(other for other in state.writes if other is not write)
            after, applied = self._write(state._replace(writes=rest), write)
            if applied:
                yield f"{write.session}'s lost write of the lease arrives after all", _pruned(after)
        for put in state.puts:
            rest_puts = tuple(other for other in state.puts if other is not put)
            after, applied = self._swap(state._replace(puts=rest_puts), put)
            if applied:
                yield f"{put.commit.session}'s lost commit arrives after all", _pruned(after)
        begun = True
        for number, session in enumerate(state.sessions):
            # Sessions are all alike: which of those that have not begun goes first is all the same.
            if not begun:
                break
            begun = session != Session("out", self.bounds.pushes)
            yield from self._program(state, number, session)
            if state.crashes and session.at not in OVER and session.at != "out":
                yield f"{number} crashes", _crashed(state, number, session)
        if state.unlocks and state.lease is not None and state.lease.record is not None:
            yield from self._unlock(state, state.lease.record)

    def _unlock(self, state: State, record: LeaseRecord) -> Iterator[tuple[str, State]]:
        """`force_release`, by somebody at a command line."""
        if record.held:
            freed = LeaseRecord(False, holder(99), "unlocked", TTL, 0, self.rules.debt_is_passed_on)
            after = state._replace(lease=Seen("unlocked", freed), unlocks=state.unlocks - 1, unlocked=True)
            yield "somebody unlocks it", _unwatched(after)

    # -- the store -------------------------------------------------------------------------

    def _write(self, state: State, write: Write) -> tuple[State, bool]:
        etag = state.lease.etag if state.lease is not None else None
        taking = write.purpose == "take"
        compares = self.rules.compares and (self.rules.compares_when_taking_over or not taking)
        if compares and etag != write.if_match:
            return state, False
        flaw = state.flaw
        if taking and etag != write.if_match:
            flaw = f"{write.session} takes a lease that is not the one it looked at"
        order = state.order
        if taking:
            order = (*(other for other in order if other != write.session), write.session)
        lease = Seen(write.record.token, write.record)
        return _unwatched(state._replace(lease=lease, order=order, flaw=flaw)), True

    def _swap(self, state: State, put: Put) -> tuple[State, bool]:
        if len(state.chain) != put.if_match:
            return state, False
        mine = state.order.index(put.commit.session)
        after = [c.session for c in state.chain[1:] if state.order.index(c.session) > mine]
        flaw = state.flaw
        if after:
            flaw = f"{put.commit.session} commits after {after[0]}, which took the lock from it, has committed"
        return state._replace(chain=(*state.chain, put.commit), flaw=flaw), True

    # -- a session -------------------------------------------------------------------------

    def _program(self, state: State, number: int, session: Session) -> Iterator[tuple[str, State]]:
        if session.at == "out":
            yield from self._look(state, number, session)
        elif session.at == "lease" and session.write is not None:
            yield from self._send_lease(state, number, session, session.write)
        elif session.at == "lease?" and session.write is not None:
            yield from self._read_lease_back(state, number, session, session.write)
        elif session.at == "note":
            yield from self._note(state, number, session)
        elif session.at == "fence":
            yield self._make(state, number, session, session.base[1] + 1)
        elif session.at == "work":
            yield from self._work(state, number, session)
        elif session.at == "round":
            yield self._round(state, number, session)
        elif session.at == "root" and session.put is not None:
            yield from self._send_root(state, number, session, session.put)
        elif session.at == "root?" and session.put is not None:
            yield from self._read_root_back(state, number, session, session.put)

    def _look(self, state: State, number: int, session: Session) -> Iterator[tuple[str, State]]:
        seen = state.lease
        crashed = bool(
            seen is not None
            and seen.record is not None
            and seen.record.holder.pid <= len(state.sessions)
            and state.sessions[seen.record.holder.pid - 1].at == "crashed"
        )
        cases = [("", 0.0, False, False), (" after a TTL", TTL, False, False)]
        if crashed:
            cases.append((", its holder being dead", 0.0, True, False))
        if state.forces:
            cases.append((" by force", 0.0, True, True))
        for how, now, dead, forced in cases:
            step = self.rules.next_step(seen, session.watch, now, holder(number), dead=dead)
            if step is Step.WAIT and seen is not None:
                waiting = session._replace(watch=watch_on(seen, session.watch, 0.0))
                if waiting != session:
                    yield f"{number} waits", _with(state, number, waiting)
                continue
            if now and step is not Step.TAKE_OVER:
                continue
            taking = session._replace(watch=None)
            write = self._lease_of(state, number, taking, "take", seen.etag if seen is not None else None)
            taking = taking._replace(at="lease", write=write._replace(step=step, seen=seen))
            after = state._replace(forces=state.forces - 1) if forced else state
            yield f"{number} goes about it{how}: {step.name}", _with(after, number, taking)

    def _lease_of(self, state: State, number: int, session: Session, purpose: str, if_match: str | None) -> Write:
        owed = session.owed and self.rules.debt_is_passed_on
        token = _new_token(state, number)
        record = LeaseRecord(purpose != "release", holder(number), token, TTL, 0, owed)
        return Write(number, record, if_match, purpose)

    def _renewing(self, state: State, number: int, session: Session, purpose: str) -> Session:
        write = self._lease_of(state, number, session, purpose, session.etag)
        return session._replace(at="lease", write=write)

    def _send_lease(
        self, state: State, number: int, session: Session, write: Write
    ) -> Iterator[tuple[str, State]]:
        after, applied = self._write(state, write)
        unsure = session._replace(at="lease?")
        if applied:
            after = _pruned(after)
            written = self._written(session, write, write.record.token)
            yield f"{number} has written the lease ({write.purpose})", _with(after, number, written)
            if state.losses:
                lost = after._replace(losses=state.losses - 1)
                yield f"{number} has written the lease, the answer lost", _with(lost, number, unsure)
                astray = state._replace(losses=state.losses - 1, writes=_and(state.writes, write))
                yield f"{number}'s write of the lease goes astray", _with(astray, number, unsure)
        else:
            yield f"{number}'s write of the lease is refused", _with(state, number, unsure)

    def _written(self, session: Session, write: Write, etag: str) -> Session:
        session = session._replace(write=None, etag=etag)
        if write.purpose == "take":
            return session._replace(at="note", owed=self.rules.owes_fence(write.step, write.seen))
        if write.purpose == "note":
            session = session._replace(fence=session.base[1])
            return session._replace(at="fence" if session.owed else "work")
        return session._replace(at={"renew": "work", "check": "round", "release": "closed"}[write.purpose])

    def _read_lease_back(
        self, state: State, number: int, session: Session, write: Write
    ) -> Iterator[tuple[str, State]]:
        seen = state.lease
        became = self.rules.judge_write(seen, token=write.record.token, if_match=write.if_match)
        if became is Written.OURS and seen is not None:
            written = self._written(session, write, seen.etag)
            yield f"{number} reads its lease back", _with(state, number, written)
        elif became is Written.UNTOUCHED:
            yield f"{number} sends the lease again", _with(state, number, session._replace(at="lease"))
            yield (
                f"{number} gives the lease up",
                _with(state, number, self._given_up(state, number, session, write)),
            )
        elif write.purpose == "take":
            yield f"{number} was second", _with(state, number, session._replace(at="out", write=None))
        elif self.rules.still_holds(seen, holder(number)) and seen is not None:
            again = self._renewing(state, number, session._replace(etag=seen.etag), write.purpose)
            yield f"{number} finds its own older lease", _with(state, number, again)
        elif write.purpose == "release":
            yield f"{number} leaves the lease alone", _with(state, number, _closed(session))
        else:
            yield f"{number} finds its lease gone", _lost(state, number, session)

    def _given_up(self, state: State, number: int, session: Session, write: Write) -> Session:
        """The store can't be reached: what becomes of the session."""
        session = session._replace(write=None)
        if write.purpose == "take":
            return session._replace(at="failed")
        if write.purpose == "note":
            return self._renewing(state, number, session, "release")
        return session._replace(at="closed" if write.purpose == "release" else "work")

    def _note(self, state: State, number: int, session: Session) -> Iterator[tuple[str, State]]:
        """`pull`, then `note_fence`: what the root says counts if the lease was ours after that."""
        noted = session._replace(base=(len(state.chain), state.chain[-1].fence))
        if self.rules.verifies_what_it_noted:
            noted = self._renewing(state, number, noted, "note")
        else:
            noted = noted._replace(fence=noted.base[1], at="fence" if noted.owed else "work")
        yield f"{number} reads the root", _with(state, number, noted)
        if state.failures:
            failing = self._renewing(state, number, session, "release")
            yield (
                f"{number} can't open and lets go",
                _with(state._replace(failures=state.failures - 1), number, failing),
            )

    def _work(self, state: State, number: int, session: Session) -> Iterator[tuple[str, State]]:
        if session.pushes:
            # A frozen holder may still believe that its lease is fresh.
            yield f"{number} pushes", _with(state, number, session._replace(at="round"))
            yield (
                f"{number} checks its lease",
                _with(state, number, self._renewing(state, number, session, "check")),
            )
        if state.renewals:
            renewing = self._renewing(state, number, session, "renew")
            yield f"{number} renews", _with(state._replace(renewals=state.renewals - 1), number, renewing)
        if not session.pushes or state.failures:
            after = state if not session.pushes else state._replace(failures=state.failures - 1)
            yield f"{number} closes", _with(after, number, self._renewing(state, number, session, "release"))

    def _round(self, state: State, number: int, session: Session) -> tuple[str, State]:
        if self.rules.fenced_off(session.base[1], session.fence):
            return f"{number} finds itself fenced off", _lost(state, number, session)
        return self._make(state, number, session, session.base[1])

    def _make(self, state: State, number: int, session: Session, fence: int) -> tuple[str, State]:
        used = {c.number for c in (*state.chain, *(put.commit for put in state.puts)) if c.session == number}
        commit = Commit(number, min(set(range(len(used) + 1)) - used), fence)
        making = session._replace(at="root", put=Put(commit, session.base[0]))
        return f"{number} makes a commit with fence {fence}", _with(state, number, making)

    def _send_root(self, state: State, number: int, session: Session, put: Put) -> Iterator[tuple[str, State]]:
        after, applied = self._swap(state, put)
        unsure = session._replace(at="root?")
        if applied:
            after = _pruned(after)
            yield f"{number}'s commit is in", _with(after, number, self._done(session, put))
            if state.losses:
                lost = after._replace(losses=state.losses - 1)
                yield f"{number}'s commit is in, the answer lost", _with(lost, number, unsure)
                astray = state._replace(losses=state.losses - 1, puts=_and(state.puts, put))
                yield f"{number}'s commit goes astray", _with(astray, number, unsure)
        else:
            yield f"{number}'s commit is refused", _with(state, number, unsure)

    def _done(self, session: Session, put: Put) -> Session:
        base = (put.if_match + 1, put.commit.fence)
        if session.owed:
            return session._replace(at="work", put=None, base=base, fence=put.commit.fence, owed=False)
        return session._replace(at="work", put=None, base=base, pushes=session.pushes - 1)

    def _read_root_back(
        self, state: State, number: int, session: Session, put: Put
    ) -> Iterator[tuple[str, State]]:
        there = state.chain[-1]
        seen = RootSeen(str(len(state.chain)), str(there[:2]), there.fence)
        verdict = self.rules.judge(seen, commit_id=str(put.commit[:2]), base_etag=str(put.if_match))
        base = (len(state.chain), there.fence)
        if verdict is Verdict.OURS:
            yield f"{number} reads its commit back", _with(state, number, self._done(session, put))
        elif verdict is Verdict.UNTOUCHED:
            yield f"{number} sends the root again", _with(state, number, session._replace(at="root"))
            given_up = self._renewing(state, number, session._replace(put=None), "release")
            yield f"{number} gives up and closes", _with(state, number, given_up)
        elif put.commit in state.chain:
            # The log of the other's root names it.
            done = self._done(session, put)._replace(base=base)
            yield f"{number} finds its commit below", _with(state, number, done)
        else:
            again = session._replace(at="note" if session.owed else "round", put=None, base=base)
            yield f"{number} was second", _with(state, number, again)


def _with(state: State, number: int, session: Session) -> State:
    if session.at in OVER:
        session = Session(session.at, 0)
    sessions = state.sessions
    return state._replace(sessions=(*sessions[:number], session, *sessions[number + 1 :]))


def _unwatched(state: State) -> State:
    """A watch of an ETag that is no more is as good as none."""
    etag = state.lease.etag if state.lease is not None else None
    return state._replace(
        sessions=tuple(
            session._replace(watch=None) if session.watch is not None and session.watch.etag != etag else session
            for session in state.sessions
        )
    )


def _new_token(state: State, number: int) -> str:
    """Returns a token that nobody has heard of, the same one in like states."""
    writes = [*state.writes, *(session.write for session in state.sessions if session.write is not None)]
    used = {state.lease.etag} if state.lease is not None else set()
    used.update(session.etag for session in state.sessions)
    used.update(session.watch.etag for session in state.sessions if session.watch is not None)
    for write in writes:
        used.update((write.record.token, write.if_match or "", write.seen.etag if write.seen is not None else ""))
    return next(token for count in range(99) if (token := f"{number}.{count}") not in used)


def _closed(session: Session) -> Session:
    return session._replace(at="closed", write=None)


def _lost(state: State, number: int, session: Session) -> State:
    """`LockLostError`: right only if somebody took the lock, or gave it away."""
    robbed = state.order.index(number) < len(state.order) - 1
    if not robbed and not state.unlocked and state.flaw is None:
        state = state._replace(flaw=f"{number} holds the lock, and is told that it is lost")
    return _with(state, number, session._replace(at="lost"))


def _crashed(state: State, number: int, session: Session) -> State:
    if session.at == "lease" and session.write is not None:
        state = state._replace(writes=_and(state.writes, session.write))
    if session.at == "root" and session.put is not None:
        state = state._replace(puts=_and(state.puts, session.put))
    return _with(_pruned(state)._replace(crashes=state.crashes - 1), number, session._replace(at="crashed"))


def _and(there: tuple[NamedTuple, ...], one: NamedTuple) -> tuple:  # type: ignore[type-arg]
    return tuple(sorted({*there, one}, key=repr))


def _pruned(state: State) -> State:
    """Leaves out commits that can't take effect any more; leases stay, in case a rule is broken."""
    return state._replace(puts=tuple(put for put in state.puts if put.if_match == len(state.chain)))
