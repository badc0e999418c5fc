"""The inventory of a database: every object below its prefix, held against what its root and its snapshots name.

The invariant: an object is one of the database's only if its whole name is one that this package gives; any other
is strange, and left alone. What an inventory calls dead is an object of the database's that was listed before the
root was read, and that neither this root, nor a snapshot, nor a fork that was listed names. It calls nothing
dead unless every index that this depends on was read whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from ebooklet_tx.errors import Error, ObjectMissingError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.checks import is_object_name
from ebooklet_tx.formats.fork import is_fork_name
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.root import Root
from ebooklet_tx.maintenance.merged_root import LivePack, MergedRoot
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.forks.forks_there import FORK, ForkThere, fork_there, forks_in
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, fetch_snapshot, read_root_or_none

GARBAGE_NOTE = "garbage"
"""The relative name of the object in which the collector keeps what it has seen dead."""

RELEASED = "released"
"""The relative name of the object that each deletion of a snapshot writes anew: since then at the earliest may be
garbage what nothing names any more."""

SNAPSHOT = "snapshot/"
DELETION = "snapshot/deleted-"
"""Names of the notes that deletions keep while they are under way: no reader uses them, and they protect
nothing."""

_SNAPSHOT_NAME = re.compile(r"snapshot/[^/]+")


# -- what is there -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies below a database's prefix.

    Attributes:
        own: The database's packs, index and history objects, snapshots and forks, by relative name.
        notes: The collector's note and that of deleted snapshots, as far as they are there, by relative name.
        strange: The objects that are none of the database's.
    """

    own: dict[str, StoredObject]
    notes: dict[str, StoredObject]
    strange: list[StoredObject]

    @property
    def note(self) -> StoredObject | None:
        """The collector's note; None where there is none."""
        return self.notes.get(GARBAGE_NOTE)

    def own_and_notes(self) -> dict[str, StoredObject]:
        """Returns the database's objects with the notes among them."""
        return {**self.own, **self.notes}


def own_name(names: ObjectNames, key: str) -> str | None:
    """Returns the relative name of an object of this database; None when the key is none of its own."""
    if not key.startswith(names.prefix):
        return None
    relative = key[len(names.prefix) :]
    is_own = is_object_name(relative) or is_fork_name(relative) or _SNAPSHOT_NAME.fullmatch(relative)
    return relative if is_own else None


def list_objects(remote: Remote) -> Listing:
    """Lists what lies below a database's prefix; locks lie beside it."""
    own: dict[str, StoredObject] = {}
    notes: dict[str, StoredObject] = {}
    strange: list[StoredObject] = []
    note_keys = {remote.names.object(name): name for name in (GARBAGE_NOTE, RELEASED)}
    for found in remote.store.list(remote.names.prefix):
        name = own_name(remote.names, found.key)
        if name is not None:
            own[name] = found
        elif found.key in note_keys:
            notes[note_keys[found.key]] = found
        else:
            strange.append(found)
    return Listing(own, notes, strange)


def snapshots_in(names: Iterable[str]) -> list[str]:
    """Returns those of some relative names that are snapshots, the notes of deletions not among them."""
    return [name for name in names if name.startswith(SNAPSHOT) and not name.startswith(DELETION)]


def list_snapshots(remote: Remote) -> dict[str, StoredObject]:
    """Lists a database's snapshots, by relative name."""
    found = {entry.key: entry for entry in remote.store.list(remote.names.prefix + SNAPSHOT)}
    named = {key: own_name(remote.names, key) for key in found}
    own = {name: found[key] for key, name in named.items() if name is not None}
    return {name: own[name] for name in snapshots_in(own)}


# -- what is named -----------------------------------------------------------------------------


def objects_named(remote: Remote, root: Root) -> dict[str, int]:
    """Returns sizes in bytes of the objects that a reader of a root may need, by relative name.

    They are the objects of index and history, and the packs in which values lie that are not deleted or
    overwritten.

    Raises:
        RemoteIntegrityError: A part of the index is missing or damaged.
    """
    with MergedRoot() as index:
        index.add_root(remote, root)
        for problem in index.problems:
            raise problem.error
        return _sizes(index, list(index.packs()))


def _sizes(index: MergedRoot, packs: list[LivePack]) -> dict[str, int]:
    sizes = {name: ref.size_bytes for name, ref in index.objects.items()}
    return sizes | {pack.ref.name: pack.ref.size_bytes for pack in packs}


