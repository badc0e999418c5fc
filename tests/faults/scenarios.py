"""What the children do that are killed, and what must be there afterwards.

A scenario is a list of steps. Each step changes a mapping and makes the change durable in one way.
The child applies the changes to a database, the test applies the same changes to a `Content`, which
gives the state after each step. A child killed within a step must leave the state before it or the
state after it, and one killed between two steps exactly that state.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import booklet

import ebooklet_tx
from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.index import history
from ebooklet_tx.index.building import IndexLimits
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.local.journal import migrate
from ebooklet_tx.local.journal.schema import REVISION
from ebooklet_tx.stores.s3 import multipart, store
from ebooklet_tx.sync.commit import builder, packing, publish

FILE = "a.blt"
READER_FILE = "reader.blt"
REMOTE_FOLDER = "remote"
KEYS = 40
FIRST_VALUE_BYTES = 900
"""Together more than a push sends inside the index, so that there is a pack to fetch from."""
BUCKETS = 11


class Content(dict[str, bytes]):
    """The keys, values and metadata that a database holds, as a plain dict."""

    def __init__(self, pairs: Any = (), metadata: object = None) -> None:
        super().__init__(pairs)
        self.metadata = metadata

    def set_metadata(self, data: object) -> None:
        self.metadata = data

    def copy(self) -> Content:
        return Content(self, self.metadata)

    def same_as(self, other: Content) -> bool:
        return dict(self) == dict(other) and self.metadata == other.metadata

    def difference(self, other: Content) -> str:
        """Tells in words what this holds that the other does not."""
        more = sorted(self.keys() - other.keys())
        fewer = sorted(other.keys() - self.keys())
        changed = sorted(key for key in self.keys() & other.keys() if self[key] != other[key])
        return (
            f"{len(more)} more {more[:4]}, {len(fewer)} fewer {fewer[:4]}, {len(changed)} others "
            f"{changed[:4]}, metadata {self.metadata!r} for {other.metadata!r}"
        )


def content_of(database: Any) -> Content:
    """Reads all that a database holds, each value checked by the database itself."""
    pairs = dict(database.items())
    if len(database) != len(pairs):
        raise AssertionError(f"len() says {len(database)}, iteration gives {len(pairs)} keys")
    return Content(pairs, database.get_metadata())


def plain_content_of(path: Path) -> Content:
    """Reads a file as a user of plain booklet does."""
    with booklet.open(path) as plain:
        pairs = dict(plain.items())
        if len(plain) != len(pairs) or sorted(plain.keys()) != sorted(pairs):
            raise AssertionError(f"booklet counts {len(plain)} keys and iterates over {len(pairs)}")
        return Content({key: plain[key] for key in pairs}, plain.get_metadata())


def value_of(key: str, salt: str, size_bytes: int) -> bytes:
    """Returns bytes that are the same in every process and differ for every key and salt."""
    return hashlib.shake_128(f"{key}/{salt}".encode()).digest(size_bytes)


# -- children ----------------------------------------------------------------------------------


@dataclass
class Child:
    """What a child has at hand: its folder, the remote, and the database once it is open."""

    folder: Path
    remote: Any
    flag: str = "w"
    database: Any = None

    @property
    def path(self) -> Path:
        return self.folder / FILE

    def open(self) -> None:
        self.database = ebooklet_tx.open(self.remote, self.path, self.flag, n_buckets=BUCKETS, lock=None)


Change = Callable[[Any], None]


@dataclass(frozen=True)
class Step:
    """One thing that a child does and then reports as done."""

    name: str
    run: Callable[[Child], None]
    change: Change | None = None
    pushes: bool = False


def _nothing(target: Any) -> None:
    pass


def opened(change: Change | None = None) -> Step:
    return Step("open", Child.open, change)


def synced(change: Change) -> Step:
    def run(child: Child) -> None:
        change(child.database)
        child.database.sync()

    return Step("sync", run, change)


def in_transaction(change: Change) -> Step:
    def run(child: Child) -> None:
        with child.database.transaction():
            change(child.database)

    return Step("transaction", run, change)


def rolled_back(change: Change) -> Step:
    def run(child: Child) -> None:
        with contextlib.suppress(ZeroDivisionError), child.database.transaction():
            change(child.database)
            raise ZeroDivisionError

    return Step("rolled back", run)


def closed(change: Change = _nothing) -> Step:
    def run(child: Child) -> None:
        change(child.database)
        child.database.close()

    return Step("close", run, change)


def pruned() -> Step:
    return Step("prune", lambda child: child.database.prune())


def pruned_to(size_bytes: int) -> Step:
    return Step("prune to a size", lambda child: child.database.prune(max_bytes=size_bytes))


def loaded() -> Step:
    def run(child: Child) -> None:
        failures = child.database.load_items()
        if failures:
            raise AssertionError(failures)

    return Step("load", run)


def pushed(change: Change = _nothing) -> Step:
    def run(child: Child) -> None:
        change(child.database)
        child.database.changes().push()

    return Step("push", run, change, pushes=True)


# -- changes -----------------------------------------------------------------------------------


def _set(keys: Iterator[int] | range, salt: str, size_bytes: int) -> Change:
    names = [f"k{number:03}" for number in keys]

    def change(target: Any) -> None:
        for key in names:
            target[key] = value_of(key, salt, size_bytes)

    return change


def _delete(keys: range) -> Change:
    names = [f"k{number:03}" for number in keys]

    def change(target: Any) -> None:
        for key in names:
            del target[key]

    return change


def _all(*changes: Change) -> Change:
    def change(target: Any) -> None:
        for one in changes:
            one(target)

    return change


def _metadata(data: object) -> Change:
    return lambda target: target.set_metadata(data)


def _clear(target: Any) -> None:
    target.clear()


# -- templates ---------------------------------------------------------------------------------


@dataclass
class Template:
    """A prepared folder, the states it begins with, and how it is opened afterwards.

    Attributes:
        local: What the local file holds.
        remote: What the remote holds; empty when there is none.
        reopen_flag: The flag to open the killed file with.
        readable: Whether flag "r" is promised to open what is left, too.
        may_leave: Patterns of files that may be left beside the database.
    """

    local: Content
    remote: Content
    reopen_flag: str = "w"
    readable: bool = True
    may_leave: tuple[str, ...] = ()


def remote_of(folder: Path) -> str:
    return f"file://{folder / REMOTE_FOLDER}/db"


def make_base(folder: Path) -> Template:
    """A pushed database with some pending changes, closed, and a second machine's copy of it."""
    first = Content()
    fill = _all(_set(range(KEYS), "first", FIRST_VALUE_BYTES), _metadata({"name": "first"}))
    fill(first)
    with ebooklet_tx.open(remote_of(folder), folder / FILE, "c", n_buckets=BUCKETS, lock=None) as database:
        fill(database)
        database.changes().push()
    with ebooklet_tx.open(remote_of(folder), folder / READER_FILE) as reader:
        reader.load_items()
    local = first.copy()
    edit = _all(_set(range(5, 8), "pending", 200), _delete(range(8, 10)))
    edit(local)
    with ebooklet_tx.open(remote_of(folder), folder / FILE, "w", lock=None) as database:
        edit(database)
    return Template(local, first)


