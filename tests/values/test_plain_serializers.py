"""Serializers that need no import of Booklet give, take and refuse what Booklet's own of the same name do."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from booklet import serializers as booklet_serializers
from hypothesis import given, settings
from hypothesis import strategies as st

from ebooklet_tx.values.plain_serializers import PLAIN

NAMES = sorted(PLAIN, key=str)
INTS = [name for name in NAMES if name and "int" in name]
OTHERS = [name for name in NAMES if name not in INTS]


class Text(str):
    """A str of another class."""


class Number:
    """Passes for an int."""

    def __int__(self) -> int:
        return 7


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=6,
)
ODD_VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        2**63,
        1.5,
        math.nan,
        math.inf,
        "",
        "é\0😀",
        "\ud800",
        Text("text"),
        b"",
        b"\xff\0",
        (1, 2),
    ),
    *(
        {1},
        object(),
        Number(),
        bytearray(b"b"),
        [1, [2]],
        {1: {None: True}},
        {"a": math.nan},
        {(1,): 2},
        "12",
        "x",
    ),
    *(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), UUID(int=5), lambda: None),
]
ODD_BYTES = [
    *(
        b"",
        b"1",
        b"[1",
        b"\xff\xfe",
        b"NaN",
        b'{"a": 1e999}',
        b'"\\ud800"',
        b"\x80\x05.",
        b"\x80\x05K\x01.",
        b"1 2",
    ),
    *("é".encode(), bytes(9), b"\xff" * 8, pickle.dumps({"a": [1]}), b"cmissing_module\nName\n."),
]


def outcome(function: Callable[[Any], Any], given: Any) -> Any:
    """Returns what comes of a call, so that it can be compared: also of a failure, and of NaN."""
    try:
        result = function(given)
    except Exception as error:
        return type(error), str(error)
    return type(result), result if isinstance(result, bytes) else repr(result)


def check(name: str | None, values: list[Any], encoded: list[bytes]) -> None:
    ours, theirs = PLAIN[name], booklet_serializers.serial_dict[name]
    for value in values:
        assert outcome(ours.dumps, value) == outcome(theirs.dumps, value)
    for raw in encoded:
        assert outcome(ours.loads, raw) == outcome(theirs.loads, raw)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_all_kinds(name: str | None) -> None:
    check(name, ODD_VALUES, ODD_BYTES)


@pytest.mark.parametrize("name", NAMES)
def test_a_process_pool_can_be_given_them(name: str | None) -> None:
    assert outcome(pickle.loads(pickle.dumps(PLAIN[name])).dumps, 5) == outcome(PLAIN[name].dumps, 5)


@given(JSON, st.binary(max_size=12))
@settings(max_examples=15)
def test_any_value(value: Any, encoded: bytes) -> None:
    for name in OTHERS:
        written = (
            [raw for raw in (PLAIN[name].dumps(value),) if isinstance(raw, bytes)] if name == "pickle" else []
        )
        check(name, [value], [encoded, *written])


@given(st.integers(-(2**64), 2**64), st.binary(max_size=9))
@settings(max_examples=40)
def test_any_int(value: int, encoded: bytes) -> None:
    for name in INTS:
        check(name, [value, value >> 33, value >> 57], [encoded])
