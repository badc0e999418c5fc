"""A model of the index: copies of one database whose programs are run, each held against whole commits.

The copies are the package's own: every decision is made by the code that the package decides with, on an index
with two rows a block and two blocks an object. The model's own are the store, which answers when it likes, and
the truth: the whole database at each commit, and what each copy has written. The invariant of a world: after each
step everything that root and journals say is what the truth says; else `BrokenError` tells what is not.

What is not modelled: locks, uploads in parts, damage, adopted files.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, TypeVar
from unittest import mock

from ebooklet_tx.database import Database
from ebooklet_tx.database.forking import Fork
from ebooklet_tx.errors import (
    OfflineError,
    PreconditionFailedError,
    RemoteIntegrityError,
    RemoteMissingError,
    TransientStoreError,
)
from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.formats.manifest import Manifest
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.index.building import IndexLimits
from ebooklet_tx.index.commit_index import CommitIndex, RemoteIndex
from ebooklet_tx.index.merging import MergeRules
from ebooklet_tx.index.pieces import NoCache
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.journal import driver
from ebooklet_tx.local.journal.operations import BASE_LOST, BASE_SAID, BASE_UNKNOWN
from ebooklet_tx.local.piece_cache import PieceCache
from ebooklet_tx.maintenance.collect import collect
from ebooklet_tx.records import digest_of
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import wrapped_stores
from ebooklet_tx.sync.forks.receipt import Receipt
from ebooklet_tx.sync.pull.conflicts import ConflictError
from ebooklet_tx.sync.remote import Remote
from tests.doors import open_database
from tests.memory_store import EPOCH, MemoryStore
from tests.store_wrappers import PassingStore

T = TypeVar("T")

KEYS = "abcdefgh"
WRITES = frozenset({"push", "compact", "restore"})
"""Steps that send a commit: one at a time of each copy, and soon enough for what they have sent to be kept."""
VALUES = (1, 2, 3)
"""The last is too long to ride in the index."""

HOUR_US = 3600 * 10**6
LATE_US = 6 * HOUR_US
"""A request does not arrive later than this."""

FORK_HOURS = 60
"""For so long a fork is protected."""

MAX_RUNS = 3
MERGING = {
    "none": MergeRules(0, 0, ratio=1, max_runs=MAX_RUNS),
    "some": MergeRules(550, 0, ratio=2, max_runs=MAX_RUNS),
    "all": MergeRules(10**6, 0, ratio=4, max_runs=MAX_RUNS),
}
"""How much the pushes of a step merge, by name."""

SMALL = {
    "ebooklet_tx.sync.commit.push.INLINE_TOTAL_BYTES": 100,
    "ebooklet_tx.sync.commit.push.INLINE_VALUE_BYTES": 50,
    "ebooklet_tx.sync.commit.packing.PACK_BYTES": 300,
    "ebooklet_tx.sync.commit.builder.IndexLimits": functools.partial(
        IndexLimits, tail_bytes=2000, tail_rows=2, run_list_bytes=250
    ),
    "ebooklet_tx.sync.commit.publish.RunWriter": functools.partial(
        RunWriter, sizes=Sizes(block_rows=2, object_blocks=2, page_entries=2)
    ),
    "ebooklet_tx.formats.history.KEEP_RECORDS": 5,
    "ebooklet_tx.formats.history._TIER_RATIO": 1,
    "ebooklet_tx.index.history.KEEP_RECENT": 2,
    "ebooklet_tx.index.history.HORIZON_COMMITS": 3,
    "ebooklet_tx.index.history.HORIZON_US": 0,
    "ebooklet_tx.index.lookup.KEYS_AT_ONCE": 3,
    "ebooklet_tx.index.lookup.BLOCKS_AT_ONCE": 2,
    "ebooklet_tx.index.difference.BLOCKS_AT_ONCE": 2,
    "ebooklet_tx.index.pieces.JOIN_GAP_BYTES": 0,
    "ebooklet_tx.index.reader.SMALL_OBJECT_BYTES": 100,
    "ebooklet_tx.index.reader.DECODED_BYTES": 300,
    "ebooklet_tx.index.reader.READ_AHEAD_BYTES": 0,
    "ebooklet_tx.local.open_pair.PieceCache": functools.partial(PieceCache, most_bytes=600),
    "ebooklet_tx.local.journal.known.KEYS_AT_ONCE": 2,
    "ebooklet_tx.sync.read.visible_keys.PAGE_KEYS": 2,
    # A move is made although keys were written beside it: with another plan few rules for that would be needed.
    "ebooklet_tx.sync.pull.pull.PLANS": 1,
}


class BrokenError(AssertionError):
    """A promise is broken."""


@dataclass(frozen=True, repr=False)
class Step:
    """What one copy does.

    Attributes:
        who: The copy.
        what: A method of `World`; one that ends in `_beside` reads in a session beside the copy's own.
        key: Of what is set, deleted, discarded or read.
        value: What is set.
        choice: What a push does about conflicts.
        fate: What becomes of the first swap: "" nothing special; "answer": the answer is lost, and the root is
            read back; "unanswered", "lost" and "late": nothing gets through any more, after the swap took place,
            before it, or before it while the request is on its way.
        merging: How much is merged, see `MERGING`.
        at: Before which of its requests, or of the keys that it reads, something else happens.
        meanwhile: What happens then.
    """

    who: str
    what: str
    key: str = ""
    value: int | None = None
    choice: str = "raise"
    fate: str = ""
    merging: str = "none"
    at: int = 0
    meanwhile: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        said = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self)[2:] if self._is_said(each)]
        return f"Step({', '.join([repr(self.who), repr(self.what), *said])})"

    def _is_said(self, each: Any) -> bool:
        return bool(getattr(self, each.name) != each.default)


Program = Sequence[Step]
State = dict[str, int]


@dataclass
class Op:
    """What a copy has written of a key; `seen` is what its writer saw there, `number` is the writing's own."""

    value: int | None
    seen: int | None
    number: int


