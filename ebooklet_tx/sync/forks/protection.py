"""The object that protects a fork: read, and written anew before its changes are pushed.

`collect` leaves the objects of a fork, and those of the commit that it was made on, alone until the fork's time
to live has passed since its object was last written, by the store's own clock. The invariant: what `renew` has
let pass is protected for a whole time to live from then on.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from ebooklet_tx.errors import (
    ObjectMissingError,
    ObjectTooLargeError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.fork import ForkNote, decode_fork
from ebooklet_tx.formats.root import Root
from ebooklet_tx.limits import MAX_FORK_BYTES
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.object_store import Blob
from ebooklet_tx.sync.remote import Remote

LEFT_SECONDS = 23 * 3600.0
"""For so long after a fork has expired its changes are still pushed: an hour less than what it leaves is kept."""


@dataclass(frozen=True, slots=True)
class Protected:
    """A fork's object as it was read.

    Attributes:
        note: What it says of the fork.
        root: The root of the commit that the fork was made on.
        root_bytes: How long that root is.
        data: The object's bytes.
    """

    note: ForkNote
    root: Root
    root_bytes: int
    data: bytes


def read_fork(remote: Remote, fork_id: str) -> Protected:
    """Reads a fork's object, one request.

    Raises:
        RemoteMissingError: There is none, or none any more.
        RemoteIntegrityError: It is damaged, or another fork's.
    """
    key = remote.names.fork(fork_id)
    name = f"the fork {fork_id} of {remote.root_place}"
    try:
        # Without a condition a store answers with the object or raises.
        blob = cast(Blob, remote.store.get(key, max_bytes=MAX_FORK_BYTES))
    except ObjectMissingError as error:
        raise RemoteMissingError(
            f"there is no {name.removeprefix('the ')}: it has expired, or was deleted with its database, or the "
            "connection leads to another place; make a new one with fork()",
            object_name=key,
        ) from error
    except ObjectTooLargeError as error:
        raise RemoteIntegrityError(f"{name} is longer than a fork can be: {error}", object_name=key) from error
    note, root, root_data = decode_fork(blob.data, name=name)
    if note.fork_id != fork_id:
        raise RemoteIntegrityError(f"{name} says that it is the fork {note.fork_id}", object_name=key)
    return Protected(note, root, len(root_data), blob.data)


class Renewal(enum.Enum):
    """What became of a fork that was written anew."""

    IN_TIME = "it was protected all the while"
    LATE = "it had expired, and nothing of it can be gone yet; its packs are asked for all the same"
    TOO_LATE = "it had expired for so long that something of it may be gone"


def judge_renewal(
    before: datetime, now: datetime, *, ttl_seconds: float, left_seconds: float = LEFT_SECONDS
) -> Renewal:
    """Decides what a renewal is worth; tests/model explores it together with `collect`.

    Args:
        before: When the fork's object had been written, by the store's clock.
        now: When it was written anew, by the same.
        ttl_seconds: For how long it protects.
        left_seconds: For how long after that nothing of it is deleted, with a margin.
    """
    expired = before + timedelta(seconds=ttl_seconds)
    if now <= expired:
        return Renewal.IN_TIME
    return Renewal.LATE if now <= expired + timedelta(seconds=left_seconds) else Renewal.TOO_LATE


def renew(remote: Remote, fork_id: str, packs: Collection[ObjectRef]) -> None:
    """Protects a fork for one more time to live; four requests, unless it had expired.

    Args:
        remote: The remote.
        fork_id: The fork.
        packs: Its packs that a commit is to name.

    Raises:
        RemoteMissingError: It is gone, or one of the packs, or it expired too long ago to be sure of them.
    """
    key = remote.names.fork(fork_id)
    try:
        there = read_fork(remote, fork_id)
    except RemoteMissingError as error:
        raise _expired(remote, fork_id, "its object is gone") from error
    try:
        before = remote.store.head(key).last_modified
        remote.store.put(key, there.data)
        now = remote.store.head(key).last_modified
    except ObjectMissingError as error:
        # Deleted since it was read, and with it, maybe, what it protected.
        raise _expired(remote, fork_id, "its object was deleted meanwhile") from error
    if before is None or now is None:
        # A store that does not tell times: its collects delete nothing.
        return
    verdict = judge_renewal(before, now, ttl_seconds=there.note.ttl_seconds)
    if verdict is Renewal.IN_TIME:
        return
    if verdict is Renewal.TOO_LATE:
        expired = before + timedelta(seconds=there.note.ttl_seconds)
        raise _expired(remote, fork_id, f"it expired at {expired:%Y-%m-%d %H:%M} by the store's clock")
    for ref in packs:
        try:
            remote.store.head(remote.names.object(ref.name))
        except ObjectMissingError as error:
            raise _expired(remote, fork_id, f"it has expired, and {ref.name} is gone") from error


def _expired(remote: Remote, fork_id: str, why: str) -> RemoteMissingError:
    return RemoteMissingError(
        f"the values that a fork of {remote.root_place} brought can't be relied on any more: {why} (fork "
        f"{fork_id}). Nothing was pushed, and everything is pending: discard() what was merged from it, and run "
        "that work again on a new fork",
        operation="push",
    )


__all__ = ["LEFT_SECONDS", "Protected", "read_fork", "renew"]
