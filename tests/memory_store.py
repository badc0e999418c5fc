"""The object store in memory, with treatment of conditional writes, clock and moments that are the test's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from ebooklet_tx.errors import ConditionUnsupportedError, PreconditionFailedError
from ebooklet_tx.stores import memory
from ebooklet_tx.stores.object_store import ByteSource, UploadState
from ebooklet_tx.stores.request import Request

Conditions = Literal["work", "want unquoted", "refused", "ignored"]
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class MemoryStore(memory.MemoryStore):
    """Keeps objects in a dict.

    Attributes:
        quote_etags: As the S3 store's; matters where conditions "want unquoted".
        conditions: How conditions on writes are treated; may be changed at any time.
        stuck: Keys of objects that refuse every ETag, as in Ceph once versioning was switched on.
        on_request: Called with kind and key before each request takes effect.
        clock: Tells the seconds since `EPOCH` that stand in listings as times of modification.
    """

    place = None
    """Roots are silent about how commits are made, so that a test decides."""

    def __init__(self, conditions: Conditions = "work", *, clock: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(clock=clock)
        self.quote_etags = True
        self.etags_proven = False
        self.on_request: Callable[[str, str], None] = lambda kind, key: None
        self.conditions: Conditions = conditions
        self.stuck: set[str] = set()

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        return self.put(key, source.read_at(0, source.size_bytes))

    def copy(self, source_key: str, target_key: str) -> str:
        self._begin("copy", source_key)
        blob = self.get(source_key)
        return self.put(target_key, blob.data if blob is not None else b"")

    def _begin(self, operation: str, key: str) -> Request:
        self.on_request(operation, key)
        return Request(operation, self.location, key)

    def _check(self, request: Request, if_match: str | None) -> None:
        key, if_absent = request.key, if_match is None
        if self.conditions == "ignored" and key not in self.stuck:
            return
        if self.conditions == "refused":
            raise ConditionUnsupportedError("501: memory refuses conditional writes")
        if key in self.stuck and not if_absent:
            raise PreconditionFailedError(f"412: {key!r} in memory refuses every ETag")
        if not if_absent and self.conditions == "want unquoted" and self.quote_etags:
            raise PreconditionFailedError(f"412: {key!r} in memory is not in the expected state")
        super()._check(request, if_match)

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock())
