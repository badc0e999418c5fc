"""Timestamps: int microseconds since 1970 UTC, and what users may write instead.

Owns no state. The invariant: what comes out fits the seven bytes that Booklet gives a timestamp.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from ebooklet_tx.errors import InvalidArgumentError

Timestamp = int | str | datetime | None
"""Microseconds, an ISO 8601 str with a zone, a datetime with a zone, or None for now."""

MAX_TIMESTAMP_US = 2**56 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp_us(timestamp: Timestamp) -> int:
    """Returns microseconds since 1970 UTC.

    Raises:
        InvalidArgumentError: It has no zone, is before 1970, or is no timestamp at all.
    """
    if timestamp is None:
        return time.time_ns() // 1000
    if isinstance(timestamp, str):
        try:
            timestamp = datetime.fromisoformat(timestamp)
        except ValueError as error:
            raise InvalidArgumentError(
                f"the timestamp {timestamp!r} is not ISO 8601; give one such as '2026-01-31T12:00:00+00:00'"
            ) from error
    if isinstance(timestamp, datetime):
        if timestamp.tzinfo is None:
            raise InvalidArgumentError(f"the timestamp {timestamp.isoformat()} has no zone; add one")
        # Whole microseconds: a float of seconds would lose the last of them.
        timestamp = (timestamp - _EPOCH) // timedelta(microseconds=1)
    if isinstance(timestamp, bool) or not isinstance(timestamp, int):
        raise InvalidArgumentError(
            f"a timestamp must be int microseconds, an ISO 8601 str or a datetime, not {type(timestamp).__name__}"
        )
    if not 0 <= timestamp <= MAX_TIMESTAMP_US:
        raise InvalidArgumentError(
            f"the timestamp {timestamp} is outside what Booklet can hold: 0 to {MAX_TIMESTAMP_US} microseconds"
        )
    return timestamp


def as_datetime(microseconds: int | None) -> datetime | None:
    """Returns a timestamp as a datetime in UTC."""
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