def _make_empty(folder: Path, remote: Any = None) -> Template:
    return Template(Content(), Content(), reopen_flag="c", readable=False)


def _make_uncopied(folder: Path) -> Template:
    made = make_base(folder)
    _remove_pair(folder)
    return Template(made.remote, made.remote)


def _make_unfetched(folder: Path) -> Template:
    made = _make_uncopied(folder)
    ebooklet_tx.open(remote_of(folder), folder / FILE, "w", lock=None).close()
    return made


def _make_edited(folder: Path) -> Template:
    made = make_base(folder)
    edit = _all(_set(range(4), "plain", 500), _set(range(90, 95), "plain", 100), _delete(range(20, 25)))
    with booklet.open(folder / FILE, "w") as plain:
        edit(plain)
        plain.set_metadata({"name": "plain"})
    edit(made.local)
    made.local.set_metadata({"name": "plain"})
    return made


def _make_damaged_journal(folder: Path) -> Template:
    made = make_base(folder)
    location = folder / f"{FILE}.journal"
    location.write_bytes(b"not SQLite" * 500)
    # Without its journal a file is adopted: nobody knows what was deleted in it, so that comes back.
    for number in (8, 9):
        made.local[f"k{number:03}"] = made.remote[f"k{number:03}"]
    made.may_leave = (f"{FILE}.journal.aside-*",)
    return made


def _make_to_replace(folder: Path) -> Template:
    made = make_base(folder)
    # A copy of what is replaced is another database than the one that replaces it.
    _remove_pair(folder, READER_FILE)
    made.may_leave = (f"{FILE}.journal.aside-*",)
    return made


