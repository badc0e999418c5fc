"""Carrying resolutions of conflicts out.

The invariant: a resolved key stays what its resolution says, on top of what the other writer pushed: the other's
version becomes the base, in one transaction for all keys. A key of which either side has changed since the
resolution was made is left as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.local.journal.operations import DROP_EMPTY, NO_BASE, REMOTE_AS_BASE, save_pushed, stage_value

_UNMOVED = (
    "key = ? AND pending != 0 AND known != 0 AND remote_digest IS ? "
    "AND CASE pending WHEN 1 THEN pending_digest END IS ?"
)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of one key in conflict.

    Attributes:
        key: The key.
        theirs_digest: The other writer's version for which it was decided; None for a deletion.
        ours_digest: Our version for which it was decided; None for a deletion.
        choice: "ours", "theirs", or None for `value`.
        value: The encoded value to keep; None to delete the key.
    """

    key: str
    theirs_digest: bytes | None
    ours_digest: bytes | None
    choice: str | None
    value: bytes | None = None


def settle(
    journal: Journal, settlements: Sequence[Settlement], timestamp_us: int, *, durable: bool = True
) -> None:
    """Carries settlements out in one transaction, which may have to be durable; values have the time given."""
    if not settlements:
        return
    with journal.transaction(durable=durable) as transaction:
        raw = driver(transaction)
        save_pushed(raw, [item.key for item in settlements])
        for item in settlements:
            if _rebase(raw, item):
                stage_value(raw, item.key, item.value, timestamp_us)
        raw.execute(DROP_EMPTY)


def _rebase(raw: sqlite3.Connection, item: Settlement) -> bool:
    """Puts one key on the other's version; True when a value is still to be set."""
    parameters = (item.key, item.theirs_digest, item.ours_digest)
    if item.choice == "theirs":
        raw.execute(f"UPDATE entry SET pending = 0, {NO_BASE} WHERE {_UNMOVED}", parameters)
        return False
    changed = raw.execute(f"UPDATE entry SET {REMOTE_AS_BASE} WHERE {_UNMOVED}", parameters).rowcount
    return item.choice is None and changed == 1
