"""Object stores around object stores: those that users' tests have, and one that calls something at a request.

All of them speak the whole protocol, as `PassingStore` does, and number their requests from 1.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any, TypeVar

from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.wrapper import PassingStore
from ebooklet_tx.testing import KINDS, CountingStore, Fault, FaultyStore, GatedStore

T = TypeVar("T")


def faulty(*faults: Fault) -> Callable[[ObjectStore], FaultyStore]:
    """Makes a store fail as planned, to be given where a store may be wrapped."""
    return lambda inner: FaultyStore(inner, faults)


class HookedStore(PassingStore):
    """Calls something once, before or after the first request of one kind for an object.

    Attributes:
        key: The object's key, or a pattern as of a shell.
        kind: The kind of request, of `KINDS`.
        before: What is called before the request is sent; None once it has been.
        after: What is called when the request has taken effect; None once it has been.
    """

    def __init__(
        self, inner: ObjectStore, key: str, *, kind: str = "put", before: Any = None, after: Any = None
    ) -> None:
        super().__init__(inner)
        self.key = key
        self.kind = kind
        self.before = before
        self.after = after

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        meant = kind == self.kind and fnmatch.fnmatchcase(key, self.key)
        before = self.before if meant else None
        if before is not None:
            self.before = None
            before()
        answer = send()
        after = self.after if meant else None
        if after is not None:
            self.after = None
            after()
        return answer


__all__ = [
    "KINDS",
    "CountingStore",
    "Fault",
    "FaultyStore",
    "GatedStore",
    "HookedStore",
    "PassingStore",
    "faulty",
]