def _make_older_journal(folder: Path) -> Template:
    made = make_base(folder)
    versions = folder / "migrations"
    shutil.copytree(migrate.migrations_folder(), versions, ignore=shutil.ignore_patterns("__pycache__"))
    (versions / "versions" / f"{_NEXT_REVISION}_for_the_test.py").write_text(_NEXT_MIGRATION)
    _remove_pair(folder, READER_FILE)
    made.readable = False
    made.may_leave = (f"{FILE}.journal.before-{REVISION}*",)
    return made


_NEXT_REVISION = f"{int(REVISION) + 1:04}"
_NEXT_MIGRATION = f"""
from alembic import op
import sqlalchemy as sa
revision, down_revision, branch_labels, depends_on = "{_NEXT_REVISION}", "{REVISION}", None, None
def upgrade():
    op.create_table("later", sa.Column("name", sa.Text, primary_key=True))
    op.add_column("staged", sa.Column("note", sa.Text))
    op.execute("INSERT INTO later SELECT key FROM entry")
"""


@contextlib.contextmanager
def newer_code(folder: Path) -> Iterator[None]:
    """Makes this process one whose code knows one more revision, for a folder that has it."""
    versions = folder / "migrations"
    if not versions.exists():
        yield
        return
    with (
        mock.patch.object(migrate, "REVISION", _NEXT_REVISION),
        mock.patch.object(migrate, "migrations_folder", return_value=versions),
    ):
        yield


def _remove_pair(folder: Path, file: str = FILE) -> None:
    for name in (file, f"{file}.journal"):
        (folder / name).unlink()


# -- the scenarios -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A template and the steps that a child takes in a copy of it."""

    make: Callable[..., Template]
    steps: list[Step]
    flag: str = "w"
    other_states: Callable[[Template], list[Content]] = field(default=lambda template: [])

    def states(self, start: Content) -> list[Content]:
        """Returns the state before the first step and after each."""
        states = [start]
        for step in self.steps:
            state = states[-1].copy()
            if step.change is not None:
                step.change(state)
            states.append(state)
        return states


_SYNC = [
    opened(),
    synced(_all(_set(range(5), "sync", 400), _delete(range(10, 13)))),
    in_transaction(_all(_set(range(100, 110), "t", 100), _delete(range(13, 15)), _metadata({"in": "t"}))),
    rolled_back(_all(_set(range(100, 103), "never", 100), _delete(range(15, 17)))),
    synced(_delete(range(15, 16))),
    in_transaction(_all(_clear, _set(range(200, 203), "after clear", 50))),
    synced(_set(range(200, 201), "again", 50)),
]

_APPEND = [
    opened(),
    synced(_all(_set(range(3), "big", 100_000), _delete(range(10, 12)), _metadata({"big": 1}))),
    synced(_set(range(300, 305), "staged", 100)),
    closed(_all(_set(range(3, 5), "closing", 500), _delete(range(12, 14)))),
]

_REINDEX = [
    opened(),
    closed(_all(_set(range(400, 520), "many", 40), _set(range(3), "many", 700))),
    opened(),
    closed(_delete(range(400, 410))),
]

_PRUNE = [opened(), synced(_set(range(3), "pruned", 500)), pruned(), pruned(), closed()]

_FULL_DISK = [
    opened(),
    synced(_all(_set(range(3), "small", 2000), _delete(range(10, 12)), _metadata({"disk": "full"}))),
    in_transaction(_set(range(3, 6), "small", 2000)),
    synced(_all(_set(range(300, 303), "big", 100_000), _delete(range(12, 14)))),
    synced(_set(range(303, 305), "small", 2000)),
    closed(),
]

_CREATE = [
    opened(),
    synced(_all(_set(range(10), "made", 100), _metadata({"made": True}))),
    closed(_set(range(10, 12), "made", 100)),
]

