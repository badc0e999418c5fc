"""The codec of the root object of format 2: the manifest, its binary part, and the tail that rides with them.

The invariant: a `Manifest` that went through `encode_root` or `decode_root` keeps every rule of the format, and
what `encode_root` returns has been read back by `decode_root`. The tail is a block, newer than every run; it is
looked into when it is asked for.

The user's metadata is not in the manifest: it is the index row of the reserved key `""`.
docs/reference/FORMAT.md gives the layout.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.block import Block, decode_block
from ebooklet_tx.formats.checks import short
from ebooklet_tx.formats.manifest import (
    FORMAT_LEVEL,
    Manifest,
    dump,
    fields_of,
    levels_of,
    load,
    plain_record,
    problem_of,
)
from ebooklet_tx.formats.root_body import decode_body, encode_body
from ebooklet_tx.limits import MAX_BODY_BYTES, MAX_MANIFEST_BYTES, MAX_ROOT_BYTES, MAX_TAIL_BYTES
from ebooklet_tx.records import DIGEST_BYTES

__all__ = [
    "FORMAT_LEVEL",
    "FirstFormatError",
    "KEEP_RECENT",
    "Manifest",
    "ROOT_BYTES",
    "RUN_LIST_BYTES",
    "Root",
    "WRITTEN_RUNS",
    "begins_like_root",
    "check_writable",
    "decode_root",
    "encode_root",
    "encoded_root",
    "too_large_root",
]

ROOT_MAGIC = b"EBTXroot"
ROOT_FORMAT_VERSION = 2
ROOT_HEADER_BYTES = 40

LEAST_ROOT_BYTES = 36
"""No version's root is shorter; of less not even the version is believed."""

ROOT_BYTES = 16 * 2**10
"""The size that a root with its tail does not pass; past it the tail is written out as a run."""

RUN_LIST_BYTES = 4 * 2**10
"""The size past which a run's entries leave the root for a list of their own."""

WRITTEN_RUNS = 8
"""That a writer leaves; readers take more."""

KEEP_RECENT = 64
"""The commits whose ids a root always has."""

_HEADER = struct.Struct("<8sHHIII16s")

# What ebooklet stores at the same key: since 0.6 an object of its own that begins like this, before
# that a fixed-length booklet file; a variable-length one is a local file that somebody uploaded.
_EBOOKLET_MAGIC = b"ebooklet-db\x00"
_BOOKLET_FIXED_MAGIC = bytes.fromhex("04d3b294f2104162958d0400738c9e0a")
_BOOKLET_VARIABLE_MAGIC = bytes.fromhex("4f7e8a3fe75c4750ad430a728fe31cfe")


class FirstFormatError(UnsupportedFormatError):
    """A root of format 1 lies there, which only a push that replaces it may touch."""

    kind = "first_format"


@dataclass(frozen=True)
class Root:
    """A decoded root.

    Attributes:
        manifest: What it says of its database.
        tail: The tail's bytes, not looked into, or empty.
        name: How messages call it.
    """

    manifest: Manifest
    tail: bytes
    name: str

    def tail_block(self) -> Block:
        """Returns the rows of the tail, decoded once.

        Raises:
            RemoteIntegrityError: It is no sound block, or has rows of later commits than the root's.
            UnsupportedFormatError: A newer version wrote it.
        """
        return self._block

    @cached_property
    def _block(self) -> Block:
        if not self.tail:
            return Block(((),) * 8, ())
        return decode_block(self.tail, name=f"the tail of {self.name}", greatest_seq=self.manifest.seq)


def encode_root(manifest: Manifest, tail: bytes) -> bytes:
    """Returns the bytes of a root object; see `encoded_root`."""
    return encoded_root(manifest, tail)[0]


def encoded_root(manifest: Manifest, tail: bytes) -> tuple[bytes, Root]:
    """Returns the bytes of a root object, and what a reader makes of them.

    Args:
        manifest: What it says.
        tail: A block of `block.encode_block`, or nothing.

    Raises:
        InvalidArgumentError: The manifest or the tail breaks a rule, or a part is over its limit.
        UnsupportedFormatError: The database asks for a newer version of those who commit to it.
    """
    name = f"the root of commit {short(manifest.commit_id)}"
    record = plain_record(manifest)
    problem = problem_of(record)
    if problem is not None:
        raise InvalidArgumentError(f"{name} can't be written: {problem}")
    check_writable(manifest, name=name)
    try:
        encoded, body = dump(record), encode_body(manifest)
    except (ValueError, RecursionError, struct.error) as error:
        if isinstance(error, InvalidArgumentError):
            raise
        raise InvalidArgumentError(f"{name} can't be written: {error}") from error
    sizes = len(encoded), len(body), len(tail)
    head = _HEADER.pack(ROOT_MAGIC, ROOT_FORMAT_VERSION, 0, *sizes, bytes(DIGEST_BYTES))
    parts = encoded + body + tail
    data = head[:-DIGEST_BYTES] + _digest(head, parts) + parts
    try:
        root = decode_root(data, name=name)
        root.tail_block()
    except RemoteIntegrityError as error:
        raise InvalidArgumentError(f"{name} can't be written, as no reader would take it: {error}") from error
    return data, root


