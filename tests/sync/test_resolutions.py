"""What becomes of a conflict, by plain values."""

from __future__ import annotations

from typing import Any

import pytest

from ebooklet_tx import MISSING, Conflict, Version
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.pull.resolve import Resolution, chooses_theirs, decide, decide_keys

THEIRS = digest_of(b"theirs")
OURS = digest_of(b"ours")


def conflict(ours_us: int | None = 1, theirs_us: int | None = 2, theirs: bytes | None = THEIRS) -> Conflict:
    return Conflict(
        "k", Version(None, None), Version(OURS, ours_us), Version(theirs, theirs_us, "host:1"), no_load
    )


def no_load(key: str, side: str) -> Any:
    raise AssertionError(f"{side} of {key} is not asked for")


def encode(_key: str, value: Any) -> bytes:
    return bytes(value)


@pytest.mark.parametrize(
    ("ours_us", "theirs_us", "choice"), [(1, 2, "theirs"), (2, 1, "ours"), (2, 2, "theirs"), (1, None, "ours")]
)
def test_the_newest_version_wins(ours_us: int, theirs_us: int | None, choice: str) -> None:
    decided = decide(conflict(ours_us, theirs_us), "newest", encode)
    assert (decided.choice, decided.value) == (choice, None)


def test_a_function_gets_the_conflict_and_gives_the_value() -> None:
    asked = conflict()
    assert decide(asked, lambda given: given.key.encode(), encode) == Resolution(asked, None, b"k")
    assert decide(asked, lambda _: MISSING, encode) == Resolution(asked, None, None)


def test_a_value_that_the_other_writer_has_is_the_other_writers_version() -> None:
    assert decide(conflict(), lambda _: b"theirs", encode).choice == "theirs"
    assert decide(conflict(theirs=None), lambda _: MISSING, encode).choice == "theirs"


def test_keys_are_decided_each_in_its_way() -> None:
    asked = conflict()
    for choice, decided in (
        ("ours", Resolution(asked, "ours")),
        ("newest", Resolution(asked, "theirs")),
        (MISSING, Resolution(asked, None, None)),
        (b"merged", Resolution(asked, None, b"merged")),
    ):
        assert decide_keys([asked], {"k": choice}, encode) == [decided]
    with pytest.raises(KeyError, match="other"):
        decide_keys([asked], {"k": "ours", "other": "ours"}, encode)


def test_a_choice_counts_for_the_versions_that_it_was_made_for() -> None:
    theirs = decide(conflict(), "theirs", encode)
    assert chooses_theirs(theirs, THEIRS, OURS)
    assert not chooses_theirs(theirs, digest_of(b"later"), OURS)
    assert not chooses_theirs(theirs, THEIRS, None)
    assert not chooses_theirs(decide(conflict(), "ours", encode), THEIRS, OURS)
