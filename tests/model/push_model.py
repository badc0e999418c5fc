"""A model of pull and push: writers with journals, a reader, and a store that answers when it likes.

Owns no state but what its states hold. The invariant: every decision is made by the function that the
package itself decides with (`swap_rules`), or by a copy of its SQL that a test holds against the SQL; the order
of the steps is that of `push` and `pull`.

What the model takes as given: of every key it is known what the base commit has (the model of the index is about
the rest), history is never cut, one SQLite transaction is one step, a GET sees one state of an object, an
object that is not the root is never changed, and no ETag ever comes back.

A value is a number: its digest is the number modulo 100 (0: the key is not there), all of it is the
operation's timestamp. Writer 0 writes 1000 and up, writer 1 writes 2000 and up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ebooklet_tx.sync.commit.swap_rules import Fate, RootSeen, Verdict, fate_of, judge, may_still_apply

A, B, S = range(3)
KEYS = (A, B, S)
NEVER = (0, 0)
"""A remote or base version of a key that nobody has heard of: commit 0, no digest."""

ALONE = frozenset({"take", "after", "round", "upload", "intent", "finish", "told", "closed"})
"""Where a writer touches nothing that others look at or change, except that it adds packs: what the others
do at that time comes to the same before and after, so the explorer lets the writer go on first."""

Version = tuple[int, int]
Rows = tuple[tuple[int, int], ...]


class Root(NamedTuple):
    """A root object; its ETag is its commit's id, which no other root ever has."""

    commit: int
    seq: int
    index: tuple[Version, ...]
    log: tuple[int, ...]


class Intent(NamedTuple):
    commit: int
    seq: int
    base_etag: int | None
    rows: Rows

    @property
    def last_number(self) -> int:
        """The number of its last operation: values grow with them."""
        return max((value for _, value in self.rows), default=0)


class Put(NamedTuple):
    """A root on its way to the store, to replace another."""

    writer: int
    root: Root
    if_match: int | None
    rows: Rows


class Journal(NamedTuple):
    """What survives a crash; `base_etag` is None when only the commit's id is known.

    `saved` is what open pushes sent of keys that were written since: commit, key and value.
    """

    base_seq: int = 0
    base_commit: int | None = None
    base_etag: int | None = None
    remote: tuple[Version, ...] = (NEVER,) * 3
    pending: tuple[int | None, ...] = (None,) * 3
    base: tuple[Version, ...] = (NEVER,) * 3
    intents: tuple[Intent, ...] = ()
    log: tuple[int, ...] = ()
    saved: tuple[tuple[int, int, int], ...] = ()

    @property
    def stand(self) -> tuple[int, int | None, int | None]:
        return self.base_seq, self.base_commit, self.base_etag


class Fetched(NamedTuple):
    """A root that was read, and where the journal stood before."""

    root: Root
    since: tuple[int, int | None, int | None]


class Writer(NamedTuple):
    """A session. `acked`, `seen`, `made` and `written` are the model's own notes, not the program's.

    Attributes:
        at: Where it stands in its program.
        then: Where it goes on when the pull that it makes is done.
        overlay: What was written and is not committed.
        put: The commit that it is swapping in.
        got: The root that it has read.
        second: What a second thread of it has read, to take it in.
        acked: For each key the last value whose local commit was acknowledged.
        seen: The value of the shared key that the user knew, or was told of, when writing.
        written: How many transactions of its script were begun.
        made: How many commits it has made.
    """

    at: str
    journal: Journal
    then: str = ""
    overlay: Rows = ()
    put: Put | None = None
    got: Fetched | None = None
    second: Fetched | None = None
    acked: tuple[int | None, ...] = (None,) * 3
    seen: int = 0
    written: int = 0
    made: int = 0


class Reader(NamedTuple):
    journal: Journal
    got: Root | None = None


class State(NamedTuple):
    """Everything; `chain` is what really happened: each commit with its rows, in order."""

    root: Root | None
    chain: tuple[tuple[int, Rows], ...]
    packs: frozenset[int]
    flying: tuple[Put, ...]
    writers: tuple[Writer, ...]
    reader: Reader | None
    losses: int
    crashes: int
    pulls: int
    flaw: str | None = None


