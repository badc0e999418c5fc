"""The machine that runs random programs over real databases and dict models alike.

All limits are so small here that packs, uploads in parts, runs, merges, folding and Booklet's own
reindexing take place with a few hundred bytes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import booklet
import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import ebooklet_tx
from ebooklet_tx.database import Database
from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import OfflineError, TransientStoreError
from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.formats.root import Root, decode_root
from ebooklet_tx.index.building import IndexLimits
from ebooklet_tx.index.merging import MergeRules
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import entries_where, find_entry, pending_entries
from ebooklet_tx.local.journal.intents import read_intents
from ebooklet_tx.local.piece_cache import PieceCache
from ebooklet_tx.local.plain_edits import accept_deletes
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.sync import connecting as place
from ebooklet_tx.sync.pull.conflicts import ConflictError
from ebooklet_tx.timestamps import timestamp_us
from tests.pairs import writer_store
from tests.processes import fork
from tests.property.local_faults import Fault, failing_disk
from tests.property.model import METADATA, CopyModel, RemoteModel, Row, UnansweredPush
from tests.property.model import Operation as Pending
from tests.store_wrappers import PassingStore

SMALL_LIMITS = {
    "ebooklet_tx.sync.commit.push.INLINE_TOTAL_BYTES": 300,
    "ebooklet_tx.sync.commit.push.INLINE_VALUE_BYTES": 100,
    "ebooklet_tx.sync.commit.packing.PACK_BYTES": 500,
    "ebooklet_tx.sync.commit.packing.PART_BYTES": 256,
    "ebooklet_tx.sync.commit.builder.MERGE_BYTES": 600,
    "ebooklet_tx.sync.commit.builder.IndexLimits": functools.partial(
        IndexLimits, tail_bytes=700, tail_rows=4, run_list_bytes=300
    ),
    "ebooklet_tx.sync.commit.builder.MergeRules": functools.partial(MergeRules, ratio=2, max_runs=4),
    "ebooklet_tx.sync.commit.publish.RunWriter": functools.partial(
        RunWriter, sizes=Sizes(block_rows=2, object_blocks=2, page_entries=2)
    ),
    "ebooklet_tx.index.building.METADATA_IN_TAIL_BYTES": 6,
    "ebooklet_tx.index.history.KEEP_RECENT": 4,
    "ebooklet_tx.index.history.HORIZON_COMMITS": 8,
    "ebooklet_tx.index.history.HORIZON_US": 0,
    "ebooklet_tx.index.lookup.KEYS_AT_ONCE": 5,
    "ebooklet_tx.index.lookup.BLOCKS_AT_ONCE": 3,
    "ebooklet_tx.index.difference.BLOCKS_AT_ONCE": 3,
    "ebooklet_tx.index.pieces.JOIN_GAP_BYTES": 40,
    "ebooklet_tx.index.reader.SMALL_OBJECT_BYTES": 200,
    "ebooklet_tx.index.reader.DECODED_BYTES": 400,
    "ebooklet_tx.local.open_pair.PieceCache": functools.partial(PieceCache, most_bytes=1500),
    "ebooklet_tx.local.journal.known.KEYS_AT_ONCE": 3,
    "ebooklet_tx.local.journal.pending.existing_rows.MANY_KEYS": 1,
    "ebooklet_tx.local.journal.pending.existing_rows._SAMPLE_KEYS": 1,
    "ebooklet_tx.sync.read.near_ranges.JOIN_GAP_BYTES": 40,
    "ebooklet_tx.sync.read.visible_keys.PAGE_KEYS": 7,
    "ebooklet_tx.local.local_store.STAGE_COMMIT_BYTES": 400,
    "ebooklet_tx.local.local_store.STAGED_LIMIT_BYTES": 1000,
    "ebooklet_tx.opening.by_flag.READER_WAIT_SECONDS": 0.0,
}
ROOMY_CACHE = {"ebooklet_tx.index.reader.DECODED_BYTES": 100_000}
"""Instead of one that a block or two fill: what was decoded once is used again."""
BUFFER_BYTES = 1500
N_BUCKETS = 11
ODD_KEYS = ["a/b", "%41", "q?z=1#f", "ключ", "\x00x", "\U0010ffff"]
KEYS = [f"k{number:02}" for number in range(18)] + ODD_KEYS

keys = st.sampled_from(KEYS)
values = st.builds(
    lambda size, letter: bytes([letter]) * size,
    st.sampled_from([0, 1, 20, 90, 150, 420, 700]),
    st.integers(65, 70),
)
ages = st.sampled_from([0, 0, 0, 10_000_000])
writes = st.one_of(
    st.tuples(st.just("set"), keys, values, ages),
    st.tuples(st.just("set"), keys, values, ages),
    st.tuples(st.just("set"), keys, values, ages),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("stamp"), keys),
    st.tuples(st.just("same"), keys),
    st.tuples(st.just("metadata"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["delete"] * 9 + ["clear"]), keys),
)
Operation = tuple[Any, ...]
batches = st.lists(writes, min_size=1, max_size=4)
scripts = st.lists(
    st.one_of(
        st.tuples(st.just("write"), batches),
        st.tuples(st.just("transaction"), batches),
        st.sampled_from([("sync", []), ("push", []), ("pull", []), ("prune", [])]),
    ),
    min_size=1,
    max_size=5,
)
clients = st.sampled_from(["a", "b"])
ways_out = st.sampled_from(["discard", "force"])


class Clock:
    """Microseconds that never stand still, and that a test can foretell."""

    def __init__(self) -> None:
        self.last = 0

    def tick(self) -> int:
        self.last = max(self.last + 1, time.time_ns() // 1000)
        return self.last

    def stamp(self, timestamp: Any) -> int:
        return self.last if timestamp is None else timestamp_us(timestamp)


class SwitchedStore(PassingStore):
    """Loses the answer of a root's replacement, or the request itself, when told to.

    Attributes:
        lose: "answer", "request" or None.
        down: Whether nothing gets through any more.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.lose: str | None = None
        self.down = False

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        if self.down:
            raise TransientStoreError("the line is cut")
        if self.lose is None or kind != "put" or ".d/" in key:
            return send()
        self.down = True
        if self.lose == "answer":
            send()
        raise TransientStoreError("the answer was lost")


