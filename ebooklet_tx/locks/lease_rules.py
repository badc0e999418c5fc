"""What to do about a lease: pure decisions, without a clock, a store or a thread.

The invariant: a lease is taken only by a write that fails if the object has changed since it was read, and from
a live holder only after the object's ETag stayed the same for a whole TTL on the waiter's own monotonic clock.
No clock is compared across machines.

`lease` acts on these decisions, and tests/model explores them exhaustively.
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
    """A session as its lease names it: for messages, and for the session to recognize its own lease.

    `boot_id` and `pid` have a meaning only on `host`.
    """

    owner: str
    host: str
    boot_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The content of a lease object.

    Attributes:
        held: False when the lease is marked free.
        holder: Who has it, or had it last.
        token: New in every write, so that no two writes give the same ETag.
        ttl_seconds: How long a waiter waits for a renewal.
        acquired_at_us: When the holder took it, by the holder's clock.
        fence_owed: Whether it was taken from a holder that no fence keeps from committing yet.
        written_at_us: When this was written, by the same clock; 0 if it is not known.
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
    """A lease object as it was read; `record` is None when it is no lease of ours."""

    etag: str
    record: LeaseRecord | None


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when, on the waiter's own monotonic clock, a lease object has had its ETag."""

    etag: str
    since_seconds: float


class Step(enum.Enum):
    """What to try next."""

    CREATE = "create it: there is none"
    TAKE_FREE = "take it: it is marked free"
    TAKE_OVER = "take it over: its holder is dead or has not renewed it for a whole TTL"
    KEEP = "it is ours"
    WAIT = "wait: another writer holds it"


def next_step(seen: Seen | None, watch: Watch | None, now_seconds: float, me: Holder, *, dead: bool) -> Step:
    """Decides what to do next in order to take a lease.

    Args:
        seen: The object as it is now, or None when there is none.
        watch: Since when it has had this ETag, as far as this waiter knows.
        now_seconds: The waiter's monotonic clock.
        me: The waiter.
        dead: Whether the holder is known to be a dead process of this machine.
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
    """Whether the new holder of a lease has to raise the root's fence before anything else.

    This outlives a session that did not do so: a lease may be marked free while the holder that it was taken
    from still believes that it has it.
    """
    if step is Step.TAKE_OVER:
        return True
    return seen is not None and seen.record is not None and seen.record.fence_owed


class Written(enum.Enum):
    """The effect of a write of a lease that did not simply succeed."""

    OURS = "it took place: its token is there"
    UNTOUCHED = "what it was to replace is still there"
    OTHERS = "something else is there"


def judge_write(seen: Seen | None, *, token: str, if_match: str | None) -> Written:
    """Decides, from the lease as it is read back, what effect a write had."""
    if seen is not None and seen.record is not None and seen.record.token == token:
        return Written.OURS
    there = seen.etag if seen is not None else None
    return Written.UNTOUCHED if there == if_match else Written.OTHERS


def still_holds(seen: Seen | None, me: Holder) -> bool:
    """Whether a lease with an unexpected ETag is still ours.

    An earlier write of ours may have taken effect although its answer never arrived: then the ETag is another,
    and the owner is the same.
    """
    if seen is None or seen.record is None:
        return False
    return seen.record.held and seen.record.holder.owner == me.owner


def watch_on(seen: Seen, watch: Watch | None, now_seconds: float) -> Watch:
    """Returns the watch after another read: it starts again when the ETag has changed."""
    if watch is not None and watch.etag == seen.etag:
        return watch
    return Watch(seen.etag, now_seconds)


def poll_seconds(waited_seconds: float, ttl_seconds: float) -> float:
    """Returns how long to wait before the next read: the longer, the longer the waiter has waited already.

    So a lock that is held for a moment is taken soon, and one that is held for hours is rarely read.
    """
    return min(
        max(waited_seconds / 4, MIN_POLL_SECONDS), max(ttl_seconds / 20, MIN_POLL_SECONDS), MAX_POLL_SECONDS
    )


def taking_pause_seconds(failures: int) -> float:
    """Returns the longest pause before the next read, after so many writes that came too late."""
    return min(MIN_POLL_SECONDS * 2.0 ** min(failures - 1, 10), MAX_POLL_SECONDS)


def encode_lease(record: LeaseRecord) -> bytes:
    """Returns the bytes of a lease object: JSON, so that people can read it as well."""
    return json.dumps({"format": LEASE_FORMAT, **asdict(record)}, sort_keys=True, indent=1).encode()


def decode_lease(data: bytes, *, name: str) -> LeaseRecord:
    """Decodes a lease object, which another program may have written.

    Raises:
        UnsupportedFormatError: A newer version wrote it.
        RemoteIntegrityError: It is no lease.
    """
    way_out = "if no writer runs, remove it with 'ebooklet-tx unlock' or open with force_lock=True"
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
        raise ValueError("a field of its holder is no text")
    owner, host, boot_id = texts
    # Messages show it, and any program may have written it.
    host = "".join(letter if letter.isprintable() else "?" for letter in host[:255])
    return Holder(owner=owner, host=host, boot_id=boot_id, pid=_whole(parsed["pid"], 2**31 - 1))


def _whole(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError("a number in it is out of range")
    return value
