"""Uploads in parts to a directory store, each in one temporary file.

An upload's id is the temporary file's name; a part's tag is its offset, length and digest. An upload is resumed
only after those parts that are found intact in the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import re

from ebooklet_tx.stores.directory.files import sync_file
from ebooklet_tx.stores.directory.temporary_files import UPLOAD_ID, TemporaryFile, TemporaryFolder
from ebooklet_tx.stores.object_store import UploadState

_PART_TAG = re.compile(r"([0-9]{1,19})-([0-9]{1,19})-([0-9a-f]{32})")


def begun_upload(
    stack: contextlib.ExitStack, temporaries: TemporaryFolder, size_bytes: int, resume: UploadState | None
) -> tuple[TemporaryFile, UploadState, int]:
    """Returns an upload and the bytes that it has: the one to resume, or a new one.

    Args:
        stack: Closes the temporary file's folder.
        temporaries: Where uploads lie.
        size_bytes: The length of the whole object.
        resume: The upload as it was recorded last, if it was begun before.
    """
    if resume is not None and UPLOAD_ID.fullmatch(resume.upload_id):
        with contextlib.suppress(FileNotFoundError):
            temporary = stack.enter_context(temporaries.file(resume.upload_id))
            offset_bytes = _intact_bytes(temporary, resume, size_bytes)
            if offset_bytes is not None:
                return temporary, resume, offset_bytes
    temporary = stack.enter_context(temporaries.new_file(".part"))
    temporary.open("x+b").close()
    return temporary, UploadState(temporary.name), 0


def write_part(temporary: TemporaryFile, offset_bytes: int, part: bytes) -> None:
    """Writes one part of an upload durably, and cuts off whatever lay behind it."""
    with temporary.open("r+b") as file:
        file.truncate(offset_bytes)
        file.seek(offset_bytes)
        file.write(part)
        sync_file(file)


def with_part(state: UploadState, offset_bytes: int, part: bytes) -> UploadState:
    """Returns the upload's state after one more part."""
    tag = f"{offset_bytes}-{len(part)}-{hashlib.blake2b(part, digest_size=16).hexdigest()}"
    return UploadState(state.upload_id, (*state.parts, (len(state.parts) + 1, tag)))


def _intact_bytes(temporary: TemporaryFile, state: UploadState, size_bytes: int) -> int | None:
    """Returns how many bytes the upload's parts have in the file, or None if any is not as recorded."""
    offset_bytes = 0
    with temporary.open("r+b") as file:
        for number, (part_number, tag) in enumerate(state.parts, start=1):
            match = _PART_TAG.fullmatch(tag)
            if match is None or part_number != number or int(match[1]) != offset_bytes:
                return None
            length_bytes = int(match[2])
            if offset_bytes + length_bytes > size_bytes:
                return None
            part = file.read(length_bytes)
            if hashlib.blake2b(part, digest_size=16).hexdigest() != match[3]:
                return None
            offset_bytes += length_bytes
        file.truncate(offset_bytes)
    return offset_bytes
