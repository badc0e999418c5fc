"""Timestamps: int microseconds since 1970 UTC, and what users may write instead.

The invariant: a timestamp is from 0 to `MAX_TIMESTAMP_US`, so every format holds it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.limits import MAX_TIMESTAMP_US

Timestamp = int | str | datetime | None
"""Microseconds, an ISO 8601 str with a zone, a datetime with a zone, or None for now."""

LAST_UNLIKELY_US = 631_152_000_000_000
"""A smaller number (before 1990) is more likely to be seconds, milliseconds or days."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp_us(timestamp: Timestamp) -> int:
    """Returns microseconds since 1970 UTC.

    Raises:
        InvalidArgumentError: It has no zone, is before 1970, is no timestamp, or is a number in the years 1970 to
            1989, as seconds and milliseconds are; 0 is accepted.
    """
    if timestamp is None:
        return now_us()
    is_number = isinstance(timestamp, int) and not isinstance(timestamp, bool)
    if isinstance(timestamp, str):
        try:
            timestamp = datetime.fromisoformat(timestamp)
        except ValueError as error:
            raise InvalidArgumentError(
                f"the timestamp {timestamp!r} is not ISO 8601; give one such as '2026-01-31T12:00:00+00:00'"
            ) from error
    if isinstance(timestamp, datetime):
        try:
            has_zone = timestamp.utcoffset() is not None
        except Exception as error:
            # pandas' NaT is a datetime too.
            raise InvalidArgumentError(f"the timestamp {timestamp!r} is no point in time: {error}") from error
        if not has_zone:
            raise InvalidArgumentError(f"the timestamp {timestamp.isoformat()} has no zone; add one")
        # Whole microseconds: a float of seconds would lose the last of them.
        timestamp = (timestamp - _EPOCH) // timedelta(microseconds=1)
    if isinstance(timestamp, bool) or not isinstance(timestamp, int):
        raise InvalidArgumentError(
            f"a timestamp must be int microseconds, an ISO 8601 str or a datetime, not {type(timestamp).__name__}"
        )
    if is_number and 0 < timestamp <= LAST_UNLIKELY_US:
        raise InvalidArgumentError(
            f"the timestamp {timestamp} counts microseconds, so it lies in {as_datetime(timestamp):%Y}: was it "
            "meant as seconds or milliseconds? Multiply seconds by 1_000_000; give a time before 1990 as a "
            "datetime with a zone, or as ISO 8601"
        )
    if not 0 <= timestamp <= MAX_TIMESTAMP_US:
        raise InvalidArgumentError(
            f"the timestamp {_shown(timestamp)} is outside of what is stored: 0 to {MAX_TIMESTAMP_US} "
            "microseconds, the years 1970 to 3111"
        )
    return timestamp


def now_us() -> int:
    """Returns now, as a timestamp; a clock set before 1970, or absurdly late, gives the nearest that there is."""
    now = time.time_ns() // 1000
    return now if 0 <= now <= MAX_TIMESTAMP_US else min(max(now, 0), MAX_TIMESTAMP_US)


def as_datetime(microseconds: int | None) -> datetime | None:
    """Returns a timestamp as a datetime in UTC; what was stored past the year 9999 is shown as its end."""
    if microseconds is None:
        return None
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _shown(timestamp: int) -> str:
    """A number of many digits can't be written in decimal, and need not be."""
    return str(timestamp) if abs(timestamp) < 2**64 else "of more than 64 bits"


__all__ = ["MAX_TIMESTAMP_US", "Timestamp", "as_datetime", "now_us", "timestamp_us"]
