"""Keys that were changed twice: by two workers, or by a worker and this session; and what becomes of them.

The invariant: of the changes of a key one stays, or a value that the caller gives. Values are read only where
somebody asks for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.errors import InvalidArgumentError, LocalIntegrityError
from ebooklet_tx.formats.fork import ChangedRow
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.journal.entries import find_entries
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.sync.pull.conflicts import MISSING, Conflict, ConflictError, Version, read_side
from ebooklet_tx.sync.pull.resolve import Encoder, Resolution, Resolver, decide
from ebooklet_tx.sync.read.fetch import fetch_place
from ebooklet_tx.sync.read.reader import Reader

NAMED_KEYS = 5

Decode = Callable[[str, bytes], Any]


class MergeConflictError(ConflictError):
    """Keys were changed by two workers, or by a worker and here; nothing was taken in.

    Attributes:
        conflicts: One for each key, ours being what came first, theirs what came after it.
        workers: For each key, whose changes these are.
    """

    kind = "merge_conflict"

    def __init__(
        self, conflicts: list[Conflict], place: str, workers: dict[str, tuple[str, str]], complete: bool = True
    ) -> None:
        super().__init__(conflicts, place, complete)
        self.workers = workers
        some = list(workers.items())[:NAMED_KEYS]
        shown = ", ".join(f"{key!r} by {one} and by {other}" for key, (one, other) in some)
        more = f" and {len(workers) - len(some)} more" if len(workers) > len(some) else ""
        changed = counted(len(workers), "key was", "keys were")
        self.args = (
            f"{changed} changed twice: {shown}{more}; nothing was merged. Merge with "
            "on_conflict='newest', 'ours' (what comes first), 'theirs', or a function, or leave a receipt out",
        )
        self.operation = "merge"

    def __reduce__(self) -> tuple[Any, ...]:
        conflicts = [dataclasses.replace(conflict, _load=_no_values) for conflict in self.conflicts]
        return type(self), (conflicts, self._root_place, self.workers, self.complete)


@dataclass(frozen=True, slots=True)
class Claim:
    """One change of a key, and whose it is; without a row it is what is pending here, of a number."""

    worker: str
    row: ChangedRow | None
    number: int = 0
    receipt_id: str = ""


def conflict_error(reader: Reader, decode: Decode, claims: dict[str, list[Claim]]) -> MergeConflictError:
    conflicts = [_conflict(reader, decode, key, *items[:2]) for key, items in claims.items()]
    workers = {key: (items[0].worker, items[1].worker) for key, items in claims.items()}
    return MergeConflictError(conflicts, reader.remote.root_place, workers)


def _conflict(reader: Reader, decode: Decode, key: str, ours: Claim, theirs: Claim) -> Conflict:
    def load(key: str, side: str) -> Any:
        value = _side(reader, key, side, ours if side == "pending" else theirs)
        return MISSING if value is None else decode(key, value)

    base = next((claim.row.base for claim in (theirs, ours) if claim.row is not None), None)
    sides = _version(reader, key, ours), _version(reader, key, theirs)
    return Conflict(key, Version(base, None), *sides, _load=load)


def _version(reader: Reader, key: str, claim: Claim) -> Version:
    if claim.row is not None:
        return Version(claim.row.row.digest, claim.row.row.timestamp_us, claim.worker)
    entry = find_entries(reader.local.journal, [key]).get(key)
    if entry is None:
        return Version(None, None, claim.worker)
    return Version(entry.digest, entry.timestamp_us, claim.worker)


def _side(reader: Reader, key: str, side: str, claim: Claim) -> bytes | None:
    """Returns the encoded value of one side of a key that was changed twice; None for a deletion."""
    if side == "base":
        wanted = claim.row.base if claim.row is not None else None
        item = reader.look_up([key]).rows.get(key)
        if wanted is None:
            return None
        if item is None or item.row.digest != wanted:
            raise LocalIntegrityError(
                f"the value that key {key!r} had when the fork was made is not the newest one any more; choose a "
                "side, or give a value",
                key=key,
            )
        if item.row.value is not None:
            return item.row.value
        place = item.ref, item.row.offset_bytes or 0, item.row.length_bytes or 0
        return fetch_place(reader.remote, RemoteValue(key, wanted, item.row.timestamp_us, *place))
    if claim.row is None:
        return read_side(reader, key, "pending")
    row, ref = claim.row.row, claim.row.ref
    if row.digest is None or ref is None:
        return None
    place = ref, row.offset_bytes or 0, row.length_bytes or 0
    return fetch_place(reader.remote, RemoteValue(key, row.digest, row.timestamp_us, *place))


def _no_values(key: str, _side: str) -> Any:
    raise LocalIntegrityError(
        f"the values of key {key!r} can't be had without the database; merge again to see them"
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a key that was changed twice: one of its changes stays, or a value is set here."""

    claim: Claim
    resolution: Resolution | None = None


def decide_claims(
    reader: Reader, decode: Decode, encode: Encoder, key: str, claims: Sequence[Claim], choice: str | Resolver
) -> Decision:
    """Lets the caller choose between the changes of a key, two by two."""
    left = claims[0]
    for number, claim in enumerate(claims[1:], 2):
        resolution = decide(_conflict(reader, decode, key, left, claim), choice, encode)
        if resolution.choice == "theirs":
            left = claim
        elif resolution.choice is None:
            if number < len(claims):
                raise InvalidArgumentError(
                    f"key {key!r} was changed by {len(claims)} workers, and a function decides between two; "
                    "merge fewer receipts at a time",
                    operation="merge",
                )
            return Decision(claim, resolution)
    return Decision(left)


__all__ = ["Claim", "Decision", "Decode", "MergeConflictError", "conflict_error", "decide_claims"]