@dataclass
class Client:
    """A local file with the session that writes it, and what both should hold."""

    path: Path
    db: Database
    model: CopyModel = field(default_factory=CopyModel)
    restamped: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of keys to which booklet gave the value that they had, in a file that it then pruned: the time that shows,
    and the time in the file. Nothing tells there that the value was set again."""

    @property
    def switch(self) -> SwitchedStore:
        store: SwitchedStore = self.db._session.remote.store.inner
        return store


@dataclass(frozen=True)
class Write:
    """A write as it is done: what was drawn, met with what is there."""

    kind: str
    key: str
    value: bytes
    stamp: int
    now: int

    def do(self, db: Database) -> None:
        if self.kind == "set":
            db.set(self.key, self.value, timestamp=None if self.stamp == self.now else self.stamp)
        elif self.kind == "metadata":
            db.set_metadata(orjson.loads(self.value))
        elif self.kind == "clear":
            db.clear()
        elif self.kind == "stamp":
            db.set_timestamp(self.key, self.stamp)
        elif self.kind == "delete":
            del db[self.key]
        else:
            with pytest.raises(KeyError):
                del db[self.key]
            with pytest.raises(KeyError):
                db.set_timestamp(self.key, self.stamp)

    def note(self, model: CopyModel) -> None:
        if self.kind in ("set", "metadata", "stamp"):
            model.put(self.key, self.value, self.stamp)
        elif self.kind == "clear":
            model.clear(self.stamp)
        elif self.kind == "delete":
            model.put(self.key, None, self.stamp)


def concrete(model: CopyModel, operation: Operation, now: int) -> Write:
    """Makes of a drawn write one that fits what the model holds."""
    kind, key, *rest = operation
    if kind == "set":
        return Write("set", key, rest[0], now - rest[1], now)
    if kind == "metadata":
        return Write("metadata", METADATA, orjson.dumps({"n": key}), now, now)
    if kind == "clear":
        return Write("clear", "", b"", now, now)
    row = model.seen.get(key)
    if kind == "same" and row is not None and row.value is not None:
        # What the remote already has, with its own time: no change any more.
        return Write("set", key, row.value, row.stamp, now)
    there = model.visible().get(key)
    if there is None:
        return Write("missing", key, b"", now, now)
    if kind == "delete":
        return Write("delete", key, b"", now, now)
    return Write("stamp", key, there[0], now - 5, now)


class RollbackError(Exception):
    """Raised by a test in a transaction."""


class Totals:
    """How often what took place, over all examples."""

    steps = 0
    kills = 0
    faults = 0
    conflicts = 0
    unanswered = 0
    vanished = 0
    merges = 0
    packs = 0
    segments = 0

    @classmethod
    def reset(cls) -> None:
        for name in cls.names():
            setattr(cls, name, 0)

    @classmethod
    def names(cls) -> list[str]:
        return [name for name, value in vars(cls).items() if isinstance(value, int)]

    @classmethod
    def told(cls) -> str:
        return ", ".join(f"{getattr(cls, name)} {name}" for name in cls.names())


class DatabaseMachine(RuleBasedStateMachine):
    """Two writers with a file each, a reader of its own, a reader beside a writer, one remote."""

    instead: Mapping[str, Any] = {}
    """Other limits than the small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ebooklet-machine-"))
        (self.folder / "remote").mkdir()
        self.url = f"file://{self.folder / 'remote' / 'db'}"
        self.remote = RemoteModel()
        self.clients: dict[str, Client] = {}
        self.reader: tuple[Database, CopyModel] | None = None
        self.beside: tuple[Database, Client] | None = None
        self.touched: set[str] = set()
        self.clock = Clock()
        self.patches = contextlib.ExitStack()
        for target, value in (SMALL_LIMITS | self.instead).items():
            self.patches.enter_context(mock.patch(target, value))
        genuine = place.open_store

        def open_store(*arguments: Any, **options: Any) -> RetryingStore:
            store = genuine(*arguments, **options)
            return RetryingStore(SwitchedStore(store.inner), store.policy)

        self.patches.enter_context(mock.patch.object(place, "open_store", open_store))
        self.patches.enter_context(mock.patch("ebooklet_tx.database.writing.timestamp_us", self.clock.stamp))
        self.patches.enter_context(
            mock.patch("ebooklet_tx.database.writing.now_us", functools.partial(self.clock.stamp, None))
        )
        self.patches.enter_context(mock.patch("ebooklet_tx.database.forking.timestamp_us", self.clock.stamp))
        self.patches.enter_context(mock.patch("ebooklet_tx.local.recovery.now_us", self.clock.tick))

    def teardown(self) -> None:
        try:
            self._count_objects()
            if self.beside is not None:
                self.beside[0].close()
            if self.reader is not None:
                self.reader[0].close()
            for client in self.clients.values():
                client.db.close()
        finally:
            self.patches.close()
            shutil.rmtree(self.folder)

    def _count_objects(self) -> None:
        for kind in ("pack", "index"):
            with contextlib.suppress(FileNotFoundError):
                count = len(list((self.folder / "remote" / "db.d" / kind).iterdir()))
                Totals.packs += count * (kind == "pack")
                Totals.segments += count * (kind == "index")

    def open(self, path: Path, flag: str) -> Database:
        return ebooklet_tx.open(
            self.url,
            path,
            flag,
            n_buckets=N_BUCKETS,
            buffer_size=BUFFER_BYTES,
            lock=None,
            lock_timeout=0.0,
            retry=RetryPolicy.without_backoff(2),
        )

    def client(self, name: str) -> Client:
        """Returns a writer; the second one comes into being once there is something to copy."""
        if name == "b" and "b" not in self.clients:
            if not self.remote.seq:
                return self.client("a")
            path = self.folder / "b.blt"
            self.clients["b"] = Client(path, self.open(path, "w"))
            self.clients["b"].model.pull(self.remote)
        self.touched.add(name)
        return self.clients[name]

    @initialize(
        pushed=st.booleans(), filled=st.booleans(), start=st.sampled_from(["quiet", "conflict", "unanswered"])
    )
    def begin(self, pushed: bool, filled: bool, start: str) -> None:
        """Opens the first database, and lets a program begin with what random rules come to too seldom."""
        path = self.folder / "a.blt"
        client = Client(path, self.open(path, "c"))
        self.clients["a"] = client
        if filled:
            # More keys than buckets, so that Booklet reindexes.
            self.write("a", [("set", key, b"first", 0) for key in KEYS[:14]])
        if pushed or start == "conflict":
            self.push("a", force=False)
        if start == "conflict":
            self.collide([(KEYS[3], b"ours", b"theirs")], "discard")
        elif start == "unanswered":
            self.push_unanswered("a", "answer", [("set", KEYS[5], b"sent", 0)])

    # -- writing ---------------------------------------------------------------------------

    def apply(self, client: Client, operation: Operation, *, in_transaction: bool = False) -> None:
        """Does one write to a database and its model alike."""
        write = concrete(client.model, operation, self.clock.tick())
        self.clock.last = write.now
        write.do(client.db)
        write.note(client.model)
        if not in_transaction:
            follow_buffer(client.model)
            assert bool(client.db._session.local.overlay) == client.model.has_overlay

    @rule(name=clients, batch=batches)
    def write(self, name: str, batch: list[Operation]) -> None:
        client = self.client(name)
        for operation in batch:
            self.apply(client, operation)

    @rule(name=clients)
    def sync(self, name: str) -> None:
        client = self.client(name)
        client.db.sync()
        client.model.commit()

    @rule(name=clients, batch=batches, fails=st.booleans())
    def transaction(self, name: str, batch: list[Operation], fails: bool) -> None:
        client = self.client(name)
        client.model.commit()
        with contextlib.suppress(RollbackError), client.db.transaction():
            for operation in batch:
                self.apply(client, operation, in_transaction=True)
            if fails:
                raise RollbackError
        if fails:
            client.model.forget_overlay()
        client.model.commit()

    @rule(name=clients, drop=st.booleans())
    def prune(self, name: str, drop: bool) -> None:
        client = self.client(name)
        client.db.prune(timestamp=self.clock.tick() + 1 if drop else None)
        client.model.commit()

    @rule(name=clients, some=st.lists(keys, max_size=4), everything=st.booleans())
    def discard(self, name: str, some: list[str], everything: bool) -> None:
        client = self.client(name)
        client.model.commit()
        chosen = None if everything else list(dict.fromkeys(some))
        listed = set(pending_keys(client.db))
        extra = listed - set(client.model.pending)
        dropped = len(extra if chosen is None else extra.intersection(chosen))
        assert client.db.changes().discard(chosen) == client.model.discard(chosen) + dropped

    # -- sync ------------------------------------------------------------------------------

    @rule(name=clients, force=st.sampled_from([False, False, True]))
    def push(self, name: str, force: bool) -> None:
        client = self.client(name)
        expected = client.model.push(self.remote, force=force)
        changes = client.db.changes()
        if isinstance(expected, bool):
            assert bool(changes.push(force_push=force)) is expected
        else:
            Totals.conflicts += 1
            with pytest.raises(ConflictError) as caught:
                changes.push(force_push=force)
            assert [conflict.key for conflict in caught.value.conflicts] == expected
        found = [change["key"] for change in changes.iter_changes()]
        assert found == sorted(set(client.model.pending) - {METADATA})

    @rule(name=clients, choice=ways_out)
    def settle_conflicts(self, name: str, choice: str) -> None:
        client = self.client(name)
        self.pull(name)
        conflicts = client.db.changes().conflicts()
        found = [conflict.key for conflict in conflicts]
        assert found == client.model.conflicts()
        if choice == "discard":
            client.db.changes().discard(found)
            client.model.discard(found)
        self.push(name, force=choice == "force")

    @precondition(lambda self: self.remote.seq > 0)
    @rule(collisions=st.lists(st.tuples(keys, values, values), min_size=1, max_size=3), choice=ways_out)
    def collide(self, collisions: list[tuple[str, bytes, bytes]], choice: str) -> None:
        """Both writers change the same keys, and the second to push has to settle it."""
        self.write("a", [("set", key, ours, 0) for key, ours, _ in collisions])
        self.write("b", [("set", key, theirs, 0) for key, _, theirs in collisions])
        self.push("b", force=False)
        self.push("a", force=False)
        self.settle_conflicts("a", choice)

    @precondition(lambda self: self.root_seq() > 0)
    @rule(
        name=clients,
        shares=st.lists(st.dictionaries(keys, st.one_of(st.none(), values), max_size=3), min_size=1, max_size=3),
        between=st.booleans(),
        lost=st.booleans(),
    )
    def fleet(self, name: str, shares: list[dict[str, bytes | None]], between: bool, lost: bool) -> None:
        """Workers change keys in a fork, each its own; what they changed becomes pending here."""
        client = self.client(name)
        client.model.commit()
        rows = dict(self.remote.rows)
        fork = client.db.fork()
        # Also what a blind write has made pending that changes nothing: to a merge it is a change.
        assert is_pending(client.db, client.model)
        taken = {*client.model.pending, *pending_keys(client.db)}
        receipts, operations = [], {}
        for share in shares:
            with fork.open(buffer_size=400, retry=RetryPolicy.without_backoff(2)) as part:
                assert dict(part) == {key: row[0] for key, row in self.remote.visible().items() if key}
                for key, value in share.items():
                    if key in taken or (value is None and key not in part):
                        continue
                    taken.add(key)
                    stamp = self.clock.tick()
                    if value is None:
                        del part[key]
                    else:
                        part.set(key, value, timestamp=stamp)
                    operations[key] = Pending(value, stamp, rows.get(key))
            receipts.append(part.receipt)
        if lost:
            with fork.open() as part:
                part["of a worker that is lost"] = b"x"
        if between:
            self.push("b" if name == "a" else "a", force=False)
        expected = sum(item.value is not None for item in operations.values())
        behind = self.forked_behind(client, fork)
        assert client.db.merge(*receipts, *receipts[:1]).set_count == expected
        Totals.merges += 1
        if behind:
            client.model.pull(self.remote)
        client.model.pending.update(operations)

    def forked_behind(self, client: Client, fork: ebooklet_tx.Fork) -> bool:
        """Whether a merge pulls first, as the fork was made on a newer commit than the one that is known here."""
        return fork.base_seq > read_base(client.db._session.journal).seq

    @rule(name=clients)
    def pull(self, name: str) -> None:
        client = self.client(name)
        client.model.commit()
        client.db.changes().pull()
        client.model.pull(self.remote)

    @rule(name=clients, what=st.sampled_from(["answer", "request"]), batch=batches)
    def push_unanswered(self, name: str, what: str, batch: list[Operation]) -> None:
        client = self.client(name)
        self.write(name, batch)
        client.db.sync()
        client.model.commit()
        client.switch.lose = what
        try:
            with contextlib.suppress(ConflictError, OfflineError):
                client.db.changes().push()
        finally:
            client.switch.lose, client.switch.down = None, False
        self.after_failed_push(client)

    def after_failed_push(self, client: Client) -> None:
        """Brings the models to what a push did that raised somewhere on its way."""
        journal = client.db._session.journal
        if not client.db._session.local.overlay:
            client.model.commit()
        model, before = client.model, self.remote.head
        applied = self.root_seq() == before[1] + 1
        assert applied or self.root_seq() == before[1]
        base_id = read_base(journal).commit_id
        newest = self.root().manifest if before[1] or applied else None
        answered = newest is not None and base_id == newest.commit_id
        if before != model.head and (answered or applied):
            model.pull(self.remote)
        # Before it sends anything, a push drops what another writer has set just so.
        model.drop_agreeing(kept={entry.key for entry in pending_entries(journal)})
        if applied and answered:
            model.finish_push(self.remote)
        open_ids = [intent.commit_id for intent in read_intents(journal)]
        kept = {push.commit_id: push for push in model.unanswered}
        assert {commit_id for commit_id, push in kept.items() if push.applied} <= set(open_ids)
        if newest is not None and applied and not answered:
            Totals.unanswered += 1
            rows = model.rows_to_push(self.remote)
            self.remote.apply(rows)
            commit_id = newest.commit_id
            assert commit_id in open_ids
            kept[commit_id] = UnansweredPush(commit_id, rows, self.remote.seq, applied=True)
        model.unanswered = [kept.get(open_id, not_applied(open_id)) for open_id in open_ids]

    def root(self) -> Root:
        return decode_root((self.folder / "remote" / "db").read_bytes(), name="root")

    def root_seq(self) -> int:
        return self.root().manifest.seq if (self.folder / "remote" / "db").exists() else 0

    @precondition(lambda self: self.remote.seq > 3)
    @rule(name=clients, dice=st.integers(0, 3))
    def remote_vanishes(self, name: str, dice: int) -> None:
        if dice:
            return
        client = self.client(name)
        self.pull(name)
        assert client.db.load_items() == {}
        client.db.get_metadata()
        (self.folder / "remote" / "db").unlink()
        self.remote.vanish()
        for other in self.clients.values():
            # The new remote's history does not know what took effect in the old one.
            other.model.unanswered = [replace(push, applied=False) for push in other.model.unanswered]
        Totals.vanished += 1
        assert client.db.changes().push(force_push=True)
        client.model.write_anew(self.remote)

    # -- ends and beginnings ---------------------------------------------------------------

    @rule(name=clients, edits=st.lists(writes, max_size=3))
    def reopen(self, name: str, edits: list[Operation]) -> None:
        client = self.client(name)
        unknown, entered = self.close(client)
        before = client.model.visible()
        held = plain_contents(client.path)
        with booklet.open(client.path, "w") as blt:
            for kind, key, *rest in edits:
                self.clock.tick()
                if kind == "set":
                    blt[key] = rest[0]
                    client.model.put(key, rest[0], blt.get_timestamp(key))
                elif kind == "metadata":
                    blt.set_metadata({"n": key})
                    stamp = blt.get_metadata(include_timestamp=True)[1]
                    client.model.put(METADATA, orjson.dumps({"n": key}), stamp)
                elif kind == "delete" and key in blt:
                    del blt[key]
                    if key in held:
                        client.model.put(key, None, 0)
                    else:
                        # A key whose value never was in this file comes and goes without a trace.
                        del client.model.overlay[key]
                elif kind == "stamp":
                    blt.prune()
        pruned = any(kind == "stamp" for kind, *_ in edits)
        for key, (value, _) in list(client.model.overlay.items()):
            there = [before.get(key, (None,))[0], *([held[key][0]] if key in held and pruned else [])]
            if value is not None and value in there and (pruned or key not in entered):
                # Where the journal does not tell which block was written, the same value is no other one.
                shown = before.get(key)
                if shown is not None and shown[0] == value:
                    client.restamped[key] = shown[1], client.model.overlay[key][1]
                del client.model.overlay[key]
        if pruned:
            # Nothing tells then what was deleted from what an older file never had.
            with writer_store(client.path) as store:
                accept_deletes(store.journal)
        # Of such a file the journal takes what it has no entry of as it takes a file without a journal.
        adopted = client.model.overlay.keys() - entered if pruned else set()
        self.open_again(client, {key: Row(*held[key], 0) for key in unknown & held.keys()}, adopted)

    def close(self, client: Client) -> tuple[set[str], set[str]]:
        """Closes a session.

        Returns:
            The keys of which it was not known any more what the remote has, and all that have an entry.
        """
        client.db.sync()
        with client.db._session.mutex:
            found = entries_where(client.db._session.journal, "known = 0 AND pending = 0")
            unknown = {entry.key for entry in found}
            entered = {entry.key for entry in entries_where(client.db._session.journal, "1")}
            merged = "pending = 1 AND local_digest IS NOT pending_digest"
            far = {entry.key for entry in entries_where(client.db._session.journal, merged)}
            # What a fork brought may be in the file already, with the time at which it was set before.
            merged = (
                "pending = 1 AND local_digest IS pending_digest AND local_timestamp_us != pending_timestamp_us"
            )
            older = {
                entry.key: entry.local_timestamp_us for entry in entries_where(client.db._session.journal, merged)
            }
        client.db.close()
        client.model.commit()
        if self.beside is not None and self.beside[1] is client:
            self.close_beside()
        self.check_plain_file(client, unknown, far, older)
        return unknown, entered

    def check_plain_file(
        self, client: Client, unknown: set[str], far: set[str], older: Mapping[str, int | None]
    ) -> None:
        """The file alone is a sound booklet of current values, where they were looked up since the last reset.

        A value that a fork brought may be in the remote alone.
        """
        visible = client.model.visible()
        held = plain_contents(client.path)
        known = held.keys() - unknown
        assert {key: held[key][0] for key in known} == {key: visible[key][0] for key in known}
        for key, operation in client.model.pending.items():
            if operation.value is None or (key in far and key not in held):
                assert key not in held
            else:
                shown, in_file = client.restamped.get(key, (None, None))
                stamps = {
                    operation.stamp,
                    in_file if shown == operation.stamp else operation.stamp,
                    older.get(key),
                }
                assert held[key][0] == operation.value
                assert held[key][1] in stamps, (key, held[key][1], operation.stamp)

    def open_again(
        self,
        client: Client,
        copies: Mapping[str, Row] = MappingProxyType({}),
        adopted: Collection[str] = frozenset(),
    ) -> None:
        """Opens a file that booklet has edited.

        Args:
            client: The client.
            copies: Copies of which it was not known whether they were current.
            adopted: Keys whose values are no change where another writer has set just the same.
        """
        client.model.commit()
        client.db = self.open(client.path, "w")
        deletes = {k: o for k, o in client.model.pending.items() if o.stamp == 0}
        for key, operation in deletes.items():
            entry = find_entry(client.db._session.journal, key)
            stamp = entry.pending_timestamp_us if entry is not None else None
            # Who deleted it saw the copy.
            client.model.pending[key] = type(operation)(None, stamp or 0, copies.get(key, operation.base))
        client.model.pull(self.remote)
        client.model.drop_equal(adopted)

    @rule(name=clients, batch=batches)
    def kill(self, name: str, batch: list[Operation]) -> None:
        """Leaves the files as a kill leaves them: every finished write, nothing of the session's memory."""
        client = self.client(name)
        self.write(name, batch)
        Totals.kills += 1
        self.drop_session(client)
        self.open_again(client)

    def drop_session(self, client: Client) -> None:
        self.close_beside()
        parts = [client.path.with_name(client.path.name + f".journal{suffix}") for suffix in ("", "-wal")]
        saved = {part: part.read_bytes() for part in parts if part.exists()}
        client.db._closed = True
        client.db._ending = Ending()
        client.db._session.local.abandon()
        client.db._session.remote.store.close()
        for part, data in saved.items():
            part.write_bytes(data)
        client.model.forget_overlay()

    @precondition(lambda self: self.remote.seq > 0)
    @rule(name=clients, dice=st.integers(0, 1))
    def lose_journal(self, name: str, dice: int) -> None:
        if dice:
            return
        client = self.client(name)
        self.close(client)
        self.close_beside()
        for part in client.path.parent.glob(client.path.name + ".journal*"):
            part.unlink()
        held = plain_contents(client.path)
        client.db = self.open(client.path, "w")
        # Of deletes before the floor the remote keeps no trace.
        client.model.adopt(held, self.remote, self.root().manifest.tombstone_floor)

    # -- a process that is killed ----------------------------------------------------------

    @rule(name=clients, script=scripts, at=st.integers(1, 60))
    def killed_process(self, name: str, script: list[tuple[str, list[Operation]]], at: int) -> None:
        """A real process with a real SIGKILL, somewhere inside one of its steps or after them all."""
        client = self.client(name)
        self.close(client)
        Totals.kills += 1
        steps, outcomes = self.foretell(client.model, script)
        done = run_and_kill(lambda tell: self.child(client.path, steps, at, tell))
        client.db = self.open(client.path, "w")
        open_ids = [intent.commit_id for intent in read_intents(client.db._session.journal)]
        for model, remote in outcomes[done]:
            if remote.seq != self.root_seq():
                continue
            model.pull(remote)
            if is_as(client.db, model):
                model.unanswered = [not_applied(open_id) for open_id in open_ids]
                client.model, self.remote = model, remote
                return
        raise AssertionError(
            f"after {done} of {steps} there is {contents(client.db)}, with {pending_keys(client.db)} pending; "
            f"possible were {outcomes[done]}"
        )

    def foretell(
        self, model: CopyModel, script: list[tuple[str, list[Operation]]]
    ) -> tuple[list[tuple[str, list[Write]]], list[list[tuple[CopyModel, RemoteModel]]]]:
        """Makes a script concrete, and tells for each step what may be there when it is cut off."""
        model, remote = model.clone(), copy.deepcopy(self.remote)
        model.pull(remote)
        steps: list[tuple[str, list[Write]]] = []
        outcomes = []
        for kind, batch in script:
            possible = [(survivor(model), copy.deepcopy(remote))]
            writes = []
            if kind != "write":
                model.commit()
                possible.append((survivor(model), copy.deepcopy(remote)))
            for operation in batch:
                writes.append(concrete(model, operation, self.clock.tick()))
                writes[-1].note(model)
                if kind == "write":
                    follow_buffer(model)
                    possible.append((survivor(model), copy.deepcopy(remote)))
            if kind == "push":
                # Before it sends anything, it drops what another writer has set just so.
                agreeing = model.clone()
                agreeing.pull(remote)
                agreeing.drop_agreeing()
                possible.append((survivor(agreeing), copy.deepcopy(remote)))
                model.push(remote)
            elif kind == "pull":
                model.pull(remote)
            elif kind == "transaction":
                model.commit()
            possible.append((survivor(model), copy.deepcopy(remote)))
            steps.append((kind, writes))
            outcomes.append(possible)
        return steps, [*outcomes, [(survivor(model), remote)]]

    def child(self, path: Path, steps: list[tuple[str, list[Write]]], at: int, tell: Callable[[], None]) -> None:
        """What the process does that is killed; one call of `tell` for each step that was acknowledged."""
        db = self.unclosed = self.open(path, "w")
        with failing_disk(Fault(at), kill=True):
            for kind, writes in steps:
                block = db.transaction() if kind == "transaction" else contextlib.nullcontext()
                with block:
                    for write in writes:
                        self.clock.last = write.now
                        write.do(db)
                if kind == "push":
                    with contextlib.suppress(ConflictError):
                        db.changes().push()
                elif kind == "prune":
                    db.prune()
                elif kind == "pull":
                    db.changes().pull()
                elif kind == "sync":
                    db.sync()
                tell()

    # -- a disk that fails -----------------------------------------------------------------

    @rule(
        name=clients,
        kind=st.sampled_from(["sync", "transaction", "transaction", "prune", "push"]),
        batch=batches,
        at=st.integers(1, 24),
        killed=st.booleans(),
    )
    def disk_fails(self, name: str, kind: str, batch: list[Operation], at: int, killed: bool) -> None:
        client = self.client(name)
        if kind != "transaction":
            self.write(name, batch)
        before = client.model.clone()
        with failing_disk(Fault(at)) as fault:
            try:
                if kind == "transaction":
                    self.transaction(name, batch, fails=False)
                elif kind == "sync":
                    client.db.sync()
                elif kind == "prune":
                    client.db.prune()
                else:
                    client.db.changes().push()
            except ConflictError:
                assert kind == "push"
            except ebooklet_tx.Error:
                if not fault.raised:
                    raise
                client.model = before
            else:
                if kind in ("sync", "prune"):
                    client.model.commit()
        Totals.faults += fault.raised
        if kind == "push":
            self.after_failed_push(client)
        elif not client.db._session.local.overlay:
            client.model.commit()
        self.check_copies()
        if killed:
            self.drop_session(client)
            self.open_again(client)
        else:
            client.db.sync()
            client.model.commit()

    # -- readers ---------------------------------------------------------------------------

    @precondition(lambda self: self.remote.seq > 0)
    @rule(some=st.lists(keys, max_size=5))
    def fresh_reader(self, some: list[str]) -> None:
        """A machine that has never had a copy sees exactly the last commit."""
        path = self.folder / "fresh.blt"
        expected = self.remote.visible()
        with self.open(path, "r") as db:
            for key, value in db.get_items(some, default=b"none"):
                assert value == expected.get(key, (b"none", 0))[0]
            assert contents(db) == expected
        for part in self.folder.glob("fresh.blt*"):
            part.unlink()

    @precondition(lambda self: self.remote.seq > 0)
    @rule(close=st.integers(0, 3))
    def own_reader(self, close: int) -> None:
        """A reader that stays and pulls, on a file of its own."""
        self.touched.add("reader")
        if self.reader is None:
            self.reader = (self.open(self.folder / "reader.blt", "r"), CopyModel())
        elif not close:
            self.reader[0].close()
            self.reader = (self.open(self.folder / "reader.blt", "r"), self.reader[1])
        else:
            self.reader[0].changes().pull()
        self.reader[1].pull(self.remote)

    @precondition(lambda self: self.remote.seq > 0)
    @rule(name=clients)
    def reader_beside(self, name: str) -> None:
        """A reader that stays open beside a writer of the same file."""
        client = self.client(name)
        if self.beside is None:
            self.beside = (self.open(client.path, "r"), client)
        else:
            self.close_beside()

    def close_beside(self) -> None:
        if self.beside is not None:
            self.beside[0].close()
            self.beside = None

    # -- what must hold after every step ---------------------------------------------------

    @invariant()
    def check_copies(self) -> None:
        """Reads in every way the copies that the step was about, and walks over the others once."""
        for name, client in self.clients.items():
            self.check(client.db, client.model.visible(), touched=name in self.touched)
            if self.beside is not None and self.beside[1] is client:
                self.check(self.beside[0], client.model.durable(), touched=name in self.touched)
        if self.reader is not None:
            self.check(self.reader[0], self.reader[1].visible(), touched="reader" in self.touched)

    def check(self, db: Database, expected: dict[str, tuple[bytes, int]], *, touched: bool) -> None:
        if touched:
            check(db, expected)
        else:
            assert contents(db) == expected

    @invariant()
    def count(self) -> None:
        Totals.steps += 1
        self.touched.clear()


