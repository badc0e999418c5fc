"""The overlay: what a session wrote since its last commit, in memory alone.

The invariant: each change of it is one call into C, so an interrupt comes before the change or after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Overlay:
    """What a session wrote since its last commit.

    `operations` maps a key to (encoded value or None for deleted, timestamp in microseconds). `waiting_bytes`
    is what it holds: the values, and the keys that have none.
    """

    operations: dict[str, tuple[bytes | None, int]] = field(default_factory=dict)
    waiting_bytes: int = 0
    version: int = 0

    def put(self, key: str, value: bytes | None, timestamp_us: int) -> None:
        """Notes that a key is set, or deleted with None."""
        old = self.operations.get(key)
        more_bytes = len(value or key.encode())
        if old is not None:
            more_bytes -= _waiting_bytes(key, old)
        self.version += 1
        self.waiting_bytes += more_bytes
        self.operations[key] = value, timestamp_us

    def put_all(self, operations: dict[str, tuple[bytes | None, int]]) -> None:
        """Notes what is set and deleted, all of it or, when it is interrupted, nothing."""
        self.version += 1
        old = self.operations
        more_bytes = sum(map(_waiting_bytes, operations, operations.values()))
        if old:
            more_bytes -= sum(_waiting_bytes(key, old.get(key)) for key in operations)
        self.waiting_bytes += more_bytes
        old.update(operations)

    def forget(self) -> None:
        """Empties the overlay, after a commit or a rollback."""
        vars(self).update(operations={}, waiting_bytes=0, version=self.version + 1)

    def copy(self) -> Overlay:
        """Returns a copy that later writes do not change."""
        return Overlay(dict(self.operations), self.waiting_bytes, self.version)

    def __bool__(self) -> bool:
        return bool(self.operations)


def _waiting_bytes(key: str, operation: tuple[bytes | None, int] | None) -> int:
    # Empty values and deletes take memory too: without a bound on them it would follow the number of keys.
    if operation is None:
        return 0
    return len(operation[0]) if operation[0] else len(key.encode())