# -- both --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Inventory:
    """What is there and what is named; names are relative, as an index has them.

    Attributes:
        fetched: The root, None where there is none.
        root_modified: A moment, by the store's clock, since when this root or a later one is there and no
            snapshot was deleted; None where the store does not say.
        index: The root's index, empty where there is no root.
        listing: The objects that are there.
        packs: The packs that the root's live rows lie in.
        claimed: The objects that the root names: those of index and history, and `packs`.
        named: `claimed`, and what snapshots name, and they themselves.
        obstacles: Why nothing is surely dead: what could not be read of root and snapshots.
        forks: The forks that are there, by relative name.
        now: The store's time by which forks have expired; None where it is not known, so that none has.
    """

    fetched: FetchedRoot | None
    root_modified: datetime | None
    index: MergedRoot
    listing: Listing
    packs: list[LivePack] = field(default_factory=list)
    claimed: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    obstacles: list[Error] = field(default_factory=list)
    forks: dict[str, ForkThere] = field(default_factory=dict)
    now: datetime | None = None

    def live(self) -> list[StoredObject]:
        """Returns the objects that are named, or protected by a fork, and there."""
        kept = self.named | self._forked()
        return [found for name, found in self.listing.own.items() if name in kept]

    def expiries(self) -> dict[str, datetime]:
        """Returns until when objects were protected by forks that have expired."""
        found: dict[str, datetime] = {}
        for fork in self.forks.values():
            if fork.expires is not None and not fork.is_live(self.now):
                found |= {name: max(fork.expires, found.get(name, fork.expires)) for name in fork.names}
        return found

    def _forked(self) -> set[str]:
        return {name for fork in self.forks.values() if fork.is_live(self.now) for name in fork.names}

    def dead(self) -> dict[str, StoredObject]:
        """Returns the objects that nothing names, by relative name.

        Raises:
            RemoteIntegrityError: A part of an index can't be read, so that nothing is surely dead.
        """
        forks = [fork.obstacle for fork in self.forks.values() if fork.obstacle and fork.is_live(self.now)]
        for obstacle in (*self.obstacles, *forks):
            raise RemoteIntegrityError(
                f"nothing can be told to be garbage while a part of the index can't be read: {obstacle}; "
                "nothing was deleted. Run `python -m ebooklet_tx verify` for what is affected"
            ) from obstacle
        kept = self.named | self._forked()
        return {name: found for name, found in self.listing.own.items() if name not in kept}


@contextmanager
def take_inventory(remote: Remote) -> Iterator[Inventory]:
    """Lists a database's objects, then reads its root, its snapshots and forks, and their indexes.

    In this order: an object that a push sent after the listing can't be called dead, nor one that was sent
    before and is named by the root that was read.

    Raises:
        RemoteIntegrityError: The root is damaged.
        UnsupportedFormatError: A newer version, or another program, wrote it.
    """
    listing = list_objects(remote)
    fetched = read_root_or_none(remote)
    # Asked after the read: what this root does not name was unnamed when it was written, or a later one.
    root_modified = None if fetched is None else _last_modified(remote, remote.names.root)
    with MergedRoot() as index:
        found = Inventory(fetched, root_modified, index, listing)
        if fetched is not None:
            index.add_root(remote, fetched.root)
            found.packs = list(index.packs())
            found.claimed = set(_sizes(index, found.packs))
            found.obstacles = [problem.error for problem in index.problems]
        found.named = set(found.claimed)
        released = listing.notes.get(RELEASED)
        for name in snapshots_in(listing.own):
            named = named_by_snapshot(remote, name, found.obstacles)
            found.named.update(named or {name})
            if named is None:
                # Deleted since it was listed, which its deletion noted before that.
                released = _head(remote, RELEASED) or released
        found.forks = read_forks(remote, listing.own, fetched, found.claimed)
        if released is not None:
            found.root_modified = _later(found.root_modified, released.last_modified)
        yield found


def read_forks(
    remote: Remote, own: Mapping[str, StoredObject], fetched: FetchedRoot | None, claimed: set[str]
) -> dict[str, ForkThere]:
    """Reads the forks among some objects; each commit that forks were made on is read once.

    Args:
        remote: The remote.
        own: The database's objects by relative name, as they were listed.
        fetched: The root.
        claimed: What it names.
    """
    named = {} if fetched is None else {fetched.manifest.commit_id: claimed}
    uuid = None if fetched is None else fetched.manifest.uuid

    def named_by(root: Root) -> set[str]:
        commit_id = root.manifest.commit_id
        if commit_id not in named:
            named[commit_id] = set(objects_named(remote, root))
        return named[commit_id]

    found = {name: fork_there(remote, name, own[name], own, named_by, uuid=uuid) for name in forks_in(own)}
    return {name: fork for name, fork in found.items() if fork is not None}


def list_forks(remote: Remote) -> dict[str, StoredObject]:
    """Lists the objects of a database's forks, by relative name."""
    found = {own_name(remote.names, one.key): one for one in remote.store.list(remote.names.prefix + FORK)}
    return {name: one for name, one in found.items() if name is not None}


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return None if one is None or other is None else max(one, other)


def _head(remote: Remote, name: str) -> StoredObject | None:
    try:
        return remote.store.head(remote.names.object(name))
    except ObjectMissingError:
        return None


def _last_modified(remote: Remote, key: str) -> datetime | None:
    try:
        return remote.store.head(key).last_modified
    except ObjectMissingError:
        return None


def named_by_snapshot(remote: Remote, name: str, obstacles: list[Error]) -> set[str] | None:
    """Returns what a snapshot names, and its own name; None where it was deleted since it was listed.

    Args:
        remote: The remote.
        name: The snapshot's relative name.
        obstacles: Is given what could not be read of it, which decides about garbage as well.
    """
    key = remote.names.object(name)
    try:
        fetched = fetch_snapshot(remote, key)
        with MergedRoot() as index:
            index.add_root(remote, fetched.root)
            obstacles += [problem.error for problem in index.problems]
            return {name, *_sizes(index, list(index.packs()))}
    except ObjectMissingError:
        return None
    except (RemoteIntegrityError, UnsupportedFormatError) as error:
        obstacles.append(error)
        return {name}
