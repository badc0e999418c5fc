"""A survey: every object of a database, held against what its root and its snapshots name.

Owns no state. The invariant: what a survey calls dead is an object of ours that was listed before the
root was read, and that neither this root nor any snapshot listed names. It calls nothing dead unless every
index it depends on was read whole. Names are compared exactly; a name that is none of ours is strange.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from ebooklet_tx.errors import Error, ObjectMissingError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.root import Root
from ebooklet_tx.maintenance.named import GARBAGE_NOTE, own_name
from ebooklet_tx.maintenance.remote_index import LivePack, RemoteIndex
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, fetch_root, read_root_or_none

SNAPSHOT = "snapshot/"
DELETION = "snapshot/deleted-"
"""Names of the roots that deletions leave while they are under way: nobody reads by them, and they protect
nothing."""


@dataclass(slots=True)
class Survey:
    """What is there and what is named; names are relative, as an index has them.

    Attributes:
        fetched: The root, None where there is none.
        root_modified: A moment, by the store's clock, since when this root or a later one has stood; None
            where the store does not say.
        index: The root's index, empty where there is no root.
        listed: The objects of ours that are there.
        strange: The objects that are none of ours.
        noted: Whether an earlier collect has left its note.
        packs: The packs that the root's live rows lie in.
        claimed: The objects that the root names: its segments and `packs`.
        named: `claimed`, and what snapshots name, and they themselves.
        obstacles: Why nothing is surely dead: what could not be read of root and snapshots.
    """

    fetched: FetchedRoot | None
    root_modified: datetime | None
    index: RemoteIndex
    listed: dict[str, StoredObject]
    strange: list[StoredObject]
    noted: bool
    packs: list[LivePack] = field(default_factory=list)
    claimed: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    obstacles: list[Error] = field(default_factory=list)

    def live(self) -> list[StoredObject]:
        """Returns the objects that are named and there."""
        return [found for name, found in self.listed.items() if name in self.named]

    def dead(self) -> dict[str, StoredObject]:
        """Returns the objects that nobody names, by relative name.

        Raises:
            RemoteIntegrityError: A part of an index can't be read, so that nothing is surely dead.
        """
        for obstacle in self.obstacles:
            raise RemoteIntegrityError(
                f"nothing can be told to be garbage while a part of the index can't be read: {obstacle}; "
                "nothing was deleted. Run `python -m ebooklet_tx verify` for what is affected"
            ) from obstacle
        return {name: found for name, found in self.listed.items() if name not in self.named}


@contextmanager
def survey(remote: Remote) -> Iterator[Survey]:
    """Lists a database's objects, then reads its root, its snapshots and their indexes.

    In this order: an object that a push brought after the listing can't be called dead, nor one that
    was brought before and is named by the root that was read.

    Raises:
        RemoteIntegrityError: The root is damaged.
        UnsupportedFormatError: A newer version, or another program, wrote it.
    """
    listed, strange, noted = _list(remote)
    fetched = read_root_or_none(remote)
    # Asked after the read: what this root does not name was unnamed when it was written, or a later one.
    root_modified = None if fetched is None else _last_modified(remote, remote.names.root)
    with RemoteIndex() as index:
        found = Survey(fetched, root_modified, index, listed, strange, noted)
        if fetched is not None:
            index.add_root(remote, fetched.root)
            found.packs = list(index.packs())
            found.claimed = names_of(fetched.root, found.packs)
            found.obstacles = [problem.error for problem in index.problems]
        found.named = set(found.claimed)
        for name in listed:
            if name.startswith(SNAPSHOT) and not name.startswith(DELETION):
                found.named.add(name)
                found.named.update(_named_by_snapshot(remote, name, found.obstacles))
        yield found


def names_of(root: Root, packs: Iterable[LivePack]) -> set[str]:
    """Returns the names of the objects that a root names, given the packs of its live rows."""
    return {segment.name for segment in root.manifest.segments} | {pack.ref.name for pack in packs}


def _list(remote: Remote) -> tuple[dict[str, StoredObject], list[StoredObject], bool]:
    listed: dict[str, StoredObject] = {}
    strange: list[StoredObject] = []
    noted = False
    prefix = remote.names.prefix
    for found in remote.store.list(prefix):
        name = found.key[len(prefix) :]
        if own_name(remote.names, found.key) is not None:
            listed[name] = found
        elif name == GARBAGE_NOTE:
            noted = True
        else:
            strange.append(found)
    return listed, strange, noted


def _last_modified(remote: Remote, key: str) -> datetime | None:
    try:
        return remote.store.head(key).last_modified
    except ObjectMissingError:
        return None


def _named_by_snapshot(remote: Remote, name: str, obstacles: list[Error]) -> set[str]:
    """Returns what a snapshot names; what can't be read of it decides about garbage as well."""
    key = remote.names.object(name)
    try:
        fetched = fetch_root(remote.store, key, name=f"the snapshot {key!r}")
        with RemoteIndex() as index:
            index.add_root(remote, fetched.root)
            obstacles += [problem.error for problem in index.problems]
            return names_of(fetched.root, index.packs())
    except ObjectMissingError:
        # Deleted since it was listed.
        return set()
    except (RemoteIntegrityError, UnsupportedFormatError) as error:
        obstacles.append(error)
        return set()