SCENARIOS: dict[str, Scenario] = {
    "sync": Scenario(make_base, _SYNC),
    "append": Scenario(make_base, _APPEND),
    "append that grows the index": Scenario(make_base, _REINDEX),
    "prune": Scenario(make_base, _PRUNE),
    "prune to a size": Scenario(make_base, [opened(), pruned_to(20_000), closed()]),
    "creation": Scenario(_make_empty, _CREATE, flag="c"),
    "copy for writing": Scenario(_make_uncopied, [opened(), loaded(), closed()]),
    "copy for reading": Scenario(_make_uncopied, [opened(), loaded(), closed()], flag="r"),
    "keeping what is fetched": Scenario(_make_unfetched, [opened(), loaded(), closed()]),
    "keeping what a reader fetched": Scenario(_make_unfetched, [opened(), loaded(), closed()], flag="r"),
    "plain edits": Scenario(_make_edited, [opened(), closed()]),
    "a damaged journal": Scenario(_make_damaged_journal, [opened(), closed()]),
    "migration": Scenario(_make_older_journal, [opened(), synced(_set(range(2), "m", 50)), closed()]),
    "starting anew": Scenario(
        _make_to_replace,
        [
            opened(_all(_clear, _metadata(None))),
            synced(_set(range(3), "anew", 50)),
            closed(),
        ],
        flag="n",
        other_states=lambda template: [template.remote],
    ),
    "full disk": Scenario(make_base, _FULL_DISK),
    "recovery": Scenario(make_base, [opened(), closed()]),
}
"""Each by the name under which it is counted. "recovery" runs in what a killed "append" left, and
nobody is killed in "full disk"."""


# -- pushes ------------------------------------------------------------------------------------

PUSH_KEYS = 200
PUSH_PACK_BYTES = 120_000
PUSH_PART_BYTES = 160_000
PUSH_LIMITS = IndexLimits(tail_bytes=1000, run_list_bytes=300)
PUSH_SIZES = Sizes(block_rows=16, object_blocks=4, page_entries=2)
PUSH_RECORDS = 1
LARGE_KEY = "large"
LARGE_BYTES = 300_000
"""Two parts of the length that `small_packs` allows."""


@contextlib.contextmanager
def small_packs() -> Iterator[None]:
    """Makes packs, parts and what a commit names so small that 200 keys need several of each.

    A commit of them writes index objects and a list of them; all but the first, an object of history, too.
    """
    with (
        mock.patch.object(packing, "PACK_BYTES", PUSH_PACK_BYTES),
        mock.patch.object(packing, "PART_BYTES", PUSH_PART_BYTES),
        mock.patch.object(multipart, "MIN_PART_BYTES", PUSH_PART_BYTES),
        mock.patch.object(store, "MIN_PART_BYTES", PUSH_PART_BYTES),
        mock.patch.object(builder, "IndexLimits", return_value=PUSH_LIMITS),
        mock.patch.object(publish, "RunWriter", functools.partial(RunWriter, sizes=PUSH_SIZES)),
        mock.patch.object(history, "KEEP_RECENT", PUSH_RECORDS),
    ):
        yield


def _first_push(large_bytes: int) -> Change:
    """Sets 200 keys, one of them too large for a pack that it shares."""

    def change(target: Any) -> None:
        for number in range(PUSH_KEYS - 1):
            key = f"p{number:03}"
            target[key] = value_of(key, "pushed", 2000)
        target[LARGE_KEY] = value_of(LARGE_KEY, "pushed", large_bytes)
        target.set_metadata({"pushed": 1})

    return change


def _second_push(target: Any) -> None:
    """Changes 200 keys of a database that was pushed before: 185 sets, 15 deletes."""
    for number in range(50, 235):
        key = f"p{number:03}"
        target[key] = value_of(key, "pushed again", 2000)
    for number in range(15):
        del target[f"p{number:03}"]


def _make_pushed(folder: Path, remote: Any = None) -> Template:
    """A pushed database of 200 keys, and a second machine's copy of it."""
    remote = remote or remote_of(folder)
    first = Content()
    fill = _first_push(100)
    fill(first)
    with (
        small_packs(),
        ebooklet_tx.open(remote, folder / FILE, "c", n_buckets=BUCKETS, lock=None) as database,
    ):
        fill(database)
        database.changes().push()
    with ebooklet_tx.open(remote, folder / READER_FILE) as reader:
        reader.load_items()
    return Template(first, first)


def _pushing(change: Change) -> list[Step]:
    return [opened(), synced(change), pushed(), closed()]


PUSHES: dict[str, Scenario] = {
    "first push to a folder": Scenario(_make_empty, _pushing(_first_push(LARGE_BYTES)), flag="c"),
    "first push to a bucket": Scenario(_make_empty, _pushing(_first_push(LARGE_BYTES)), flag="c"),
    "second push": Scenario(_make_pushed, _pushing(_second_push)),
}
