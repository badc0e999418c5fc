"""Resolving conflicts: choosing a side, or a value, for each key.

Owns no state. The invariant: a resolved key stays what its resolution says, on top of what the other
writer pushed: the other's version becomes the base, in one transaction for all keys, so the next
push is an ordinary one. A key that the other changed once more meanwhile is a conflict again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.local.commit import stage_value
from ebooklet_tx.local.journal.journal import driver
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.pull.conflicts import AGREEING, MISSING, Conflict, find_conflicts
from ebooklet_tx.sync.session import Session
from ebooklet_tx.timestamps import now_us

Resolver = Callable[[Conflict], Any]
CHOICES = ("ours", "theirs", "newest")

_COLUMNS = ("seq", "timestamp_us", "digest", "object", "offset_bytes", "length_bytes")
_THEIRS_AS_BASE = ", ".join(f"base_{name} = remote_{name}" for name in _COLUMNS)
_NO_BASE = ", ".join(f"base_{name} = NULL" for name in _COLUMNS)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of one key: `choice` "ours" or "theirs", or an encoded value, None to delete."""

    conflict: Conflict
    choice: str | None
    value: bytes | None = None


def check_choice(on_conflict: Any) -> None:
    """Raises unless it is "raise", "ours", "theirs", "newest" or a function."""
    if on_conflict == "raise" or on_conflict in CHOICES or callable(on_conflict):
        return
    raise InvalidArgumentError(
        f"on_conflict must be 'raise', 'ours', 'theirs', 'newest' or a function, not {on_conflict!r}"
    )


def decide(session: Session, conflict: Conflict, choice: str | Resolver) -> Resolution:
    """Applies a choice to one conflict; a function is called with it, outside the mutex."""
    if callable(choice):
        outcome = choice(conflict)
        return _keeping(session, conflict, outcome)
    if choice == "newest":
        ours, theirs = conflict.ours_version.timestamp_us, conflict.theirs_version.timestamp_us
        choice = "ours" if (ours or 0) > (theirs or 0) else "theirs"
    return Resolution(conflict, choice)


def _keeping(session: Session, conflict: Conflict, outcome: Any) -> Resolution:
    """Makes a value the outcome; what the other side has already is nothing left to push."""
    value = None if outcome is MISSING else session.encode(conflict.key, outcome)
    digest = None if value is None else digest_of(value)
    if digest == conflict.theirs_version.digest:
        return Resolution(conflict, "theirs")
    return Resolution(conflict, None, value)


def resolve_all(session: Session, on_conflict: str | Resolver) -> list[Resolution]:
    """Resolves every conflict in one way, except by giving way; returns where that was chosen.

    Our change of a key is dropped for the version that was chosen and for no other, so not before it is
    certain that the remote still has it: `apply` does that once the commit is in.

    Only a function is asked about keys to which both sides gave the same value.
    """
    with session.mutex:
        conflicts = find_conflicts(session, agreeing=callable(on_conflict))
    resolutions = [decide(session, conflict, on_conflict) for conflict in conflicts]
    apply(session, [item for item in resolutions if item.choice != "theirs"])
    return [item for item in resolutions if item.choice == "theirs"]


def gives_way(item: Resolution, theirs: bytes | None, ours: bytes | None) -> bool:
    """Whether it was for these two versions of a key that the other's was chosen."""
    chosen = item.conflict
    same = (chosen.theirs_version.digest, chosen.ours_version.digest) == (theirs, ours)
    return same and item.choice == "theirs"


def drop_agreeing(session: Session) -> None:
    """Drops operations that another writer has carried out just so."""
    with session.mutex, session.journal.transaction() as connection:
        driver(connection).execute(f"UPDATE entry SET pending = 0, {_NO_BASE} WHERE {AGREEING}")


def resolve_keys(session: Session, choices: Mapping[str, Any]) -> int:
    """Resolves the conflicts of some keys, each by a choice, a function, or a value to keep.

    Raises:
        KeyError: A key is not in conflict; nothing was resolved.
    """
    with session.mutex:
        conflicts = {conflict.key: conflict for conflict in find_conflicts(session)}
    for key in choices:
        if key not in conflicts:
            raise KeyError(key)
    resolutions = []
    for key, choice in choices.items():
        if callable(choice) or (isinstance(choice, str) and choice in CHOICES):
            resolutions.append(decide(session, conflicts[key], choice))
        else:
            resolutions.append(_keeping(session, conflicts[key], choice))
    apply(session, resolutions)
    return len(resolutions)


def apply(session: Session, resolutions: Sequence[Resolution]) -> None:
    """Carries resolutions out in one transaction, except where the other side moved on meanwhile."""
    if not resolutions:
        return
    with session.mutex, session.journal.transaction() as connection:
        raw = driver(connection)
        for item in resolutions:
            if _rebase(raw, item):
                stage_value(raw, item.conflict.key, item.value, now_us())


def _rebase(raw: sqlite3.Connection, item: Resolution) -> bool:
    """Puts one key on the other's version; True when a value of the resolver's is still to be set."""
    key, theirs, ours = item.conflict.key, item.conflict.theirs_version, item.conflict.ours_version
    unmoved = (
        "key = ? AND pending != 0 AND remote_digest IS ? AND CASE pending WHEN 1 THEN pending_digest END IS ?"
    )
    parameters = (key, theirs.digest, ours.digest)
    if item.choice == "theirs":
        raw.execute(f"UPDATE entry SET pending = 0, {_NO_BASE} WHERE {unmoved}", parameters)
        return False
    changed = raw.execute(f"UPDATE entry SET {_THEIRS_AS_BASE} WHERE {unmoved}", parameters).rowcount
    return item.choice is None and changed == 1