@dataclass(frozen=True)
class Rules:
    """What is decided, as it should be; a mutation replaces one of them."""

    judge: Callable[..., Verdict] = judge
    fate_of: Callable[..., Fate] = fate_of
    may_still_apply: Callable[..., bool] = may_still_apply
    store_compares: bool = True
    reads_back: bool = True
    keeps_intent_of_untouched: bool = True
    packs_first: bool = True
    stale_root_is_refused: bool = True
    overlay_before_take_in: bool = True
    deletes_stay_while_on_its_way: bool = True
    own_rows_become_base: bool = True
    pushes_are_told_apart: bool = True
    conflicts_are_looked_for: bool = True


@dataclass(frozen=True)
class Bounds:
    """How much happens in a model.

    Attributes:
        scripts: For each writer its transactions, each the rows that it writes.
        losses: How many requests or answers of a swap may be lost.
        crashes: How many times a writer may crash.
        reader: Whether there is a reader.
        pulls: How often a second thread of writer 0 may pull.
        begun: Whether there is a database at the beginning.
        reduced: Whether steps that touch nothing of others' are taken first, see `ALONE`.
    """

    scripts: tuple[tuple[Rows, ...], ...]
    losses: int = 1
    crashes: int = 1
    reader: bool = True
    pulls: int = 0
    begun: bool = True
    reduced: bool = True


def digest(value: int | None) -> int:
    return 0 if value is None else value % 100


def author(value: int) -> int:
    return value // 1000 - 1


def in_conflict(pending: int | None, base: Version, remote: Version) -> bool:
    """What `conflicts.CONFLICTING` says."""
    if pending is None or digest(remote[1]) == digest(base[1]):
        return False
    return digest(remote[1]) != digest(pending)


def is_agreeing(pending: int | None, base: Version, remote: Version) -> bool:
    """What `conflicts.AGREEING` says."""
    if not digest(pending) or digest(remote[1]) == digest(base[1]):
        return False
    return digest(remote[1]) == digest(pending)


def is_done(pending: int | None, remote: Version) -> bool:
    """What the statement of `known.drop_done` says: the operation was carried out, where no push is open."""
    if pending is None:
        return False
    if not digest(pending):
        return not digest(remote[1])
    return pending == remote[1]


def fold(chain: tuple[tuple[int, Rows], ...]) -> tuple[Version, ...]:
    """Returns what each key is after a chain of commits."""
    index = [NEVER] * len(KEYS)
    for seq, (_, rows) in enumerate(chain, 1):
        for key, value in rows:
            index[key] = (seq, value)
    return tuple(index)