@dataclass
class Attempt:
    """A commit that was sent: what it carries of each key, with the numbers of the writings."""

    manifest: Manifest
    replaces: bool
    carried: dict[str, tuple[int | None, int]]
    settled: bool = False


@dataclass
class Frame:
    """A step while it is done; `views` are what its copy may see from its begin to its end."""

    step: Step
    events: int = 0
    down: bool = False
    fate: str = ""
    views: list[State] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """What a worker did in a fork: its receipt, what it made of a key, and what its fork had there."""

    receipt: Receipt
    key: str
    value: int | None
    seen: int | None
    made_hours: int


class NumberedStore(MemoryStore):
    """Gives each object that is written an ETag that no other ever has."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self._puts = 0

    def put(self, key: str, data: bytes, **conditions: Any) -> str:
        super().put(key, data, **conditions)
        self._puts += 1
        self.objects[key].etag += f"-{self._puts}"
        return self.objects[key].etag


class Line(PassingStore):
    """The store as one copy reaches it."""

    def __init__(self, inner: Any, owner: Copy) -> None:
        super().__init__(inner)
        self.owner = owner

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        self.owner.event()
        self._refuse()
        return send()

    def _refuse(self) -> None:
        if self.owner.frames and self.owner.frames[-1].down:
            raise TransientStoreError("nothing gets through")

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        conditions: dict[str, Any] = {"if_match": if_match, "if_absent": if_absent, "metadata": metadata}
        if key != self.owner.world.names.root:
            return self._pass("put", key, lambda: self.inner.put(key, data, **conditions))
        self._refuse()
        return self.owner.world.swap(self.owner, data, conditions)


class Copy:
    """A local copy of the database, and what its user has written."""

    def __init__(self, world: World, name: str, flag: str = "c") -> None:
        self.world = world
        self.name = name
        self.ops: dict[str, Op] = {}
        self.attempts: list[Attempt] = []
        self.frames: list[Frame] = []
        self.bases: set[str | None] = set()
        self.last_base: str | None = None
        self.is_new = flag == "n"
        self.merged: dict[str, int | None] = {}
        self.of_forks: dict[str, int] = {}
        self.db = self._open(flag)
        self._beside: Database | None = None

    def beside(self) -> Database:
        """A session that reads the same files."""
        if self._beside is None:
            self._beside = self._open("r")
        return self._beside

    def close(self) -> None:
        for db in (self._beside, self.db):
            if db is not None:
                db.close()
        self._beside = None

    def _open(self, flag: str) -> Database:
        db = open_database(
            f"file://{self.world.folder}/db",
            self.world.folder / f"{self.name}.blt",
            flag,
            None,
            11,
            lock=None,
            retry=RetryPolicy.without_backoff(1),
            wrap_store=lambda _: Line(self.world.store, self),
        )
        # One request at a time: a program always runs alike.
        db._session.remote.threads = 1
        db._session.index.remote_index.reader._pieces.threads = 1
        return db

    def begin_anew(self) -> None:
        """Replaces the copy, and with its next push the remote, by an empty database."""
        self.close()
        self.ops, self.attempts, self.last_base, self.is_new = {}, [], None, True
        self.merged, self.of_forks = {}, {}
        self.db = self._open("n")

    @property
    def base(self) -> str | None:
        found: str | None = self.db._session.journal.get_meta("base_commit_id")
        return found

    @property
    def state(self) -> State:
        """What the commit holds that the copy stands on."""
        return {} if self.is_new else self.world.states[self.base]

    def view(self) -> State:
        """What a reader of the copy sees."""
        return _there({**self.state, **{key: op.value for key, op in self.ops.items()}})

    def conflicts(self) -> set[str]:
        """The keys that another writer has changed since their writer saw them."""
        state = self.state
        return {key for key, op in self.ops.items() if state.get(key) not in (op.seen, op.value)}

    def rows(self) -> dict[str, dict[str, Any]]:
        names = "pending, pending_digest, pending_number, base_kind, base_digest, base_at, known, remote_digest"
        found = self.db._session.journal.rows(f"SELECT key, {names} FROM entry ORDER BY key")
        return {key: dict(zip(names.split(", "), row, strict=True)) for key, *row in found}

    def event(self) -> None:
        """Counts a request, or a key that was read; lets others act before it, if that is due."""
        frame = self.frames[-1] if self.frames else None
        if frame is None:
            return
        frame.events += 1
        if frame.events == frame.step.at:
            self.settle()
            frame.views.append(self.view())
            for step in frame.step.meanwhile:
                self.world.do(step)
                self.settle()
                frame.views.append(self.view())

    # -- what became of what was written ---------------------------------------------------

    def settle(self) -> None:
        """Drops what was written and is pushed, or need not be any more; what else is gone is lost."""
        base = self.base
        self.bases.add(base)
        chain = self.world.chain(base)
        if base != self.last_base and base in self.world.chain(self.last_base) and not self.world.is_rewound:
            raise BrokenError(f"{self.name} goes back to an older commit")
        self.last_base = base
        pending = {key for key, row in self.rows().items() if row["pending"]}
        for attempt in self.attempts:
            if attempt.settled or attempt.manifest.commit_id not in chain:
                continue
            attempt.settled = True
            if attempt.replaces:
                self.is_new = False
                for op in self.ops.values():
                    op.seen = None
            for key, (value, number) in attempt.carried.items():
                if key not in self.ops:
                    continue
                self.ops[key].seen = value
                if self.ops[key].number == number and key not in pending:
                    del self.ops[key]
        if unknown := pending - self.ops.keys():
            raise BrokenError(f"{self.name} has operations that nobody made: {unknown}")
        for key in self.ops.keys() - pending:
            if not self._may_end(key):
                raise BrokenError(f"{self.name} has lost what was written of {key}: {self.ops[key]}")
            del self.ops[key]

    def _may_end(self, key: str) -> bool:
        """Whether a commit says what the operation does, or the other writer's value was chosen."""
        op, choices = self.ops[key], {frame.step.choice for frame in self.frames}
        for base in self.bases:
            there = self.world.states[base].get(key)
            if there == op.value or (there != op.seen and "theirs" in choices):
                return True
        return False

    def check(self) -> None:
        """Holds the journal to the truth."""
        self.settle()
        base, state, rows = self.base, self.state, self.rows()
        for key, row in rows.items():
            there, op = _digest(state.get(key)), self.ops.get(key)
            if row["known"] and not self.is_new and row["remote_digest"] != there:
                raise BrokenError(f"{self.name} knows {key} wrongly: {state.get(key)} is there")
            if op is None or self.is_new:
                continue
            if row["pending_digest"] != _digest(op.value):
                raise BrokenError(f"{self.name} has {key} pending, but not {op.value}")
            is_here = row["base_at"] == base
            if row["base_kind"] == BASE_SAID and row["base_digest"] != _digest(op.seen):
                raise BrokenError(f"{self.name} has another base of {key} than {op.seen}")
            if row["base_kind"] == BASE_SAID and is_here and not row["known"] and there != _digest(op.seen):
                raise BrokenError(f"{self.name} takes its base of {key} for what is there: {state.get(key)}")
            if row["base_kind"] == BASE_UNKNOWN and not (is_here and there == _digest(op.seen)):
                raise BrokenError(f"{self.name} can't find the base of {key} out any more: it was {op.seen}")


