"""What the databases of a test should hold, told with dicts alone.

A `RemoteModel` holds what the commits so far say. A `CopyModel` is one local file: what it has seen
of the remote, what is pending on top, what is written and not yet committed, and the pushes whose answer
never came. The key "" is the metadata, as in the journal. Values are the encoded bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

METADATA = ""


@dataclass(frozen=True)
class Row:
    """What a commit says of a key; `value` None for a delete."""

    value: bytes | None
    stamp: int
    seq: int


@dataclass(frozen=True)
class Operation:
    """A change still to be pushed, with the row on which it is based."""

    value: bytes | None
    stamp: int
    base: Row | None


@dataclass(frozen=True)
class UnansweredPush:
    """A push of which its writer does not know what became."""

    commit_id: str
    rows: dict[str, Row]
    seq: int
    applied: bool


@dataclass
class RemoteModel:
    """The rows of all commits, the newest for each key."""

    rows: dict[str, Row] = field(default_factory=dict)
    seq: int = 0
    life: int = 0

    @property
    def head(self) -> tuple[int, int]:
        """Names the newest commit; `life` counts how often the whole remote was lost."""
        return self.life, self.seq

    def vanish(self) -> None:
        self.rows, self.seq, self.life = {}, 0, self.life + 1

    def visible(self) -> dict[str, tuple[bytes, int]]:
        return {k: (r.value, r.stamp) for k, r in self.rows.items() if r.value is not None}

    def apply(self, rows: dict[str, Row]) -> None:
        self.rows.update(rows)
        self.seq += 1


@dataclass
class CopyModel:
    """One local file."""

    seen: dict[str, Row] = field(default_factory=dict)
    pending: dict[str, Operation] = field(default_factory=dict)
    overlay: dict[str, tuple[bytes | None, int]] = field(default_factory=dict)
    cleared_at: int | None = None
    cleared: frozenset[str] = frozenset()
    head: tuple[int, int] = (0, 0)
    unanswered: list[UnansweredPush] = field(default_factory=list)

    def clone(self) -> CopyModel:
        return copy.deepcopy(self)

    # -- what shows ------------------------------------------------------------------------

    def durable(self) -> dict[str, tuple[bytes, int]]:
        """What a reader beside the writer sees: everything but the overlay."""
        found = {k: (r.value, r.stamp) for k, r in self.seen.items() if r.value is not None}
        for key, operation in self.pending.items():
            found.pop(key, None)
            if operation.value is not None:
                found[key] = (operation.value, operation.stamp)
        return found

    def visible(self) -> dict[str, tuple[bytes, int]]:
        found = self.durable()
        if self.cleared_at is not None:
            found = {k: v for k, v in found.items() if k == METADATA}
        for key, (value, stamp) in self.overlay.items():
            found.pop(key, None)
            if value is not None:
                found[key] = (value, stamp)
        return found

    def conflicts(self) -> list[str]:
        found = []
        for key, operation in self.pending.items():
            row, base = self.seen.get(key), operation.base
            theirs = row.value if row else None
            if theirs not in ((base.value if base else None), operation.value):
                found.append(key)
        return sorted(found)

    # -- writing ---------------------------------------------------------------------------

    @property
    def has_overlay(self) -> bool:
        return bool(self.overlay) or self.cleared_at is not None

    @property
    def overlay_bytes(self) -> int:
        # A deletion takes as much as its key.
        cleared = sum(len(key.encode()) for key in self.cleared if key not in self.overlay)
        return cleared + sum(len(value or key.encode()) for key, (value, _) in self.overlay.items())

    def put(self, key: str, value: bytes | None, stamp: int) -> None:
        self.overlay[key] = (value, stamp)

    def clear(self, stamp: int) -> None:
        keys = self.visible().keys() - {METADATA}
        if not keys:
            # Nothing shows that it could delete.
            return
        self.cleared |= keys | (self.overlay.keys() - {METADATA})
        self.overlay = {k: v for k, v in self.overlay.items() if k == METADATA}
        self.cleared_at = stamp

    def forget_overlay(self) -> None:
        """What a kill or a rolled back transaction does."""
        self.overlay = {}
        self.cleared_at = None
        self.cleared = frozenset()

    def commit(self) -> None:
        if self.cleared_at is not None:
            # Also keys set since the last commit: a push whose outcome is open may have sent them.
            for key in (set(self.durable()) | self.cleared) - {METADATA}:
                self._delete(key, self.cleared_at)
        for key, (value, stamp) in self.overlay.items():
            if value is None:
                self._delete(key, stamp)
            else:
                self._set(key, value, stamp)
        self.forget_overlay()

    def _set(self, key: str, value: bytes, stamp: int) -> None:
        old, row = self.pending.get(key), self.seen.get(key)
        if row is not None and (row.value, row.stamp) == (value, stamp) and not self.unanswered:
            self.pending.pop(key, None)
        else:
            self.pending[key] = Operation(value, stamp, old.base if old else row)

    def _delete(self, key: str, stamp: int) -> None:
        old, row = self.pending.get(key), self.seen.get(key)
        # While a push may have taken effect unseen, every delete stays. That the key is not pending any more, or
        # is of this overlay alone, does not tell that the push did not send it: its operation may be discarded.
        if (row is None or row.value is None) and not self.unanswered:
            self.pending.pop(key, None)
        else:
            self.pending[key] = Operation(None, stamp, old.base if old else row)

    def discard(self, keys: Iterable[str] | None) -> int:
        gone = [k for k in (list(self.pending) if keys is None else keys) if k in self.pending]
        for key in gone:
            del self.pending[key]
        return len(gone)

    # -- sync ------------------------------------------------------------------------------

    def pull(self, remote: RemoteModel) -> None:
        if remote.seq == 0:
            # A first push that was sent may take place yet.
            return
        if remote.head == self.head:
            return
        for push in self.unanswered:
            if push.applied:
                self._take_own(push)
        told = remote.life == self.head[0] and self.head[1] > 0
        if self.unanswered and (told or any(push.applied for push in self.unanswered)):
            self._drop_unchanged()
        self.seen = dict(remote.rows)
        self.head = remote.head
        self.unanswered = []
        self._drop_superfluous()

    def _take_own(self, push: UnansweredPush) -> None:
        for key, row in push.rows.items():
            known = self.seen.get(key)
            if known is None or row.seq > known.seq:
                self.seen[key] = row
        self.rebase({k for k, row in self.seen.items() if row.seq == push.seq})
        self._drop_superfluous()

    def rebase(self, keys: Iterable[str]) -> None:
        """Makes what was last seen the base of the operations on some keys."""
        for key in keys:
            operation = self.pending.get(key)
            if operation is not None:
                self.pending[key] = Operation(operation.value, operation.stamp, self.seen.get(key))

    def _drop_unchanged(self) -> None:
        """Drops what changes nothing of its base, and was kept only while the outcome of a push was open."""
        for key, operation in list(self.pending.items()):
            base = operation.base
            there, stamp = (base.value, base.stamp) if base else (None, 0)
            if operation.value == there and (there is None or operation.stamp == stamp):
                del self.pending[key]

    def _drop_superfluous(self) -> None:
        for key, operation in list(self.pending.items()):
            row = self.seen.get(key)
            if operation.value is None:
                done = row is None or row.value is None
            else:
                done = row is not None and (row.value, row.stamp) == (operation.value, operation.stamp)
            if done:
                del self.pending[key]

    def drop_agreeing(self, kept: Collection[str] = ()) -> None:
        """What a push does about values that another writer has set just so, but for some keys."""
        for key, operation in list(self.pending.items()):
            if key in kept:
                continue
            row, base = self.seen.get(key), operation.base
            theirs = row.value if row else None
            if theirs is not None and theirs == operation.value and theirs != (base.value if base else None):
                del self.pending[key]

    def drop_equal(self, keys: Iterable[str]) -> None:
        """Drops sets of what the remote has, whenever it was set there."""
        for key in keys:
            operation, row = self.pending.get(key), self.seen.get(key)
            if (
                operation is not None
                and row is not None
                and operation.value is not None
                and row.value == operation.value
            ):
                del self.pending[key]

    def rows_to_push(self, remote: RemoteModel) -> dict[str, Row]:
        return {k: Row(o.value, o.stamp, remote.seq + 1) for k, o in self.pending.items()}

    def push(self, remote: RemoteModel, *, force: bool = False) -> bool | list[str]:
        """Returns the keys in conflict, or whether the remote changed."""
        self.commit()
        settled = False
        if self.unanswered:
            settled = any(push.applied for push in self.unanswered) and remote.head != self.head
            self.pull(remote)
        if force:
            self.pull(remote)
        while True:
            if self.conflicts():
                # Told of, or decided, by what the remote holds now.
                self.pull(remote)
            if force:
                self.rebase(self.conflicts())
            self.drop_agreeing()
            if self.conflicts():
                return self.conflicts()
            if not self.pending and self.head[1] and not force:
                return settled
            if remote.head == self.head:
                break
            self.pull(remote)
        self.finish_push(remote)
        return True

    def finish_push(self, remote: RemoteModel) -> None:
        """A push that took place and was answered."""
        rows = self.rows_to_push(remote)
        remote.apply(rows)
        self.seen = dict(remote.rows)
        self.head = remote.head
        self.pending = {}
        self.unanswered = []

    def write_anew(self, remote: RemoteModel) -> None:
        """A forced push after the remote has vanished: everything goes there again."""
        self.commit()
        self.pending = {k: Operation(v, stamp, None) for k, (v, stamp) in self.durable().items()}
        self.seen = {}
        self.finish_push(remote)

    def adopt(self, held: dict[str, tuple[bytes, int]], remote: RemoteModel, tombstone_floor: int) -> None:
        """The journal is gone: what the file holds meets the remote, and the newer wins."""
        self.seen, self.unanswered, self.head = {}, [], (0, 0)
        self.pending = {k: Operation(v, stamp, None) for k, (v, stamp) in held.items()}
        if remote.seq == 0:
            return
        self.seen = {k: r for k, r in remote.rows.items() if r.value is not None or r.seq >= tombstone_floor}
        self.head = remote.head
        for key, operation in list(self.pending.items()):
            row = self.seen.get(key)
            if row is not None and (row.stamp >= operation.stamp or row.value == operation.value):
                del self.pending[key]
        self.rebase(list(self.pending))
        self._drop_superfluous()