class PushModel:
    """Writers that push, a reader that pulls, and at most one crash."""

    def __init__(self, bounds: Bounds, rules: Rules | None = None) -> None:
        self.bounds = bounds
        self.rules = rules or Rules()

    def initial(self) -> State:
        chain: tuple[tuple[int, Rows], ...] = ((1, ((S, 1),)),) if self.bounds.begun else ()
        root = Root(1, 1, fold(chain), (1,)) if self.bounds.begun else None
        journal = Journal()
        if root is not None:
            journal = Journal(1, 1, 1, root.index, log=(1,))
        return State(
            root=root,
            chain=chain,
            packs=frozenset({1}),
            flying=(),
            writers=tuple(Writer("idle", journal) for _ in self.bounds.scripts),
            reader=Reader(Journal()) if self.bounds.reader else None,
            losses=self.bounds.losses,
            crashes=self.bounds.crashes,
            pulls=self.bounds.pulls,
        )

    # -- promises --------------------------------------------------------------------------

    def problem(self, state: State) -> str | None:
        if state.flaw is not None:
            return state.flaw
        index = fold(state.chain)
        for number, writer in enumerate(state.writers):
            for key in KEYS:
                value = writer.acked[key]
                if value is None or writer.journal.pending[key] is not None:
                    continue
                if key == S:
                    kept = any(k == S and digest(v) == digest(value) for _, rows in state.chain for k, v in rows)
                else:
                    kept = digest(index[key][1]) == digest(value)
                if not kept:
                    return f"promise 1: the value {value} that writer {number} committed is lost"
        return None

    def at_rest(self, state: State) -> bool:
        return all(
            writer.at == "idle"
            and not writer.overlay
            and writer.written == len(self.bounds.scripts[number])
            and writer.journal.pending == (None,) * 3
            for number, writer in enumerate(state.writers)
        )

    def _checked(self, state: State, journal: Journal, who: str) -> State:
        """Notes it if a journal's base is no state that the chain ever was in."""
        if state.flaw is not None or journal.base_commit is None:
            return state
        ids = [commit for commit, _ in state.chain]
        if journal.base_commit not in ids:
            return state._replace(flaw=f"promise 2: {who} stands on a commit that is not in the chain")
        there = ids.index(journal.base_commit) + 1
        if fold(state.chain[:there]) != journal.remote or journal.base_seq != there:
            return state._replace(flaw=f"promise 2: {who} sees a mixture of commits")
        if not {value for _, value in journal.remote if digest(value)} <= state.packs:
            return state._replace(flaw=f"promise 2: {who} is sent to a pack that is not there")
        return state

    # -- the store -------------------------------------------------------------------------

    def _apply(self, state: State, put: Put) -> tuple[State, bool]:
        """A swap arrives at the store."""
        etag = state.root.commit if state.root is not None else None
        if self.rules.store_compares and etag != put.if_match:
            return state, False
        flaw = state.flaw or self._flaw_of(state, put)
        return state._replace(root=put.root, chain=(*state.chain, (put.root.commit, put.rows)), flaw=flaw), True

    def _flaw_of(self, state: State, put: Put) -> str | None:
        chain = (*state.chain, (put.root.commit, put.rows))
        if put.root.log != tuple(commit for commit, _ in chain):
            return "promise 3: a commit was overwritten, or took place twice"
        if put.root.index != fold(chain) or put.root.seq != len(chain):
            return "promise 2: a root's index is not what its commits make"
        if not {value for _, value in put.root.index if digest(value)} <= state.packs:
            return "promise 2: a root names a pack that is not there"
        for key, value in put.rows:
            mine = [v for _, rows in state.chain for k, v in rows if k == key and author(v) == put.writer]
            if mine and value <= mine[-1]:
                return f"promise 3: writer {put.writer} pushed the value {value} twice, or out of order"
            now = fold(state.chain)[key][1]
            known = state.writers[put.writer].seen
            if key == S and author(now) != put.writer and digest(now) != digest(known):
                return f"promise 3: writer {put.writer} overwrote {now}, which it was never told of"
        return None

    # -- steps -----------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        if state.flaw is not None:
            return
        if self.bounds.reduced and state.reader is not None and state.reader.got is not None:
            yield from self._read(state, state.reader)
            return
        for number, writer in enumerate(state.writers):
            if self.bounds.reduced and writer.at in ALONE and not (number == 0 and self.bounds.pulls):
                yield from self._steps_of(state, number, writer)
                return
        for put in state.flying:
            yield from self._late(state, put)
        for number, writer in enumerate(state.writers):
            yield from self._steps_of(state, number, writer)
        if state.pulls or state.writers[0].second is not None:
            yield from self._second_thread(state)
        if state.reader is not None:
            yield from self._read(state, state.reader)

    def _steps_of(self, state: State, number: int, writer: Writer) -> Iterator[tuple[str, State]]:
        yield from self._user(state, number, writer)
        yield from self._program(state, number, writer)
        if state.crashes and writer.at != "closed":
            yield f"{number} crashes", self._crashed(state, number, writer)

    def _late(self, state: State, put: Put) -> Iterator[tuple[str, State]]:
        rest = tuple(other for other in state.flying if other is not put)
        after, applied = self._apply(state._replace(flying=rest), put)
        if applied:
            yield f"{put.writer}'s lost request for commit {put.root.commit} arrives after all", _pruned(after)

    def _crashed(self, state: State, number: int, writer: Writer) -> State:
        if writer.at == "wait" and writer.put is not None:
            state = _afloat(state, writer.put)
        closed = writer._replace(at="closed", then="", overlay=(), put=None, got=None, second=None)
        return _with(state._replace(crashes=state.crashes - 1), number, closed)

    def _user(self, state: State, number: int, writer: Writer) -> Iterator[tuple[str, State]]:
        script = self.bounds.scripts[number]
        if writer.at == "closed":
            yield f"{number} opens again", _with(state, number, writer._replace(at="get", then="idle"))
            return
        if writer.written < len(script) and not writer.overlay:
            rows = script[writer.written]
            seen = writer.seen
            if any(key == S for key, _ in rows) and writer.journal.pending[S] is None:
                seen = writer.journal.remote[S][1]
            wrote = writer._replace(overlay=rows, seen=seen, written=writer.written + 1)
            yield f"{number} writes {rows}", _with(state, number, wrote)
        if writer.overlay:
            yield f"{number} commits locally", _with(state, number, self._committed(writer))
        if writer.at == "told":
            for choice in ("ours", "theirs"):
                yield f"{number} resolves for {choice}", _with(state, number, _resolved(writer, choice))
        if writer.at == "idle":
            if writer.overlay or writer.journal.intents or writer.journal.pending != (None,) * 3:
                pushing = self._committed(writer)
                place = "get" if pushing.journal.intents else "round"
                pushing = pushing._replace(at=place, then="round" if place == "get" else "")
                yield f"{number} pushes", _with(state, number, pushing)
            if state.root is not None and state.root.commit != writer.journal.base_etag:
                pulling = self._committed(writer)._replace(at="get", then="idle")
                yield f"{number} pulls", _with(state, number, pulling)

    def _committed(self, writer: Writer) -> Writer:
        """`LocalStore.commit`: the overlay becomes pending operations."""
        if not writer.overlay:
            return writer
        journal = writer.journal
        pending: list[int | None] = list(journal.pending)
        base = list(journal.base)
        acked = list(writer.acked)
        journal = _saving(journal, [key for key, _ in writer.overlay])
        for key, value in writer.overlay:
            on_its_way = bool(journal.intents) and pending[key] is not None
            if pending[key] is None:
                base[key] = journal.remote[key]
            stays = on_its_way and self.rules.deletes_stay_while_on_its_way
            gone = not digest(value) and not digest(journal.remote[key][1]) and not stays
            pending[key] = None if gone else value
            acked[key] = value
        journal = journal._replace(pending=tuple(pending), base=_clean(pending, base))
        return writer._replace(journal=journal, overlay=(), acked=tuple(acked))

    def _program(self, state: State, number: int, writer: Writer) -> Iterator[tuple[str, State]]:
        if writer.at == "get":
            yield self._get(state, number, writer)
        elif writer.at == "take":
            yield from self._take(state, number, writer)
        elif writer.at == "after" and writer.put is not None:
            # `_read_back`: the journal's log says whether the commit lies below the other's root.
            if writer.put.root.commit in writer.journal.log:
                yield f"{number} finds its commit below", self._acknowledged(state, number, writer)
            else:
                yield f"{number} was second", _with(state, number, writer._replace(at="round", put=None))
        elif writer.at == "round":
            yield self._round(state, number, writer)
        elif writer.at == "upload" and writer.put is not None:
            yield f"{number} uploads packs", self._uploaded(state, number, writer, writer.put)
        elif writer.at == "intent" and writer.put is not None:
            yield self._intent(state, number, writer, writer.put)
        elif writer.at == "wait" and writer.put is not None:
            yield from self._wait(state, number, writer, writer.put)
        elif writer.at == "unsure" and writer.put is not None:
            yield from self._read_back(state, number, writer, writer.put)
        elif writer.at == "finish" and writer.put is not None:
            yield f"{number} finishes", self._finish(state, number, writer, writer.put)

    # -- pull ------------------------------------------------------------------------------

    def _get(self, state: State, number: int, writer: Writer) -> tuple[str, State]:
        journal = writer.journal
        done = writer._replace(at=writer.then, then="")
        if state.root is None:
            keeps = self.rules.may_still_apply
            intents = tuple(intent for intent in journal.intents if keeps(intent.base_etag, None))
            done = done._replace(journal=_with_open(journal, intents))
            return f"{number} finds no root", _with(state, number, done)
        if state.root.commit == journal.base_etag:
            if not self.rules.keeps_intent_of_untouched:
                done = done._replace(journal=_with_open(journal, ()))
            return f"{number} finds the root unchanged", _with(state, number, done)
        got = Fetched(state.root, journal.stand)
        return f"{number} reads the root", _with(state, number, writer._replace(at="take", got=got))

    def _take(self, state: State, number: int, writer: Writer) -> Iterator[tuple[str, State]]:
        assert writer.got is not None
        if self.rules.stale_root_is_refused and writer.got.since != writer.journal.stand:
            again = "get" if writer.put is None else writer.at
            after = writer._replace(at=again, got=None)
            if writer.put is not None:
                after = after._replace(at="get", then=writer.then)
            yield f"{number} must read the root again", _with(state, number, after)
            return
        taken = self._taken_in(writer, writer.got.root)
        taken = taken._replace(at=writer.then, then="", got=None)
        after = self._checked(_with(state, number, taken), taken.journal, f"writer {number}")
        yield f"{number} takes the root in", after

    def _taken_in(self, writer: Writer, root: Root) -> Writer:
        """`apply_root`: all of it is one transaction."""
        if self.rules.overlay_before_take_in:
            writer = self._committed(writer)
        journal, still_open = writer.journal, []
        for intent in journal.intents:
            found = root.log[intent.seq - 1] if intent.seq <= root.seq else None
            fate = self.rules.fate_of(
                intent.commit,
                intent.seq,
                intent.base_etag,
                found=found,
                root_seq=root.seq,
                root_etag=root.commit,
            )
            if fate is Fate.APPLIED:
                journal = self._own(journal, intent, None)
            elif fate is Fate.OPEN:
                still_open.append(intent)
        journal = _with_open(journal, tuple(still_open))
        journal = _taken(journal, root.index, root.log)._replace(
            base_seq=root.seq, base_commit=root.commit, base_etag=root.commit, log=root.log
        )
        return writer._replace(journal=journal)

    def _own(self, journal: Journal, intent: Intent, etag: int | None) -> Journal:
        """`apply_intent`: what a push sent becomes the remote side of its keys."""
        remote, pending, base = list(journal.remote), list(journal.pending), list(journal.base)
        for key, value in enumerate(journal.pending):
            if value is not None and value <= intent.last_number:
                remote[key], pending[key] = (intent.seq, value), None
        for commit, key, value in journal.saved:
            alike = not self.rules.pushes_are_told_apart and value <= intent.last_number
            if commit == intent.commit or alike:
                remote[key] = (intent.seq, value)
                if self.rules.own_rows_become_base:
                    base[key] = remote[key]
        return journal._replace(
            base_seq=intent.seq,
            base_commit=intent.commit,
            base_etag=etag,
            remote=tuple(remote),
            pending=tuple(pending),
            base=_clean(pending, base),
            log=(*journal.log, intent.commit),
        )

    # -- push ------------------------------------------------------------------------------

    def _round(self, state: State, number: int, writer: Writer) -> tuple[str, State]:
        """`_one_round` up to where it sends something, and what `_rounds` does before."""
        journal = _without(writer.journal, is_agreeing)
        writer = writer._replace(journal=journal)
        met = [key for key in KEYS if in_conflict(journal.pending[key], journal.base[key], journal.remote[key])]
        if met and self.rules.conflicts_are_looked_for:
            theirs = journal.remote[S][1]
            told = _with(state, number, writer._replace(at="told", seen=theirs))
            if met != [S] or author(theirs) == number:
                told = told._replace(flaw=f"promise 3: writer {number} is told of a conflict with itself")
            return f"{number} is told of a conflict", told
        rows = tuple((key, value) for key, value in enumerate(journal.pending) if value is not None)
        if not rows and journal.base_seq:
            return f"{number} has nothing to push", _with(state, number, writer._replace(at="idle"))
        if journal.base_seq and journal.base_etag is None:
            return f"{number} needs the root", _with(state, number, writer._replace(at="get", then="round"))
        seq = journal.base_seq + 1
        commit = 100 * (number + 1) + writer.made
        index = list(journal.remote)
        for key, value in rows:
            index[key] = (seq, value)
        root = Root(commit, seq, tuple(index), (*journal.log, commit))
        put = Put(number, root, journal.base_etag, rows)
        place = "upload" if self.rules.packs_first else "intent"
        making = writer._replace(at=place, put=put, made=writer.made + 1)
        return f"{number} makes commit {commit} of {rows}", _with(state, number, making)

    def _uploaded(self, state: State, number: int, writer: Writer, put: Put) -> State:
        values = {value for _, value in put.rows if digest(value)}
        return _with(state._replace(packs=state.packs | values), number, writer._replace(at="intent"))

    def _intent(self, state: State, number: int, writer: Writer, put: Put) -> tuple[str, State]:
        journal = writer.journal
        if any(journal.pending[key] != value for key, value in put.rows):
            again = writer._replace(at="round", put=None)
            return f"{number} sees an operation replaced", _with(state, number, again)
        intent = Intent(put.root.commit, put.root.seq, put.if_match, put.rows)
        noted = writer._replace(at="wait", journal=journal._replace(intents=(*journal.intents, intent)))
        return f"{number} notes its intent and sends the root", _with(state, number, noted)

    def _wait(self, state: State, number: int, writer: Writer, put: Put) -> Iterator[tuple[str, State]]:
        after, applied = self._apply(state, put)
        unsure = writer._replace(at="unsure")
        if applied:
            after = _pruned(after)
            yield f"{number}'s commit {put.root.commit} is in", _with(after, number, writer._replace(at="finish"))
            if state.losses:
                lost = after._replace(losses=state.losses - 1)
                yield f"{number}'s commit is in, the answer lost", _with(lost, number, unsure)
        elif self.rules.reads_back:
            yield f"{number} is refused", _with(state, number, unsure)
        else:
            failed = writer._replace(at="get", then="round", put=None)
            failed = failed._replace(journal=_with_open(failed.journal, ()))
            yield f"{number} is refused", _with(state, number, failed)
        if state.losses and applied:
            late = _afloat(state._replace(losses=state.losses - 1), put)
            yield f"{number}'s request goes astray", _with(late, number, unsure)

    def _read_back(self, state: State, number: int, writer: Writer, put: Put) -> Iterator[tuple[str, State]]:
        seen = RootSeen(str(state.root.commit), str(state.root.commit)) if state.root is not None else None
        base_etag = str(put.if_match) if put.if_match is not None else None
        verdict = self.rules.judge(seen, commit_id=str(put.root.commit), base_etag=base_etag)
        if verdict is Verdict.OURS:
            yield f"{number} reads its commit back", _with(state, number, writer._replace(at="finish"))
        elif verdict is Verdict.UNTOUCHED:
            yield f"{number} finds the old root, sends again", _with(state, number, writer._replace(at="wait"))
            gone = writer._replace(at="idle", put=None)
            yield f"{number} finds the old root, gives up", _with(state, number, gone)
        elif verdict is Verdict.OTHERS and state.root is not None:
            got = Fetched(state.root, writer.journal.stand)
            taking = writer._replace(at="take", then="after", got=got)
            yield f"{number} reads another's root back", _with(state, number, taking)
        else:
            yield f"{number} finds no root", state._replace(flaw="the root is gone")

    def _finish(self, state: State, number: int, writer: Writer, put: Put) -> State:
        journal = writer.journal
        if journal.base_seq < put.root.seq:
            intent = Intent(put.root.commit, put.root.seq, put.if_match, put.rows)
            journal = _with_open(self._own(journal, intent, put.root.commit), ())
            writer = writer._replace(journal=_without_done(journal))
        after = self._checked(_with(state, number, writer), writer.journal, f"writer {number}")
        return self._acknowledged(after, number, writer)

    def _acknowledged(self, state: State, number: int, writer: Writer) -> State:
        """The push returns: what it says is true for ever."""
        assert writer.put is not None
        if state.flaw is None and [c for c, _ in state.chain].count(writer.put.root.commit) != 1:
            state = state._replace(flaw=f"promise 3: writer {number}'s push succeeded and is not in the chain")
        return _with(state, number, writer._replace(at="idle", put=None))

    # -- others ----------------------------------------------------------------------------

    def _second_thread(self, state: State) -> Iterator[tuple[str, State]]:
        writer = state.writers[0]
        if writer.at == "closed":
            return
        if writer.second is None:
            if state.root is not None and state.root.commit != writer.journal.base_etag:
                begun = self._committed(writer)
                begun = begun._replace(second=Fetched(state.root, begun.journal.stand))
                yield "0's other thread reads the root", _with(state._replace(pulls=state.pulls - 1), 0, begun)
            return
        second, writer = writer.second, writer._replace(second=None)
        if self.rules.stale_root_is_refused and second.since != writer.journal.stand:
            yield "0's other thread finds the base moved", _with(state, 0, writer)
            return
        taken = self._taken_in(writer, second.root)
        after = self._checked(_with(state, 0, taken), taken.journal, "writer 0")
        yield "0's other thread takes the root in", after

    def _read(self, state: State, reader: Reader) -> Iterator[tuple[str, State]]:
        if reader.got is None:
            if state.root is not None and state.root.commit != reader.journal.base_etag:
                yield "the reader reads the root", state._replace(reader=reader._replace(got=state.root))
            return
        root = reader.got
        journal = _taken(reader.journal, root.index, root.log)
        journal = journal._replace(base_seq=root.seq, base_commit=root.commit, base_etag=root.commit)
        after = self._checked(state._replace(reader=Reader(journal)), journal, "the reader")
        yield "the reader reads what the root names", after


