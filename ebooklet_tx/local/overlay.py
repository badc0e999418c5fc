"""The overlay: what a session wrote since its last commit, in memory alone.

The invariant: each change of it is one call into C, so an interrupt comes before the change or after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Overlay:
    """What a session wrote since its last commit.

    `operations` maps a key to (encoded value or None for deleted, timestamp in microseconds);
    `cleared` says that every key not among them is deleted. `waiting_bytes` is what it holds: the values, and
    the keys that have none.

    The operations change in one call into C, so that an interrupt comes before that or after it: between them
    and `cleared` lies the whole database.
    """

    operations: dict[str, tuple[bytes | None, int]] = field(default_factory=dict)
    cleared: bool = False
    cleared_at_us: int = 0
    waiting_bytes: int = 0
    version: int = 0

    def put(self, key: str, value: bytes | None, timestamp_us: int) -> None:
        """Notes that a key is set, or deleted with None."""
        operation = value, timestamp_us
        self.version += 1
        self.waiting_bytes += _waiting_bytes(key, operation) - _waiting_bytes(key, self.operations.get(key))
        self.operations[key] = operation

    def put_all(self, operations: dict[str, tuple[bytes | None, int]]) -> None:
        """Notes what is set and deleted, all of it or, when it is interrupted, nothing."""
        self.version += 1
        old = self.operations
        self.waiting_bytes += sum(
            _waiting_bytes(key, operation) - _waiting_bytes(key, old.get(key))
            for key, operation in operations.items()
        )
        old.update(operations)

    def clear(self, timestamp_us: int) -> None:
        """Notes that every key but the metadata is deleted."""
        kept = {key: operation for key, operation in self.operations.items() if key == ""}
        vars(self).update(
            operations=kept,
            cleared=True,
            cleared_at_us=timestamp_us,
            waiting_bytes=sum(_waiting_bytes(*item) for item in kept.items()),
            version=self.version + 1,
        )

    def forget(self) -> None:
        """Empties the overlay, after a commit or a rollback."""
        vars(self).update(operations={}, cleared=False, waiting_bytes=0, version=self.version + 1)

    def copy(self) -> Overlay:
        """Returns a copy that later writes do not change."""
        return Overlay(dict(self.operations), self.cleared, self.cleared_at_us, self.waiting_bytes, self.version)

    def __bool__(self) -> bool:
        return bool(self.operations) or self.cleared


def _waiting_bytes(key: str, operation: tuple[bytes | None, int] | None) -> int:
    # Empty values and deletes take memory too: without a bound on them it would follow the number of keys.
    if operation is None:
        return 0
    return len(operation[0]) if operation[0] else len(key.encode())
