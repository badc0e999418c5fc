"""How a database's objects are called in a store.

Owns no state. The invariant: every name is the database's key, or begins with the key and a
suffix of ours, and no name is another's plus `/`, so that plain folders and stores that behave
like them can hold all of them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ebooklet_tx.connection import check_object_key


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """The names of one database's objects.

    Attributes:
        key: The database's key in the store.
    """

    key: str

    def __post_init__(self) -> None:
        check_object_key(self.key, "the database's key")

    @property
    def root(self) -> str:
        """The root object's key."""
        return self.key

    @property
    def lock(self) -> str:
        """The lease's key; tickets append `.` and their id to it."""
        return f"{self.key}.lock"

    @property
    def prefix(self) -> str:
        """What the keys of packs, index objects and snapshots begin with."""
        return f"{self.key}.d/"

    def object(self, relative: str) -> str:
        """Returns the key in the store of an object known by its relative name."""
        return self.prefix + check_object_key(relative, "a relative object name")

    def snapshot(self, name: str) -> str:
        """Returns the key in the store of a snapshot."""
        return self.object(f"snapshot/{name}")

    def fork(self, fork_id: str) -> str:
        """Returns the key in the store of a fork's object."""
        return self.object(f"fork/{fork_id}")

    def new_pack_of(self, fork_id: str) -> str:
        """Returns a relative name that no other pack has, and that tells of which fork the pack is."""
        return f"{pack_prefix_of(fork_id)}{secrets.token_hex(8)}"

    def new_changes(self, fork_id: str) -> str:
        """Returns a relative name that no other object of a fork's changes has."""
        return f"fork/{fork_id}.{secrets.token_hex(16)}"

    def new_pack(self) -> str:
        """Returns a relative name that no other pack has."""
        return f"pack/{secrets.token_hex(16)}"

    def new_index_object(self) -> str:
        """Returns a relative name that no other index object, and no list of a run, has."""
        return f"index/{secrets.token_hex(16)}"

    def new_history(self) -> str:
        """Returns a relative name that no other object of history has."""
        return f"history/{secrets.token_hex(16)}"


def pack_prefix_of(fork_id: str) -> str:
    """Returns what the relative names of a fork's packs begin with."""
    return f"pack/{fork_id[:16]}"
