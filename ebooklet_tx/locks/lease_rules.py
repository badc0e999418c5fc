"""What to do about a lease: pure decisions, with no clock, store or thread of their own.

Owns no state. The invariant: a lease is taken only by a write that fails if the object changed since
it was looked at, and from a live holder only after the object's ETag stood still for a whole TTL on
the waiter's own monotonic clock. No clock is compared across machines.

The driver in `lease` acts on these decisions, and tests/model explores them exhaustively.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from typing import Any

from ebooklet_tx.errors import RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.limits import MAX_LOCK_BYTES, MAX_TIMESTAMP_US

LEASE_FORMAT = 1
MIN_POLL_SECONDS = 0.05
MAX_POLL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A session, as it signs a lease: enough to tell people who it is, and itself whose it is.

    `boot_id` and `pid` mean something on `host` alone.
    """

    owner: str
    host: str
    boot_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What the lease object says; `token` is new in every write, so that no two have one ETag.

    `fence_owed` says that an earlier holder, from whom it was taken, has not been fenced off yet;
    `written_at_us` is when this was written, by the clock that `acquired_at_us` is of, 0 where it is not told.
    """

    held: bool
    holder: Holder
    token: str
    ttl_seconds: float
    acquired_at_us: int
    fence_owed: bool = False
    written_at_us: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease object as it was read; `record` None when it could not be understood."""

    etag: str
    record: LeaseRecord | None


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when, on one's own monotonic clock, a lease object has had the ETag it has."""

    etag: str
    since_seconds: float


class Step(enum.Enum):
    """What to try next."""

    CREATE = "create it: there is none"
    TAKE_FREE = "take it: it is marked free"
    TAKE_OVER = "take it over: its holder is dead or has not renewed it for a whole TTL"
    KEEP = "it is ours"
    WAIT = "wait: somebody holds it"


def next_step(seen: Seen | None, watch: Watch | None, now_seconds: float, me: Holder, *, dead: bool) -> Step:
    """Decides how to go about a lease.

    Args:
        seen: The object as it is now, or None when there is none.
        watch: Since when it has had this ETag, as far as this waiter knows.
        now_seconds: The waiter's monotonic clock.
        me: The waiter.
        dead: Whether the holder is known to be a dead process of this very machine.
    """
    if seen is None:
        return Step.CREATE
    record = seen.record
    if record is not None and not record.held:
        return Step.TAKE_FREE
    if record is not None and record.holder.owner == me.owner:
        return Step.KEEP
    if dead:
        return Step.TAKE_OVER
    ttl_seconds = record.ttl_seconds if record is not None else 60.0
    still = watch is not None and watch.etag == seen.etag and now_seconds - watch.since_seconds >= ttl_seconds
    return Step.TAKE_OVER if still else Step.WAIT


def owes_fence(step: Step, seen: Seen | None) -> bool:
    """Whether who takes a lease has to raise the root's fence before anything else.

    The debt outlives a session that could not pay it: a lease may be freed, and somebody still believe
    that it is his.
    """
    if step is Step.TAKE_OVER:
        return True
    return seen is not None and seen.record is not None and seen.record.fence_owed


class Written(enum.Enum):
    """What became of a write of a lease that had no plain success."""

    OURS = "it took place: its token is there"
    UNTOUCHED = "what it was to replace is still there"
    OTHERS = "something else is there"


def judge_write(seen: Seen | None, *, token: str, if_match: str | None) -> Written:
    """Decides, from the lease as it is read back, what became of a write."""
    if seen is not None and seen.record is not None and seen.record.token == token:
        return Written.OURS
    there = seen.etag if seen is not None else None
    return Written.UNTOUCHED if there == if_match else Written.OTHERS


def still_holds(seen: Seen | None, me: Holder) -> bool:
    """Whether a lease with an unexpected ETag is ours all the same.

    An earlier write of ours may have taken effect although its answer never came: the ETag is another
    then, and the owner still the same.
    """
    if seen is None or seen.record is None:
        return False
    return seen.record.held and seen.record.holder.owner == me.owner


def watch_on(seen: Seen, watch: Watch | None, now_seconds: float) -> Watch:
    """Returns the watch after another look: it begins anew when the ETag has changed."""
    if watch is not None and watch.etag == seen.etag:
        return watch
    return Watch(seen.etag, now_seconds)


def poll_seconds(waited_seconds: float, ttl_seconds: float) -> float:
    """Returns how long to wait before the next look: longer the longer one has waited already.

    So a lock that is held for a moment is had soon, and one that is held for hours is not asked after often.
    """
    return min(
        max(waited_seconds / 4, MIN_POLL_SECONDS), max(ttl_seconds / 20, MIN_POLL_SECONDS), MAX_POLL_SECONDS
    )


def taking_pause_seconds(failures: int) -> float:
    """Returns how long to pause at most after so many writes that came too late, before the next look."""
    return min(MIN_POLL_SECONDS * 2.0 ** min(failures - 1, 10), MAX_POLL_SECONDS)


def encode_lease(record: LeaseRecord) -> bytes:
    """Returns the bytes of a lease object: JSON, for people to read as well."""
    return json.dumps({"format": LEASE_FORMAT, **asdict(record)}, sort_keys=True, indent=1).encode()


def decode_lease(data: bytes, *, name: str) -> LeaseRecord:
    """Reads a lease object as foreign input.

    Raises:
        UnsupportedFormatError: A newer version wrote it.
        RemoteIntegrityError: It is no lease.
    """
    way_out = "if no writer is at work, remove it with 'unlock' or open with force_lock=True"
    try:
        if len(data) > MAX_LOCK_BYTES:
            raise ValueError("it is too long")
        parsed: dict[str, Any] = json.loads(data)
        if parsed["format"] != LEASE_FORMAT:
            raise UnsupportedFormatError(f"the lock {name} has format {parsed['format']!r}; upgrade ebooklet_tx")
        record = LeaseRecord(
            held=bool(parsed["held"]),
            holder=_read_holder(parsed["holder"]),
            token=str(parsed["token"]),
            ttl_seconds=float(parsed["ttl_seconds"]),
            acquired_at_us=_whole(parsed["acquired_at_us"], MAX_TIMESTAMP_US),
            fence_owed=bool(parsed.get("fence_owed", False)),
            written_at_us=_whole(parsed.get("written_at_us", 0), MAX_TIMESTAMP_US),
        )
    except UnsupportedFormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RemoteIntegrityError(f"the lock {name} is not one of ours ({error}); {way_out}") from error
    if not 0 < record.ttl_seconds <= 86_400:
        raise RemoteIntegrityError(f"the lock {name} has a TTL of {record.ttl_seconds} seconds; {way_out}")
    return record


def _read_holder(parsed: Any) -> Holder:
    texts = [parsed[name] for name in ("owner", "host", "boot_id")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its holder is not described in words")
    owner, host, boot_id = texts
    # It is shown to people, and may have been written by anybody.
    host = "".join(letter if letter.isprintable() else "?" for letter in host[:255])
    return Holder(owner=owner, host=host, boot_id=boot_id, pid=_whole(parsed["pid"], 2**31 - 1))


def _whole(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError("a number in it is out of range")
    return value
