"""Resolving conflicts: choosing a side, or a value, for each key.

The invariant: a resolved key stays what its resolution says, on top of what the other writer pushed, so that the
next push is an ordinary one. A key that the other writer changed once more meanwhile is in conflict again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.pending.resolutions import Settlement, settle
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.pull.conflicts import MISSING, Conflict
from ebooklet_tx.timestamps import now_us

Resolver = Callable[[Conflict], Any]
Encoder = Callable[[str, Any], bytes]
CHOICES = ("ours", "theirs", "newest")


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


def decide(conflict: Conflict, choice: str | Resolver, encode: Encoder) -> Resolution:
    """Applies a choice to one conflict; a function is called with it."""
    if callable(choice):
        return _keeping(conflict, choice(conflict), encode)
    if choice == "newest":
        ours, theirs = conflict.ours_version.timestamp_us, conflict.theirs_version.timestamp_us
        choice = "ours" if (ours or 0) > (theirs or 0) else "theirs"
    return Resolution(conflict, choice)


def _keeping(conflict: Conflict, outcome: Any, encode: Encoder) -> Resolution:
    """Makes a value the outcome; what the other side has already is nothing left to push."""
    value = None if outcome is MISSING else encode(conflict.key, outcome)
    digest = None if value is None else digest_of(value)
    if digest == conflict.theirs_version.digest:
        return Resolution(conflict, "theirs")
    return Resolution(conflict, None, value)


def undecided(conflicts: Sequence[Conflict], yielding: Sequence[Resolution]) -> list[Conflict]:
    """Returns the other conflicts than those of `decided`."""
    keys = {conflict.key for conflict in decided(conflicts, yielding)}
    return [conflict for conflict in conflicts if conflict.key not in keys]


def decided(conflicts: Sequence[Conflict], yielding: Sequence[Resolution]) -> list[Conflict]:
    """Returns the conflicts in which the other writer's version was chosen, for these versions of the key."""
    decisions = {item.conflict.key: item for item in yielding}
    return [
        conflict
        for conflict in conflicts
        if conflict.key in decisions
        and chooses_theirs(decisions[conflict.key], conflict.theirs_version.digest, conflict.ours_version.digest)
    ]


def resolve_all(
    journal: Journal, conflicts: Sequence[Conflict], choice: str | Resolver, encode: Encoder
) -> list[Resolution]:
    """Resolves conflicts in one way, but for those in which the other writer's version is chosen.

    Our change of a key is dropped for the version that was chosen and for no other, so not before it is
    certain that the remote still has it: `apply` does that once the commit is in.

    Returns:
        The resolutions in which the other writer's version was chosen; nothing was done about them.
    """
    resolutions = [decide(conflict, choice, encode) for conflict in conflicts]
    # Durable with the intent of the push: without it the key is in conflict as before.
    apply(journal, [item for item in resolutions if item.choice != "theirs"], durable=False)
    return [item for item in resolutions if item.choice == "theirs"]


def chooses_theirs(item: Resolution, theirs: bytes | None, ours: bytes | None) -> bool:
    """Whether the other writer's version was chosen, for these two digests of the key."""
    chosen = item.conflict
    same = (chosen.theirs_version.digest, chosen.ours_version.digest) == (theirs, ours)
    return same and item.choice == "theirs"


def decide_keys(conflicts: Sequence[Conflict], choices: Mapping[str, Any], encode: Encoder) -> list[Resolution]:
    """Decides the conflicts of some keys, each by a choice, a function, or a value to keep.

    Raises:
        KeyError: A key is not in conflict.
    """
    by_key = {conflict.key: conflict for conflict in conflicts}
    for key in choices:
        if key not in by_key:
            raise KeyError(key)
    return [_decide_key(by_key[key], choice, encode) for key, choice in choices.items()]


def _decide_key(conflict: Conflict, choice: Any, encode: Encoder) -> Resolution:
    if callable(choice) or (isinstance(choice, str) and choice in CHOICES):
        return decide(conflict, choice, encode)
    return _keeping(conflict, choice, encode)


def apply(journal: Journal, resolutions: Sequence[Resolution], *, durable: bool = True) -> None:
    """Carries resolutions out in one transaction, except where either side has changed meanwhile."""
    settle(journal, [_settlement(item) for item in resolutions], now_us(), durable=durable)


def _settlement(item: Resolution) -> Settlement:
    conflict = item.conflict
    theirs, ours = conflict.theirs_version.digest, conflict.ours_version.digest
    return Settlement(conflict.key, theirs, ours, item.choice, item.value)