def _with(state: State, number: int, writer: Writer) -> State:
    writers = state.writers
    return state._replace(writers=(*writers[:number], writer, *writers[number + 1 :]))


def _afloat(state: State, put: Put) -> State:
    """A request whose sender waits for it no more; two of the same bytes are as good as one."""
    return _pruned(state._replace(flying=tuple(sorted({*state.flying, put}, key=repr))))


def _pruned(state: State) -> State:
    """Leaves out what can't take effect any more: no ETag ever comes back."""
    etag = state.root.commit if state.root is not None else None
    return state._replace(flying=tuple(put for put in state.flying if put.if_match == etag))


def _with_open(journal: Journal, intents: tuple[Intent, ...]) -> Journal:
    """`drop_intents`: the others are settled, and what was kept for them goes."""
    commits = {intent.commit for intent in intents}
    saved = tuple(version for version in journal.saved if version[0] in commits)
    return journal._replace(intents=intents, saved=saved)


def _saving(journal: Journal, keys: list[int]) -> Journal:
    """`save_pushed`: keeps what open pushes sent of keys that are about to be written."""
    saved = set(journal.saved)
    for intent in journal.intents:
        for key in keys:
            value = journal.pending[key]
            known = any((commit, other) == (intent.commit, key) for commit, other, _ in saved)
            if value is not None and value <= intent.last_number and not known:
                saved.add((intent.commit, key, value))
    return journal._replace(saved=tuple(sorted(saved)))