def check(db: Database, expected: dict[str, tuple[bytes, int]]) -> None:
    """Every way of reading a database agrees with what it should hold."""
    metadata = expected.get(METADATA)
    users = {key: pair for key, pair in expected.items() if key != METADATA}
    walked = list(db) if Totals.steps % 2 else list(db.keys())
    assert walked == sorted(users), set(walked) ^ set(users)
    assert len(db) == len(users), (len(db), len(users))
    assert list(db.timestamps()) == [(key, users[key][1]) for key in sorted(users)]
    assert list(db.items()) == [(key, users[key][0]) for key in sorted(users)]
    # One lookup costs as much as a whole page of items; in turn every key gets its own.
    for key in KEYS[Totals.steps % 6 :: 6]:
        assert (key in db) == (key in users)
        assert db.get(key, b"none") == users.get(key, (b"none", 0))[0]
    if metadata is None:
        assert db.get_metadata() is None
    else:
        assert db.get_metadata(include_timestamp=True) == (orjson.loads(metadata[0]), metadata[1])


def contents(db: Database) -> dict[str, tuple[bytes, int]]:
    found = {key: (value, stamp) for key, stamp, value in db.timestamps(include_value=True)}
    metadata = db.get_metadata(include_timestamp=True)
    return found if metadata is None else found | {METADATA: (orjson.dumps(metadata[0]), metadata[1])}