class World:
    """A store and the copies of its database."""

    def __init__(self) -> None:
        self.hours = 0
        self.folder = Path(tempfile.mkdtemp(prefix="ebooklet-index-"))
        self.names = ObjectNames("db")
        self.store = NumberedStore(lambda: self.hours * 3600.0)
        self.copies: dict[str, Copy] = {}
        self.states: dict[str | None, State] = {None: {}}
        self.parents: dict[str | None, str | None] = {}
        self.numbers: dict[str, int] = {}
        self.late: list[tuple[int, Callable[[], str]]] = []
        self.is_rewound = False
        self.kept: str | None = None
        self.fork: tuple[Fork, int] | None = None
        self.parts: list[Part] = []
        self.counts: dict[str, int] = {}
        self._writings = 0
        self._microseconds = 0
        self._checked: str | None = None
        self._merging = MERGING["none"]
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> Self:
        clock = SimpleNamespace(time_ns=self._time_ns)
        for target, value in (SMALL | {"ebooklet_tx.timestamps.time": clock}).items():
            self._patches.enter_context(mock.patch(target, value))
        self._patches.enter_context(mock.patch("ebooklet_tx.sync.commit.builder.MergeRules", self._merge_rules))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for copy in self.copies.values():
                copy.frames = [Frame(Step("", ""), down=True)]
                with contextlib.suppress(Exception):
                    copy.close()
        finally:
            self._patches.close()
            shutil.rmtree(self.folder)

    def _time_ns(self) -> int:
        self._microseconds += 1
        now = EPOCH + timedelta(hours=self.hours, microseconds=self._microseconds)
        return int(now.timestamp() * 1e6) * 1000

    def _merge_rules(self, budget_bytes: int, horizon_seq: int, **bounds: int) -> MergeRules:
        if bounds:
            return MergeRules(budget_bytes, horizon_seq, **bounds)
        rules = self._merging
        return MergeRules(rules.budget_bytes, horizon_seq, ratio=rules.ratio, max_runs=rules.max_runs)

    # -- the store -------------------------------------------------------------------------

    @property
    def has_root(self) -> bool:
        return self.names.root in self.store.objects

    def root_index(self) -> CommitIndex:
        """The index of the remote's root, read by itself."""
        found = self.store.objects[self.names.root]
        remote = RemoteIndex(self.store, self.names, NoCache(), threads=1)
        return remote.of(decode_root(found.data, name="root"), etag=found.etag, size_bytes=len(found.data))

    def chain(self, commit_id: str | None) -> set[str | None]:
        """The commits that lie below one, it among them."""
        found: set[str | None] = set()
        while commit_id is not None:
            found.add(commit_id)
            commit_id = self.parents[commit_id]
        return found

    def swap(self, copy: Copy, data: bytes, conditions: dict[str, Any]) -> str:
        """Takes the root of a commit, notes what it is to hold, and lets the store do what the step says."""
        manifest = decode_root(data, name="a new root").manifest
        self._note(copy, manifest)
        copy.event()
        frame = copy.frames[-1]
        fate, frame.fate = frame.fate, ""

        def send() -> str:
            etag = self.store.put(self.names.root, data, **conditions)
            self._count("commits")
            return etag

        if fate == "late":
            self.late.append((self.hours, send))
        elif fate in ("unanswered", "answer"):
            with contextlib.suppress(PreconditionFailedError):
                send()
        elif fate != "lost":
            return send()
        frame.down = fate != "answer"
        raise TransientStoreError("the answer is lost")

    def _note(self, copy: Copy, manifest: Manifest) -> None:
        if manifest.commit_id in self.states:
            return
        copy.settle()
        journal = copy.db._session.journal
        intent = journal.rows(
            "SELECT last_number, replaces FROM intent WHERE commit_id = ?", (manifest.commit_id,)
        )
        if not intent:
            raise BrokenError(f"{copy.name} sends a commit without an intent")
        ((last_number, replaces),) = intent
        keys = [
            key for key, row in copy.rows().items() if row["pending"] and row["pending_number"] <= last_number
        ]
        frame = copy.frames[-1]
        below = {} if replaces else self.states[self.kept if frame.step.what == "restore" else manifest.parent]
        for key in keys:
            op = copy.ops[key]
            if below.get(key) in (op.seen, op.value):
                continue
            self._count("resolved")
            if frame.step.choice != "ours":
                raise BrokenError(f"{copy.name} pushes {op.value} over {key}={below.get(key)}, and saw {op.seen}")
            op.seen = below.get(key)
        carried = {key: (copy.ops[key].value, copy.ops[key].number) for key in keys}
        copy.attempts.append(Attempt(manifest, bool(replaces), carried))
        self.states[manifest.commit_id] = _there({**below, **{key: value for key, (value, _) in carried.items()}})
        self.parents[manifest.commit_id] = manifest.parent
        self.numbers[manifest.commit_id] = manifest.seq

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # -- steps -----------------------------------------------------------------------------

    def run(self, program: Program) -> None:
        """Does the steps of a program, and holds everything to the truth after each."""
        for step in program:
            for copy in self.copies.values():
                copy.bases = {copy.base}
            self.do(step)
            self.check()

    def do(self, step: Step) -> None:
        """Does one step; nothing where its copy can't, as long as there is nothing to copy."""
        if step.who not in self.copies:
            if self.copies and not self.has_root:
                return
            self.copies[step.who] = Copy(self, step.who)
        copy = self.copies[step.who]
        frame = Frame(step, fate=step.fate)
        copy.settle()
        frame.views.append(copy.view())
        copy.frames.append(frame)
        merging, self._merging = self._merging, MERGING[step.merging]
        try:
            getattr(self, f"do_{step.what}")(copy, step, frame)
            copy.settle()
        except OfflineError:
            if not frame.down:
                raise
            self._count("cut off")
        finally:
            self._merging = merging
            copy.frames.pop()
        self._count(step.what)

    def do_set(self, copy: Copy, step: Step, frame: Frame) -> None:
        self._writings += 1
        before = copy.ops.get(step.key)
        seen = copy.state.get(step.key) if before is None else before.seen
        copy.ops[step.key] = Op(step.value, seen, self._writings)
        copy.db[step.key] = encoded(step.value)
        copy.db.sync()

    def do_delete(self, copy: Copy, step: Step, frame: Frame) -> None:
        if step.key not in copy.view():
            return
        # Deleting looks the key up, which may bring another commit here.
        copy.db.get(step.key)
        copy.settle()
        if step.key not in copy.view():
            return
        self._writings += 1
        before = copy.ops.get(step.key)
        seen = copy.state.get(step.key) if before is None else before.seen
        copy.ops[step.key] = Op(None, seen, self._writings)
        del copy.db[step.key]
        copy.db.sync()

    def do_discard(self, copy: Copy, step: Step, frame: Frame) -> None:
        copy.db.changes().discard([step.key])
        copy.ops.pop(step.key, None)

    def do_get(self, copy: Copy, step: Step, frame: Frame) -> None:
        self._read(copy.db, copy, step, frame)

    def do_get_beside(self, copy: Copy, step: Step, frame: Frame) -> None:
        self._read(copy.beside(), copy, step, frame)

    def _read(self, db: Database, copy: Copy, step: Step, frame: Frame) -> None:
        try:
            got = db.get(step.key)
        except RemoteIntegrityError:
            if step.key in copy.of_forks and self._may_be_gone(copy.of_forks[step.key]):
                return
            raise
        values = [view.get(step.key) for view in self._views(copy, frame)]
        if got not in [encoded(value) for value in values]:
            raise BrokenError(f"{copy.name} reads {got} of {step.key}, and it is {values}")

    def do_len(self, copy: Copy, step: Step, frame: Frame) -> None:
        self._count_keys(copy.db, copy, frame)

    def do_len_beside(self, copy: Copy, step: Step, frame: Frame) -> None:
        self._count_keys(copy.beside(), copy, frame)

    def _count_keys(self, db: Database, copy: Copy, frame: Frame) -> None:
        got = len(db)
        counts = {len(view) for view in self._views(copy, frame)}
        if got not in counts:
            raise BrokenError(f"{copy.name} counts {got} keys, and there are {counts}")

    def do_keys(self, copy: Copy, step: Step, frame: Frame) -> None:
        self._iterate(copy.db, copy, frame)

    def do_keys_beside(self, copy: Copy, step: Step, frame: Frame) -> None:
        self._iterate(copy.beside(), copy, frame)

    def _iterate(self, db: Database, copy: Copy, frame: Frame) -> None:
        got = []
        for key in db:
            got.append(key)
            copy.event()
        views = self._views(copy, frame)
        always = set.intersection(*map(set, views))
        ever = set.union(*map(set, views))
        if got != sorted(set(got)):
            raise BrokenError(f"{copy.name} reads keys twice or out of order: {got}")
        if not always <= set(got) <= ever:
            raise BrokenError(f"{copy.name} reads the keys {got}, and there are always {always}, at most {ever}")

    def _views(self, copy: Copy, frame: Frame) -> list[State]:
        copy.settle()
        return [*frame.views, copy.view()]

    def do_pull(self, copy: Copy, step: Step, frame: Frame) -> None:
        copy.db.changes().pull()

    def do_push(self, copy: Copy, step: Step, frame: Frame) -> None:
        if any(other.step.what in WRITES for other in copy.frames[:-1]):
            return
        try:
            self._push(copy, step)
        except ConflictError as error:
            copy.settle()
            if step.choice != "raise":
                raise BrokenError(f"{copy.name} is told of conflicts, and has decided") from error
            self._check_conflicts(copy, {conflict.key for conflict in error.conflicts}, step)
            self._count("conflicts")
            return
        copy.settle()
        if copy.ops and not step.meanwhile:
            raise BrokenError(f"{copy.name} has pushed, and {copy.ops} is pending")

    def _push(self, copy: Copy, step: Step) -> None:
        """Pushes; where a fork has expired too long ago, without what was merged from it."""
        try:
            copy.db.changes().push(on_conflict=step.choice)
        except RemoteMissingError as error:
            copy.settle()
            gone = [key for key in copy.of_forks if key in copy.ops]
            if not any(self._may_be_gone(copy.of_forks[key]) for key in gone):
                raise BrokenError(f"{copy.name} may not push what it merged a moment ago") from error
            self._count("too late")
            copy.db.changes().discard(gone)
            for key in gone:
                del copy.ops[key]
            copy.db.changes().push(on_conflict=step.choice)

    def _may_be_gone(self, made_hours: int) -> bool:
        """Whether a fork has expired."""
        return self.hours - made_hours >= FORK_HOURS

    def do_fork(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Makes the fork that workers use from then on."""
        if copy.is_new or not self.has_root:
            return
        self.fork = copy.db.fork(ttl_seconds=FORK_HOURS * 3600), self.hours

    def do_work(self, copy: Copy, step: Step, frame: Frame) -> None:
        """A worker sets a key, or deletes it; its receipt is kept."""
        if self.fork is None:
            return
        fork, made_hours = self.fork
        seen = self.states[fork.base_commit_id].get(step.key)
        try:
            with (
                wrapped_stores(lambda _: self.store),
                fork.open(retry=RetryPolicy.without_backoff(1)) as part,
            ):
                if part.get(step.key) != encoded(seen):
                    raise BrokenError(f"a worker reads another {step.key} than {seen}")
                if step.value is None:
                    part.pop(step.key, None)
                else:
                    part[step.key] = encoded(step.value)
        except RemoteMissingError:
            if not self._may_be_gone(made_hours):
                raise
            return
        if step.value is not None or seen is not None:
            self.parts.append(Part(part.receipt, step.key, step.value, seen, made_hours))

    def do_merge(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Takes in the receipts that there are, one after another."""
        for part in [] if copy.is_new else list(self.parts):
            known = part.receipt.receipt_id in copy.merged
            if part.receipt.base_seq > read_base(copy.db._session.journal).seq:
                # As a merge does, which may end what was pending of the key.
                copy.db.changes().pull()
            copy.settle()
            meets = part.key in copy.ops
            try:
                result = copy.db.merge(part.receipt)
            except ConflictError:
                copy.settle()
                if not meets or known:
                    raise
                self._count("met")
                continue
            except RemoteMissingError:
                if not self._may_be_gone(part.made_hours):
                    raise
                continue
            if bool(result) is known or (meets and not known and part.key in copy.ops):
                raise BrokenError(f"{copy.name} merges {part.key} where it may not, or twice")
            if known:
                continue
            self._writings += 1
            copy.merged[part.receipt.receipt_id] = part.value
            copy.of_forks[part.key] = part.made_hours
            copy.ops[part.key] = Op(part.value, part.seen, self._writings)
            copy.settle()
            self._count("merged")

    def _check_conflicts(self, copy: Copy, said: set[str], step: Step) -> None:
        """Holds the conflicts that a copy is told of to the truth; of a lost base none may be told."""
        lost = {key for key, row in copy.rows().items() if row["pending"] and row["base_kind"] == BASE_LOST}
        true = copy.conflicts()
        if not step.meanwhile and not true <= said <= true | lost:
            raise BrokenError(f"{copy.name} is told of conflicts in {said}, and there are some in {true}")

    def do_compact(self, copy: Copy, step: Step, frame: Frame) -> None:
        if any(other.step.what in WRITES for other in copy.frames[:-1]):
            return
        packs = [key.removeprefix(self.names.prefix) for key in self.store.objects if ".d/pack/" in key]
        copy.db.compact(packs=packs)

    def do_keep(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Makes a snapshot in the place of the one before."""
        if (
            copy.is_new
            or not self.has_root
            or any(other.step.what in ("keep", "restore") for other in self._at_work()[:-1])
        ):
            return
        if self.names.snapshot("kept") in self.store.objects:
            copy.db.delete_snapshot("kept")
        self.kept = copy.db.snapshot("kept").commit_id

    def do_restore(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Makes what the snapshot has the newest commit."""
        if copy.is_new or self.kept is None or any(other.step.what in WRITES for other in copy.frames[:-1]):
            return
        said = set(copy.db.restore("kept").conflicts)
        copy.settle()
        self._check_conflicts(copy, said, step)

    def do_forget(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Forgets what is not pending: values that were fetched, and pieces of the index."""
        session = copy.db._session
        copy.db.prune(timestamp=self._time_ns() // 1000 + 1)
        with session.journal.transaction() as transaction:
            session.local.pieces.write(transaction)
            driver(transaction).execute("DELETE FROM piece")
        reader = session.index.remote_index.reader
        reader._decoded.clear()
        reader._decoded_bytes = 0

    def do_new(self, copy: Copy, step: Step, frame: Frame) -> None:
        if len(copy.frames) == 1:
            copy.begin_anew()

    # -- what happens to the store -----------------------------------------------------------

    def do_wait(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Lets a day and more go by: what nobody names may be collected after that."""
        if not any(frame.step.what in WRITES for frame in self._at_work()):
            self.hours += 27

    def _at_work(self) -> list[Frame]:
        return [frame for copy in self.copies.values() for frame in copy.frames]

    def do_collect(self, copy: Copy, step: Step, frame: Frame) -> None:
        if self.has_root:
            report = collect(Remote(self.store, self.names, threads=1), locked=False)
            self.counts["deleted"] = self.counts.get("deleted", 0) + len(report.deleted_names)

    def do_land(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Requests that were under way arrive."""
        late, self.late = self.late, []
        for since, send in late:
            if (self.hours - since) * HOUR_US <= LATE_US:
                with contextlib.suppress(PreconditionFailedError):
                    send()
                    self._count("landed")

    def do_save(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Keeps the root, and what it names, elsewhere."""
        if self.has_root:
            self.store.copy(self.names.root, self.names.snapshot("saved"))

    def do_rewind(self, copy: Copy, step: Step, frame: Frame) -> None:
        """Puts the root that was kept elsewhere back, by hand."""
        if self.names.snapshot("saved") in self.store.objects:
            self.store.copy(self.names.snapshot("saved"), self.names.root)
            self.is_rewound = True

    # -- the truth ---------------------------------------------------------------------------

    def check(self) -> None:
        for copy in self.copies.values():
            copy.check()
        if self.has_root and self.store.objects[self.names.root].etag != self._checked:
            self._check_root(self.root_index())
            self._checked = self.store.objects[self.names.root].etag

    def _check_root(self, index: CommitIndex) -> None:
        manifest = index.manifest
        state = _there(_digests(self.states[manifest.commit_id]))
        rows = {item.row.key: item.row for item in index.scan()}
        found = _there({key: row.digest for key, row in rows.items()})
        if found != state:
            raise BrokenError(f"the root says {sorted(found)}, and should say {sorted(state)}, or other values")
        looked_up = {key: item.row for key, item in index.lookup(KEYS).items()}
        if looked_up != rows:
            raise BrokenError("a lookup says something else than reading all")
        if manifest.key_count != len(state):
            raise BrokenError(f"the root counts {manifest.key_count} keys, and has {len(state)}")
        if len(manifest.runs) > MAX_RUNS:
            raise BrokenError("there are too many runs")
        for row in rows.values():
            if row.object_name is not None and self.names.object(row.object_name) not in self.store.objects:
                raise BrokenError(f"the value of {row.key} is gone")
        self._check_runs(index)
        for commit_id in self.chain(manifest.commit_id):
            seq = self.numbers[commit_id or ""]
            if seq >= manifest.tombstone_floor and index.commit_at(seq) == commit_id:
                later = {key: row.digest for key, row in rows.items() if row.seq > seq}
                if _there({**_digests(self.states[commit_id]), **later}) != state:
                    raise BrokenError(f"the rows after commit {seq} are not the whole difference")

    def _check_runs(self, index: CommitIndex) -> None:
        """Holds runs to their rules: numbers of a key fall, slots of a run are disjoint, none is without rows."""
        reader = index.remote.reader
        above = {} if index.tail is None else {row.key: row.seq for row in index.tail.rows()}
        for run in index.manifest.runs:
            here: dict[str, int] = {}
            least = ""
            for entry in reader.all_entries(run):
                rows = [row for begin, end, _, block in reader.scan([entry]) for row in block.rows(begin, end)]
                if entry.lo < least or not rows or any(row.seq > entry.greatest_seq for row in rows):
                    raise BrokenError(f"the entry {entry} of a run can't be right")
                least = entry.hi or "\U0010ffff"
                here |= {row.key: row.seq for row in rows}
            for key, seq in here.items():
                if above.get(key, seq + 1) <= seq:
                    raise BrokenError(f"a row of {key} does not lie below the newer one")
                above[key] = seq

    def finish(self) -> None:
        """Lets all copies push and pull: they see the same then, and it is what was committed."""
        copies = list(self.copies)
        self.run([Step(name, "push", choice="ours", merging="some") for name in copies])
        self.run([Step(name, what) for name in copies for what in ("pull", "len", "keys")])
        self.run([Step(name, "get", key=key) for name in copies for key in KEYS])


def encoded(value: int | None) -> bytes | None:
    return None if value is None else b"%d" % value * (60 if value == VALUES[-1] else 1)


@functools.cache
def _digest(value: int | None) -> bytes | None:
    data = encoded(value)
    return None if data is None else digest_of(data)


def _there(values: Mapping[str, T | None]) -> dict[str, T]:
    return {key: value for key, value in values.items() if value is not None}


def _digests(state: State) -> dict[str, bytes | None]:
    return {key: _digest(value) for key, value in state.items()}


def failure(program: Program, *, finish: bool = True) -> str | None:
    """Runs a program in a world of its own; returns what is broken, None where nothing is."""
    with World() as world:
        try:
            world.run(program)
            if finish:
                world.finish()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None
