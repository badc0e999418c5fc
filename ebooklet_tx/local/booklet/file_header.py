"""Headers of Booklet files: a new file's, a rebuilt file's, and the check that a file is one of ours.

The invariant: a header that is made here has the magic, and one that is read is of a Booklet that can hold the
values: str keys, timestamps, values of any length.
"""

from __future__ import annotations

import io
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebooklet_tx.errors import InvalidArgumentError, UnsupportedFormatError
from ebooklet_tx.local.booklet.layout import (
    FIXED_LENGTH_MAGIC,
    GUARD_PREFIX,
    HEADER_BYTES,
    MAGIC,
    N_BUCKETS_OFFSET,
    UUID_OFFSET,
    Header,
    parse_header,
)
from ebooklet_tx.local.files.file_calls import read_at, storage_errors

_STR_SERIALIZER_CODE = 2


def read_header(fd: int, path: Path) -> Header:
    with storage_errors(path, "read"):
        raw = read_at(fd, HEADER_BYTES, 0)
    header = parse_header(raw)
    known = header is not None and (header.magic in (MAGIC, FIXED_LENGTH_MAGIC) or raw[:8] == GUARD_PREFIX)
    if header is None or not known:
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


def model_header(uuid: bytes, value_serializer: Any, n_buckets: int) -> bytes:
    """Returns the header of a new Booklet that has a given uuid, as another machine's copy needs it."""
    raw = new_header(value_serializer, n_buckets)
    return raw[:UUID_OFFSET] + uuid + raw[UUID_OFFSET + len(uuid) :]


def new_header(value_serializer: Any, n_buckets: int) -> bytes:
    """Returns the header that Booklet gives a new file.

    Raises:
        InvalidArgumentError: This machine's clock shows a time that Booklet can't write.
    """
    # Its import takes that of numpy, where numpy is installed: a store is asked before.
    import booklet

    seat = io.BytesIO()
    # Of one bucket, as it writes the index bucket by bucket and only the header is wanted.
    try:
        blt = booklet.open(seat, "n", key_serializer="str", value_serializer=value_serializer, n_buckets=1)
    except OverflowError as error:
        raise InvalidArgumentError(
            "a Booklet file can't be dated: this machine's clock stands before 1970 or far in the future; set it"
        ) from error
    raw = bytearray(seat.getvalue()[:HEADER_BYTES])
    blt.close()
    raw[N_BUCKETS_OFFSET : N_BUCKETS_OFFSET + 4] = n_buckets.to_bytes(4, "little")
    return bytes(raw)


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
