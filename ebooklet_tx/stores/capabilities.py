"""The probe: a test of how a store treats conditional writes.

Owns two objects `D.lock.probe-*` while it runs. The invariants: before it answers, a probe removes what it wrote,
and what an earlier probe left that was killed; it leaves the objects of a probe that may still run; and it can
only disqualify a store, because a race that did not happen proves nothing.
"""

from __future__ import annotations

import contextlib
import enum
import secrets
from collections.abc import Collection
from typing import Protocol

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.limits import MAX_LOCK_BYTES
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.workers import Workers

CREATORS = 8
LEFT_BEHIND_SECONDS = 3600.0
"""How much older than ours, by the store's own clock, an object must be for its probe to count as killed."""

_TRIES = 3
WRONG_ETAG = "00000000000000000000000000000000"
"""An ETag that no object has, as every object that is compared has a nonce."""


class Conditional(enum.Enum):
    """What a store does with `If-Match` and `If-None-Match` on a PUT."""

    QUOTED = "quoted"
    """They work, with the ETag in quotes as HTTP wants."""

    UNQUOTED = "unquoted"
    """They work, but If-Match wants the ETag without quotes."""

    REFUSED = "refused"
    """They are answered with an error."""

    IGNORED = "ignored"
    """They are silently ignored."""

    RACY = "racy"
    """They work one at a time, but several creates at once succeeded."""

    UNUSABLE = "unusable"
    """They can't replace a root, although they work on new objects."""

    @property
    def works(self) -> bool:
        """Whether a compare-and-swap can use them."""
        return self in (Conditional.QUOTED, Conditional.UNQUOTED)


class CleaningDeniedError(RemoteAccessError):
    """The rights to remove the objects of a probe are missing, so nothing was written."""

    kind = "cleaning_denied"


class Quoting(Protocol):
    """A store that can send ETags with quotes or without.

    Attributes:
        quote_etags: Whether they are sent with quotes.
        etags_proven: Whether a conditional write succeeded with that setting.
    """

    quote_etags: bool
    etags_proven: bool


def probe(store: ObjectStore, key: str, quoting: Quoting | None) -> Conditional:
    """Tries conditional writes on objects beside the lock of one database.

    Args:
        store: The store.
        key: The lock's key, `D.lock`.
        quoting: The store whose `quote_etags` is tried and left at the value that works; None when the
            store has no such choice.

    Raises:
        CleaningDeniedError: Objects may be neither listed nor deleted; none was written.
        RemoteAccessError: The store refuses writes altogether.
        OfflineError: It can't be reached, or keeps failing.
    """
    prefix = f"{key}.probe-"
    names = [f"{prefix}{secrets.token_hex(8)}" for _ in range(2)]
    _check_rights(store, names[0])
    try:
        answer = _try_one_by_one(store, names[0], quoting)
        if answer.works and not _one_creator_wins(store, names[1]):
            answer = Conditional.RACY
        return answer
    finally:
        _clean_up(store, prefix, names)


def _check_rights(store: ObjectStore, name: str) -> None:
    """Makes sure, before anything is written, that it can be removed again.

    Raises:
        CleaningDeniedError: It can't.
    """
    for right, ask in (("s3:DeleteObject", store.delete), ("s3:ListBucket", lambda key: list(store.list(key)))):
        try:
            ask(name)
        except RemoteAccessError as error:
            raise CleaningDeniedError(
                f"the right {right} is missing: {error}",
                object_name=error.object_name,
                operation=error.operation,
            ) from error


def _clean_up(store: ObjectStore, prefix: str, ours: Collection[str]) -> None:
    found = list(store.list(prefix))
    now = max((entry.last_modified for entry in found if entry.last_modified is not None), default=None)
    for entry in found:
        age = now - entry.last_modified if now is not None and entry.last_modified is not None else None
        if entry.key.startswith(tuple(ours)) or (age is not None and age.total_seconds() > LEFT_BEHIND_SECONDS):
            with contextlib.suppress(ObjectMissingError):
                store.delete(entry.key)


def _try_one_by_one(store: ObjectStore, name: str, quoting: Quoting | None) -> Conditional:
    first = _put(store, name, b"first", if_absent=True, must_work=True)
    if first is None or isinstance(first, ConditionUnsupportedError):
        return Conditional.REFUSED
    etag = store.head(name).etag
    again = _put(store, name, b"again", if_absent=True)
    if isinstance(again, str):
        return Conditional.IGNORED
    if isinstance(_put(store, name, b"stale", if_match=WRONG_ETAG), str):
        return Conditional.IGNORED
    replaced = _put(store, name, b"replaced", if_match=etag, must_work=True)
    if isinstance(replaced, ConditionUnsupportedError):
        return Conditional.REFUSED
    if isinstance(replaced, str):
        return Conditional.QUOTED if quoting is None or quoting.quote_etags else Conditional.UNQUOTED
    if quoting is None or not quoting.quote_etags:
        return Conditional.REFUSED
    quoting.quote_etags = False
    if isinstance(_put(store, name, b"stale", if_match=WRONG_ETAG), str):
        answer = Conditional.IGNORED
    elif isinstance(_put(store, name, b"replaced", if_match=store.head(name).etag), str):
        return Conditional.UNQUOTED
    else:
        answer = Conditional.REFUSED
    quoting.quote_etags = True
    return answer


def _put(
    store: ObjectStore,
    name: str,
    data: bytes,
    *,
    if_match: str | None = None,
    if_absent: bool = False,
    must_work: bool = False,
) -> str | Error | None:
    """Returns the ETag when the write took effect, the store's answer when it refused, None when unclear.

    A server error alone is no answer (Ceph sends it to writers that lose a race), so the object is read back. If
    the write should have worked, an unconditional one has to succeed before the failure counts as a refusal.
    """
    for number in range(_TRIES):
        try:
            return store.put(name, data, if_match=if_match, if_absent=if_absent)
        except ConditionUnsupportedError as error:
            return error
        except (PreconditionFailedError, TransientStoreError) as error:
            refused = isinstance(error, PreconditionFailedError)
            if refused and number == 0:
                return error
            try:
                blob = store.get(name, max_bytes=MAX_LOCK_BYTES)
            except ObjectMissingError:
                blob = None
            if blob is not None and blob.data == data:
                return blob.etag
            if refused or (blob is not None and if_absent):
                return error
            if must_work:
                # Raises if the store takes no writes at all, so that conditions are not the reason.
                store.put(f"{name}-plain", b"plain")
    return None


def _one_creator_wins(store: ObjectStore, name: str) -> bool:
    def create(number: int) -> bool:
        try:
            store.put(name, b"creator %d" % number, if_absent=True)
        except (PreconditionFailedError, ConditionUnsupportedError, TransientStoreError):
            return False
        return True

    with Workers(CREATORS) as workers:
        return sum(workers.map(create, range(CREATORS))) <= 1
