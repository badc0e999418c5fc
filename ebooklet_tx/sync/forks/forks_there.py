"""The forks of a database: what each protects, and until when.

The invariant: a fork protects its own objects, told by their names, and all that the root names that it was made
on, until its time to live has passed since its object was last written, by the store's clock. What can't be
read of a fork's object is protected for the longest time that a fork can have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ebooklet_tx.errors import Error, RemoteIntegrityError, RemoteMissingError, UnsupportedFormatError
from ebooklet_tx.formats.object_names import pack_prefix_of
from ebooklet_tx.formats.root import Root
from ebooklet_tx.limits import MAX_FORK_SECONDS
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.forks.protection import read_fork
from ebooklet_tx.sync.remote import Remote

FORK = "fork/"


@dataclass(frozen=True, slots=True)
class ForkThere:
    """A fork whose object is there.

    Attributes:
        there: Its object as it was listed.
        expires: When it expires, by the store's clock; None where the store does not tell times.
        names: The relative names of what it protects, itself among them.
        obstacle: Why it can't be told what its base names; None where that is known.
    """

    there: StoredObject
    expires: datetime | None
    names: frozenset[str]
    obstacle: Error | None = None

    def is_live(self, now: datetime | None) -> bool:
        """Whether it still protects; where it is not known how late it is, it does."""
        return now is None or self.expires is None or now < self.expires


def forks_in(names: Iterable[str]) -> list[str]:
    """Returns those of some relative names that are objects of forks, their lists of changes not among them."""
    return [name for name in names if name.startswith(FORK) and "." not in name]


def fork_there(
    remote: Remote,
    name: str,
    there: StoredObject,
    listed: Collection[str],
    named_by: Callable[[Root], Collection[str]],
    *,
    uuid: str | None,
) -> ForkThere | None:
    """Reads a fork's object; None where it was deleted since it was listed.

    Args:
        remote: The remote.
        name: The object's relative name.
        there: The object as it was listed.
        listed: The relative names of what was listed.
        named_by: Returns what a root names.
        uuid: The identity of the database that is there; a fork of an earlier one protects its own objects alone.
    """
    fork_id = name.removeprefix(FORK)
    starts = f"{name}.", pack_prefix_of(fork_id)
    own = {name, *(each for each in listed if each.startswith(starts))}
    seconds, base, obstacle = MAX_FORK_SECONDS, frozenset[str](), None
    try:
        found = read_fork(remote, fork_id)
        seconds = found.note.ttl_seconds
        if uuid is None or found.note.uuid == uuid:
            base = frozenset(named_by(found.root))
    except RemoteMissingError:
        return None
    except (RemoteIntegrityError, UnsupportedFormatError) as error:
        obstacle = error
    expires = None if there.last_modified is None else there.last_modified + timedelta(seconds=seconds)
    return ForkThere(there, expires, base | own, obstacle)


__all__ = ["FORK", "ForkThere", "fork_there", "forks_in"]
