"""Writing an object anew in the place of a lost or damaged one.

The invariant: a write takes place only on the object that was just read, or where there is none. So what another
machine mends or deletes meanwhile is looked at again, never written over unseen. Where a store has no conditional
writes, only an object that is whole is written: another machine writes the same bytes or none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ebooklet_tx.errors import (
    ObjectMissingError,
    ObjectTooLargeError,
    OfflineError,
    PreconditionFailedError,
    TransientStoreError,
)
from ebooklet_tx.stores.object_store import Blob
from ebooklet_tx.sync.commit.turns import backoff
from ebooklet_tx.sync.remote import Remote

MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of mending one object.

    Attributes:
        written: Whether it was written anew, or was found mended by another machine.
        lacks: What is still missing of it and why, in words; "" where it is whole again.
        lost_keys: The keys whose values are still missing, where that can be told.
    """

    written: bool
    lacks: str = ""
    lost_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewBytes:
    """What an object is to be; `data` None where it is to be left as it is.

    Attributes:
        data: All of its bytes.
        lacks: As `Attempt` has it.
        lost_keys: Likewise.
    """

    data: bytes | None
    lacks: str = ""
    lost_keys: tuple[str, ...] = ()


def replace_object(
    remote: Remote, name: str, make: Callable[[bytes | None], NewBytes], *, most_bytes: int
) -> Attempt:
    """Writes an object as `make` says from the bytes that are there, on the condition that they still are.

    Args:
        remote: The remote.
        name: The object's relative name.
        make: Given the bytes, None where there are none, or more than any object of this kind has.
        most_bytes: How many such an object may have.

    Raises:
        OfflineError: The store can't be reached, or others write the object all the time.
    """
    key = remote.names.object(name)
    for number in range(MAX_TRIES):
        if number:
            backoff(remote.policy, number)
        there, etag = _look(remote, key, most_bytes)
        new = make(None if there is None else there.data)
        if new.data is None or (there is not None and there.data == new.data):
            return Attempt(new.data is not None and not new.lacks, new.lacks, new.lost_keys)
        try:
            if remote.mode.swaps:
                remote.store.put(key, new.data, if_match=etag, if_absent=etag is None)
            elif not new.lacks:
                remote.store.put(key, new.data)
            else:
                lacks = f"{new.lacks}; as the store has no conditional writes, a part of it is not written"
                return Attempt(False, lacks, new.lost_keys)
        except (PreconditionFailedError, TransientStoreError):
            # Written or deleted by another machine, or by this one whose answer was lost: look again.
            continue
        return Attempt(True, new.lacks, new.lost_keys)
    place = f"{key!r} at {remote.store.location}"
    raise OfflineError(f"{place} could not be written anew in {MAX_TRIES} tries; run the repair again")


def _look(remote: Remote, key: str, most_bytes: int) -> tuple[Blob | None, str | None]:
    """Returns an object with its ETag; the ETag alone where it is too large to be what it should be."""
    try:
        found = remote.store.get(key, max_bytes=most_bytes)
    except ObjectMissingError:
        return None, None
    except ObjectTooLargeError as error:
        return None, error.etag
    return found, None if found is None else found.etag


__all__ = ["Attempt", "NewBytes", "replace_object"]