def pending_keys(db: Database) -> list[str]:
    return [change["key"] for change in db.changes().iter_changes()]


def is_as(db: Database, model: CopyModel) -> bool:
    return contents(db) == model.visible() and is_pending(db, model)


def is_pending(db: Database, model: CopyModel) -> bool:
    """Whether what is pending is listed; a blind write that changes nothing is, until it is looked up."""
    found = {change["key"]: change["operation"] for change in db.changes().iter_changes()}
    expected = set(model.pending) - {METADATA}
    there = {key for key, row in model.seen.items() if row.value is not None}
    extra = found.keys() - expected
    return expected <= found.keys() and all((found[key] == "set") == (key in there) for key in extra)


def plain_contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """What booklet alone finds in a file, by its index and by walking over it alike."""
    with booklet.open(path) as blt:
        held = {key: (value, stamp) for key, stamp, value in blt.timestamps(include_value=True)}
        assert set(held) == set(blt.keys())
        assert len(blt) == len(held)
        for key, (value, _) in held.items():
            assert blt[key] == value
        metadata = blt.get_metadata(include_timestamp=True)
    return held if metadata is None else held | {METADATA: (orjson.dumps(metadata[0]), metadata[1])}


def not_applied(commit_id: str) -> UnansweredPush:
    return UnansweredPush(commit_id, {}, 0, applied=False)


def survivor(model: CopyModel) -> CopyModel:
    """What a kill leaves of a copy."""
    model = model.clone()
    model.forget_overlay()
    return model


def follow_buffer(model: CopyModel) -> None:
    """An overlay that has outgrown the buffer commits by itself."""
    if model.overlay_bytes > BUFFER_BYTES:
        model.commit()


def run_and_kill(work: Callable[[Callable[[], None]], None]) -> int:
    """Runs work in a child that ends by SIGKILL; returns how many steps it acknowledged."""
    reading, writing = os.pipe()
    pid = fork()
    if not pid:
        # Nothing but the kill may end the child: no handler, no clean-up of the test's.
        try:
            work(lambda: _tell(writing, b"."))
            os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:
            _tell(writing, traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        told = file.read()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), told.decode()
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert set(told) <= set(b"."), told.decode()
    return len(told)


def _tell(fd: int, text: bytes) -> None:
    os.write(fd, text)
