"""The pure decisions about a lease, and what is made of a lease object's bytes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx.errors import RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.limits import MAX_LOCK_BYTES
from ebooklet_tx.locks.lease_rules import (
    MAX_POLL_SECONDS,
    Holder,
    LeaseRecord,
    Seen,
    Step,
    Watch,
    decode_lease,
    encode_lease,
    next_step,
    poll_seconds,
    watch_on,
)

ME = Holder("me", "here", "boot", 1)
OTHER = Holder("other", "there", "boot", 2)
HELD = LeaseRecord(True, OTHER, "t", 60.0, 1_700_000_000_000_000)
SEEN = Seen("e1", HELD)


@pytest.mark.parametrize(
    ("seen", "watch", "now", "dead", "step"),
    [
        (None, None, 0.0, False, Step.CREATE),
        (None, Watch("e1", 0.0), 1e6, True, Step.CREATE),
        (Seen("e1", dataclasses.replace(HELD, held=False)), None, 0.0, False, Step.TAKE_FREE),
        (Seen("e1", dataclasses.replace(HELD, holder=ME)), None, 0.0, False, Step.KEEP),
        (SEEN, None, 1e6, False, Step.WAIT),
        (SEEN, Watch("e1", 100.0), 159.999, False, Step.WAIT),
        (SEEN, Watch("e1", 100.0), 160.0, False, Step.TAKE_OVER),
        (SEEN, Watch("e0", 0.0), 1e6, False, Step.WAIT),
        (SEEN, None, 0.0, True, Step.TAKE_OVER),
        (Seen("e1", dataclasses.replace(HELD, ttl_seconds=5.0)), Watch("e1", 0.0), 5.0, False, Step.TAKE_OVER),
        (Seen("e1", None), None, 1e6, False, Step.WAIT),
        (Seen("e1", None), Watch("e1", 0.0), 59.0, False, Step.WAIT),
        (Seen("e1", None), Watch("e1", 0.0), 60.0, False, Step.TAKE_OVER),
    ],
)
def test_the_next_step(seen: Seen | None, watch: Watch | None, now: float, dead: bool, step: Step) -> None:
    assert next_step(seen, watch, now, ME, dead=dead) is step


def test_a_watch_begins_anew_when_the_etag_has_changed() -> None:
    watch = watch_on(SEEN, None, 5.0)
    assert watch == Watch("e1", 5.0)
    assert watch_on(SEEN, watch, 50.0) is watch
    assert watch_on(Seen("e2", HELD), watch, 50.0) == Watch("e2", 50.0)


@given(st.lists(st.tuples(st.floats(0.01, 30), st.booleans()), min_size=1, max_size=40))
def test_nobody_takes_over_from_a_holder_whose_etag_changed_within_a_ttl(looks: list[tuple[float, bool]]) -> None:
    now = changed_at = 0.0
    watch: Watch | None = None
    version = 0
    for passed, renewed in looks:
        now += passed
        if renewed:
            version, changed_at = version + 1, now
        seen = Seen(f"e{version}", HELD)
        step = next_step(seen, watch, now, ME, dead=False)
        assert step is Step.WAIT or (step is Step.TAKE_OVER and now - changed_at >= HELD.ttl_seconds)
        watch = watch_on(seen, watch, now)


@given(st.floats(0, 1e6), st.floats(0.01, 86_400))
def test_looks_come_neither_all_the_time_nor_seldom(waited: float, ttl: float) -> None:
    assert 0.05 <= poll_seconds(waited, ttl) <= min(MAX_POLL_SECONDS, max(ttl / 20, 0.05))


texts = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)


@given(st.booleans(), texts, texts, st.integers(0, 2**31 - 1), st.floats(0.1, 86_400), st.integers(0, 2**55))
def test_a_lease_is_read_as_it_was_written(
    held: bool, owner: str, host: str, pid: int, ttl: float, since: int
) -> None:
    record = LeaseRecord(held, Holder(owner, host, "boot", pid), "token", ttl, since)
    assert decode_lease(encode_lease(record), name="'db.lock'") == record


def altered(**changes: Any) -> bytes:
    parsed = json.loads(encode_lease(HELD))
    holder = changes.pop("holder", {})
    parsed.update(changes)
    if isinstance(holder, dict):
        parsed["holder"].update(holder)
    else:
        parsed["holder"] = holder
    return json.dumps(parsed).encode()


BAD = [
    b"",
    b"garbage",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'"text"',
    b"[" * 10_000,
    b" " * (MAX_LOCK_BYTES + 1),
    altered(ttl_seconds=0),
    altered(ttl_seconds=-1),
    altered(ttl_seconds=float("nan")),
    altered(ttl_seconds=1e300),
    altered(ttl_seconds="soon"),
    altered(acquired_at_us=float("inf")),
    altered(acquired_at_us=10**400),
    altered(acquired_at_us=None),
    altered(holder=None),
    altered(holder=[1, 2]),
    altered(holder={"pid": "1"}),
    altered(holder={"pid": 2**40}),
    altered(holder={"pid": -1}),
    altered(holder={"pid": True}),
    altered(holder={"owner": 7}),
    altered(holder={"host": ["x"]}),
    altered(holder={"boot_id": None}),
]


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_no_lease_is_called_so_with_the_way_out(data: bytes) -> None:
    with pytest.raises(RemoteIntegrityError, match=r"the lock 'db\.lock' .*force_lock"):
        decode_lease(data, name="'db.lock'")


@given(st.binary(max_size=200))
def test_no_bytes_do_worse(data: bytes) -> None:
    with pytest.raises(RemoteIntegrityError):
        decode_lease(data, name="'db.lock'")


def test_a_newer_format_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedFormatError, match="upgrade"):
        decode_lease(altered(format=2), name="'db.lock'")


def test_a_host_is_shown_without_control_characters() -> None:
    record = decode_lease(altered(holder={"host": "\x1b[31mred\n" + "x" * 1000}), name="'db.lock'")
    assert record.holder.host.startswith("?[31mred?x")
    assert len(record.holder.host) == 255
