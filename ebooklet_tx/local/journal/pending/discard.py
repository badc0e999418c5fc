"""Discarding pending operations.

The invariant: a discarded operation leaves the key as the base commit has it, in one transaction for all keys;
a value that only this machine had is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from ebooklet_tx.local.journal import operations
from ebooklet_tx.local.journal.journal import Journal, driver


def discard(journal: Journal, keys: Sequence[str] | None) -> int:
    """Drops the pending operations of some keys, or of all; returns how many there were."""
    with journal.transaction() as transaction:
        return operations.discard(driver(transaction), keys)
