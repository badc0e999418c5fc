"""Headers of Booklet files: a new file's, a rebuilt file's, and the check that a file is one of ours.

The invariant: a header that is made here has the magic, and one that is read is of a Booklet that can hold the
values: str keys, timestamps, values of any length.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path

from ebooklet_tx.errors import InvalidArgumentError, UnsupportedFormatError
from ebooklet_tx.local.booklet.layout import (
    FIXED_LENGTH_MAGIC,
    GUARD_PREFIX,
    HEADER_BYTES,
    KEY_LENGTH_BYTES,
    MAGIC,
    N_BUCKETS_OFFSET,
    POINTER_BYTES,
    TIMESTAMP_BYTES,
    UUID_OFFSET,
    VALUE_LENGTH_BYTES,
    VERSION,
    Header,
    parse_header,
)
from ebooklet_tx.local.files.file_calls import read_at, size_of, storage_errors
from ebooklet_tx.local.files.own_files import JOURNAL_SUFFIX, PUT_BACK

_STR_SERIALIZER_CODE = 2
_WITH_TIMESTAMPS = b"\1"


def read_header(fd: int, path: Path) -> Header:
    with storage_errors(path, "read"):
        raw = read_at(fd, HEADER_BYTES, 0)
    header = parse_header(raw)
    known = header is not None and (header.magic in (MAGIC, FIXED_LENGTH_MAGIC) or raw[:8] == GUARD_PREFIX)
    if header is None or not known:
        if size_of(path.with_name(path.name + JOURNAL_SUFFIX)):
            raise UnsupportedFormatError(f"{path} is not a Booklet file any more; {PUT_BACK}")
        raise UnsupportedFormatError(f"{path} is not a Booklet file; give another file_path")
    if header.magic == FIXED_LENGTH_MAGIC:
        raise UnsupportedFormatError(
            f"{path} is a Booklet of fixed-length values; copy it into a variable-length one first"
        )
    if header.version not in (4, 5):
        raise UnsupportedFormatError(
            f"{path} has Booklet format {header.version}; formats 4 and 5 are supported; "
            "upgrade ebooklet_tx or copy the file with booklet"
        )
    if header.key_serializer_code != _STR_SERIALIZER_CODE:
        raise UnsupportedFormatError(
            f"{path} was not made with key_serializer='str'; copy it into a Booklet that was"
        )
    if not header.has_timestamps:
        raise UnsupportedFormatError(
            f"{path} was made without timestamps; copy it into a Booklet made with init_timestamps=True"
        )
    return header


def model_header(uuid: bytes, serializer_code: int, n_buckets: int) -> bytes:
    """Returns the header of a new Booklet that has a given uuid, as another machine's copy needs it."""
    raw = new_header(serializer_code, n_buckets)
    return raw[:UUID_OFFSET] + uuid + raw[UUID_OFFSET + len(uuid) :]


def new_header(serializer_code: int, n_buckets: int) -> bytes:
    """Returns the header that Booklet gives a new file.

    Args:
        serializer_code: Booklet's number for the serializer of values; 0 for a class of the user's own.
        n_buckets: How many buckets its index has.

    Raises:
        InvalidArgumentError: This machine's clock shows a time that Booklet can't write.
    """
    clock_us = time.time_ns() // 1000
    try:
        made_at = clock_us.to_bytes(TIMESTAMP_BYTES, "little")
    except OverflowError as error:
        raise InvalidArgumentError(
            "a Booklet file can't be dated: this machine's clock stands before 1970 or far in the future; set it"
        ) from error
    fields = (
        MAGIC,
        VERSION.to_bytes(2, "little"),
        bytes((POINTER_BYTES, KEY_LENGTH_BYTES, VALUE_LENGTH_BYTES)),
        n_buckets.to_bytes(4, "little"),
        bytes(4),
        serializer_code.to_bytes(2, "little"),
        _STR_SERIALIZER_CODE.to_bytes(2, "little"),
        # No keys, and values of no fixed length.
        bytes(8),
        _WITH_TIMESTAMPS,
        made_at,
        _new_uuid(clock_us // 1000),
    )
    return b"".join(fields).ljust(HEADER_BYTES, b"\0")


def _new_uuid(now_ms: int) -> bytes:
    """Returns a UUID of version 8 that begins with the time, as Booklet's do."""
    random = bytearray(secrets.token_bytes(10))
    random[0] = random[0] & 0x0F | 0x80
    random[2] = random[2] & 0x3F | 0x80
    return now_ms.to_bytes(6, "big") + random


def grown_header(header: Header, n_buckets: int | None) -> bytes:
    """Returns a clean header for a rebuilt file: same uuid and serializers, maybe more buckets."""
    raw = bytearray(MAGIC + header.raw[16:])
    if n_buckets is not None:
        raw[N_BUCKETS_OFFSET : N_BUCKETS_OFFSET + 4] = n_buckets.to_bytes(4, "little")
    return bytes(raw)


def header_with_uuid(header: Header, uuid: bytes) -> bytes:
    """Returns a clean header for a rebuilt file that is to have another uuid and is alike in all else."""
    raw = bytearray(grown_header(header, None))
    raw[UUID_OFFSET : UUID_OFFSET + len(uuid)] = uuid
    return bytes(raw)


def stand_in_header(header: Header, n_buckets: int) -> bytes:
    """Returns a header of another database, with the same serializers."""
    raw = bytearray(grown_header(header, n_buckets))
    raw[UUID_OFFSET : UUID_OFFSET + 16] = secrets.token_bytes(16)
    return bytes(raw)


def with_magic(header: Header, old: Header) -> Header:
    """Returns a header that was read behind the guard as it is once the guard is off."""
    return replace(header, magic=MAGIC, generation=old.generation, raw=MAGIC + header.raw[16:])