def check_writable(manifest: Manifest, *, name: str) -> None:
    """Refuses to commit to a database that asks for a newer version of those who do.

    Raises:
        UnsupportedFormatError: It does.
    """
    if manifest.min_writer > FORMAT_LEVEL:
        raise UnsupportedFormatError(
            f"{name}: the database may be written by format level {manifest.min_writer} and later; this version "
            f"of ebooklet_tx has {FORMAT_LEVEL}. It can be read; upgrade ebooklet_tx to write to it"
        )


def decode_root(data: bytes, *, name: str) -> Root:
    """Returns manifest and tail of a root object, checked as foreign input.

    Args:
        data: The whole object.
        name: How messages call it.

    Raises:
        UnsupportedFormatError: Something else lies there: a database of ebooklet, a root of format 1
            or of a newer version, or a foreign object.
        RemoteIntegrityError: It is a root of ours, truncated or altered.
    """
    _refuse_foreign(data, name)
    if len(data) < LEAST_ROOT_BYTES:
        raise _damaged(name, f"it is cut off after {len(data)} bytes")
    version, flags = struct.unpack_from("<HH", data, 8)
    if version == 1:
        raise FirstFormatError(
            f"{name} is a root of format 1, which only versions before the first release wrote; this version of "
            "ebooklet_tx does not read it. Nothing was changed. Open with flag 'n' to begin anew, or call "
            "push(force_push=True) on a machine whose journal holds all of it"
        )
    if version > ROOT_FORMAT_VERSION:
        raise _newer(name, f"of format {version}")
    if len(data) < ROOT_HEADER_BYTES:
        raise _damaged(name, f"it is cut off after {len(data)} bytes")
    _, _, _, manifest_bytes, body_bytes, tail_bytes, digest = _HEADER.unpack_from(data)
    if manifest_bytes > MAX_MANIFEST_BYTES or body_bytes > MAX_BODY_BYTES or tail_bytes > MAX_TAIL_BYTES:
        raise _damaged(name, "it announces parts over the limit")
    if len(data) > MAX_ROOT_BYTES:
        raise too_large_root(data, name=name)
    if len(data) != ROOT_HEADER_BYTES + manifest_bytes + body_bytes + tail_bytes:
        raise _damaged(name, f"it has {len(data)} bytes and announces another number")
    parts = memoryview(data)[ROOT_HEADER_BYTES:]
    if version < 1 or _digest(data, parts) != digest:
        raise _damaged(name, "its digest does not match its bytes")
    if flags:
        raise _newer(name, f"of format {version} with flags {flags:#x}")
    plain = _load_record(bytes(parts[:manifest_bytes]), name)
    tail_at = manifest_bytes + body_bytes
    body = decode_body(parts[manifest_bytes:tail_at], name=name, seq=plain["seq"], commit_id=plain["commit_id"])
    return Root(Manifest(**plain, **body), bytes(parts[tail_at:]), name)


def too_large_root(start: bytes, *, name: str) -> RemoteIntegrityError:
    """Returns the error of an object in a root's place that is longer than any root.

    Raises:
        UnsupportedFormatError: By its first bytes it is something else altogether.
    """
    _refuse_foreign(start, name)
    return _damaged(name, f"it is over {MAX_ROOT_BYTES} bytes long")


def _load_record(encoded: bytes, name: str) -> dict[str, Any]:
    try:
        record = load(encoded)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"its manifest is not JSON ({short(str(error))})") from error
    # What a newer format means by its fields is not known: this comes before any other rule.
    levels = levels_of(record)
    if levels is not None and levels[0] > FORMAT_LEVEL:
        raise _newer(name, f"for readers of format level {levels[0]}")
    problem = problem_of(record)
    if problem is not None:
        raise _damaged(name, f"its manifest is not valid: {problem}")
    return fields_of(record)


def _digest(header: bytes, body: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(header[: ROOT_HEADER_BYTES - DIGEST_BYTES], digest_size=DIGEST_BYTES)
    digest.update(body)
    return digest.digest()


def begins_like_root(data: bytes) -> bool:
    """Whether bytes begin like a root of ours, if they are not cut off before that can be told."""
    return ROOT_MAGIC.startswith(data[: len(ROOT_MAGIC)])


def _refuse_foreign(data: bytes, name: str) -> None:
    if data.startswith(ROOT_MAGIC):
        return
    if begins_like_root(data):
        raise _damaged(name, f"it is cut off after {len(data)} bytes")
    if data.startswith((_EBOOKLET_MAGIC, _BOOKLET_FIXED_MAGIC, _BOOKLET_VARIABLE_MAGIC)):
        raise UnsupportedFormatError(
            f"{name} is a database that ebooklet wrote, which ebooklet_tx does not read in place. Copy it to "
            "a NEW db_key with import_ebooklet (on the command line: ebooklet-tx import-ebooklet), or load all "
            "of it into its local .blt file with ebooklet, open that file with ebooklet_tx against a NEW db_key, "
            "and push; the old remote is left untouched"
        )
    raise UnsupportedFormatError(
        f"a foreign object lies at {name}: it does not begin like a root of ebooklet_tx. Choose another "
        "db_key, or move that object away; it is left untouched"
    )


def _damaged(name: str, problem: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"{name} is not a sound root: {problem}. The download may have been cut short: try again. If it "
        "stays, restore the object from the bucket's versions or from a snapshot, or write it anew from a "
        "machine that has a copy: `python -m ebooklet_tx recover --repair-remote PATH`"
    )


def _newer(name: str, what: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{name} is a root {what}; this version of ebooklet_tx reads up to {ROOT_FORMAT_VERSION}. "
        "Upgrade ebooklet_tx"
    )