def _taken(journal: Journal, index: tuple[Version, ...], log: tuple[int, ...]) -> Journal:
    """`apply_rows`: the rows of an index after the base; all of them where it does not lead on from the base."""
    leads = 0 < journal.base_seq <= len(log) and log[journal.base_seq - 1] == journal.base_commit
    remote = list(journal.remote) if leads else [NEVER] * len(KEYS)
    for key in KEYS:
        if index[key][0] > (journal.base_seq if leads else 0):
            remote[key] = index[key]
    return _without_done(journal._replace(remote=tuple(remote)))


def _without_done(journal: Journal) -> Journal:
    """`drop_done`."""
    if journal.intents:
        return journal
    pending = [
        None if is_done(value, remote) else value
        for value, remote in zip(journal.pending, journal.remote, strict=True)
    ]
    return journal._replace(pending=tuple(pending), base=_clean(pending, list(journal.base)))


def _clean(pending: list[int | None], base: list[Version]) -> tuple[Version, ...]:
    """The base of an operation that is no more means nothing: one state instead of many."""
    return tuple(NEVER if value is None else version for value, version in zip(pending, base, strict=True))


def _without(journal: Journal, rule: Callable[[int | None, Version, Version], bool]) -> Journal:
    pending = [
        None if rule(value, base, remote) else value
        for value, base, remote in zip(journal.pending, journal.base, journal.remote, strict=True)
    ]
    return journal._replace(pending=tuple(pending), base=_clean(pending, list(journal.base)))


def _resolved(writer: Writer, choice: str) -> Writer:
    """`resolutions.settle` for the shared key."""
    journal, acked = _saving(writer.journal, [S]), list(writer.acked)
    pending, base = list(journal.pending), list(journal.base)
    if choice == "theirs":
        pending[S], acked[S] = None, None
    else:
        base[S] = journal.remote[S]
    journal = journal._replace(pending=tuple(pending), base=_clean(pending, base))
    return writer._replace(at="idle", journal=journal, acked=tuple(acked))
