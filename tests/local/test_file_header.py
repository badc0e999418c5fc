"""The header of a new file is that of the installed Booklet; where this fails, Booklet has another format."""

from __future__ import annotations

import io
import time
import uuid
from pathlib import Path
from typing import Any

import booklet
import pytest
from booklet import serializers as booklet_serializers
from booklet import utils as booklet_utils

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.local.booklet.file_header import model_header, new_header
from ebooklet_tx.local.booklet.layout import (
    HEADER_BYTES,
    KEY_LENGTH_BYTES,
    MAGIC,
    POINTER_BYTES,
    TIMESTAMP_BYTES,
    VALUE_LENGTH_BYTES,
    VERSION,
)
from ebooklet_tx.local.booklet.value_file import create_file
from ebooklet_tx.values.serializers import Undecoded

MADE_AT = slice(42, 49)
UUID = slice(49, 65)
SERIALIZERS = [(Undecoded, 0), *booklet_serializers.serial_name_dict.items()]


def of_booklet(value_serializer: Any, n_buckets: int) -> bytes:
    """Returns the header of a new file of Booklet's own."""
    seat = io.BytesIO()
    blt = booklet.open(seat, "n", key_serializer="str", value_serializer=value_serializer, n_buckets=n_buckets)
    header = seat.getvalue()[:HEADER_BYTES]
    blt.close()
    return header


def without_time_and_uuid(header: bytes) -> bytes:
    return header[: MADE_AT.start] + header[UUID.stop :]


@pytest.mark.parametrize(("name", "code"), SERIALIZERS)
@pytest.mark.parametrize("n_buckets", [1, 300])
def test_it_is_that_of_booklet(name: Any, code: int, n_buckets: int) -> None:
    assert without_time_and_uuid(new_header(code, n_buckets)) == without_time_and_uuid(
        of_booklet(name, n_buckets)
    )


@pytest.mark.parametrize("n_buckets", [12007, 144013])
def test_it_is_that_of_booklet_for_many_buckets(n_buckets: int) -> None:
    assert without_time_and_uuid(new_header(1, n_buckets)) == without_time_and_uuid(of_booklet(None, n_buckets))


def test_the_constants_are_those_of_booklet() -> None:
    ours = (MAGIC, VERSION, POINTER_BYTES, KEY_LENGTH_BYTES, VALUE_LENGTH_BYTES, TIMESTAMP_BYTES, HEADER_BYTES)
    theirs = booklet_utils
    assert ours == (
        theirs.uuid_variable_blt,
        theirs.current_version,
        theirs.n_bytes_file,
        theirs.n_bytes_key,
        theirs.n_bytes_value,
        theirs.timestamp_bytes_len,
        theirs.sub_index_init_pos,
    )


def test_its_time_and_uuid_are_made_as_booklet_makes_them() -> None:
    before = time.time_ns()
    headers = [new_header(1, 1), of_booklet(None, 1), new_header(1, 1)]
    after = time.time_ns()
    for header in headers:
        assert before // 1000 <= int.from_bytes(header[MADE_AT], "little") <= after // 1000
        name = uuid.UUID(bytes=header[UUID])
        assert (name.version, name.variant) == (8, uuid.RFC_4122)
        assert before // 10**6 <= name.int >> 80 <= after // 10**6
    assert len({header[UUID] for header in headers}) == 3


def test_a_copy_has_the_uuid_of_its_model() -> None:
    copy = model_header(b"u" * 16, 2, 5)
    assert copy[UUID] == b"u" * 16
    assert without_time_and_uuid(copy) == without_time_and_uuid(new_header(2, 5))


@pytest.mark.parametrize("clock_us", [-1, 2**56])
def test_a_clock_that_a_file_can_t_be_dated_by(clock_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: clock_us * 1000)
    with pytest.raises(InvalidArgumentError, match="clock stands before 1970 or far in the future"):
        new_header(1, 1)
    monkeypatch.setattr("time.time_ns", lambda: min(max(clock_us, 0), 2**56 - 1) * 1000)
    assert int.from_bytes(new_header(1, 1)[MADE_AT], "little") in (0, 2**56 - 1)


def test_booklet_writes_to_a_file_that_was_made_with_it(tmp_path: Path) -> None:
    create_file(tmp_path / "a.blt", new_header(3, 7)).close()
    with booklet.open(tmp_path / "a.blt", "w") as blt:
        blt["k"] = {"v"}
    with booklet.open(tmp_path / "a.blt") as blt:
        assert dict(blt.items()) == {"k": {"v"}}
