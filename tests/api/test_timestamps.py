"""What users may write for a timestamp, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.timestamps import MAX_TIMESTAMP_US, as_datetime, timestamp_us


class Nowhere(tzinfo):
    """A zone that can't tell its offset."""

    def utcoffset(self, dt: datetime | None, /) -> timedelta | None:
        return None


class NotATime(datetime):
    """A datetime that is none, as pandas' NaT."""

    def utcoffset(self) -> timedelta | None:
        raise ValueError("NotATime does not support utcoffset")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, 0),
        (MAX_TIMESTAMP_US, MAX_TIMESTAMP_US),
        ("1970-01-01T00:00:01+00:00", 1_000_000),
        ("1970-01-01T02:00:00.000001+02:00", 1),
        ("1970-01-01T00:00:00Z", 0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        # A float of seconds would lose this microsecond.
        (datetime(2200, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 7_258_118_400_000_001),
    ],
)
def test_what_is_taken(given: Any, expected: int) -> None:
    assert timestamp_us(given) == expected


def test_none_is_now() -> None:
    before = datetime.now(UTC)
    now = as_datetime(timestamp_us(None))
    assert now is not None
    assert before <= now <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (-1, "outside"),
        (MAX_TIMESTAMP_US + 1, "outside"),
        (True, "not bool"),
        (1.5, "not float"),
        ([], "not list"),
        ("yesterday", "not ISO 8601"),
        ("2026-01-01T00:00:00", "no zone"),
        (datetime(2026, 1, 1), "no zone"),
        (datetime(1969, 12, 31, tzinfo=UTC), "outside"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "outside"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))), "outside"),
        (datetime(2026, 1, 1, tzinfo=Nowhere()), "no zone"),
        (NotATime(2026, 1, 1), "no point in time"),
    ],
)
def test_what_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        timestamp_us(given)


def test_back_to_a_datetime() -> None:
    assert as_datetime(None) is None
    assert as_datetime(1) == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
