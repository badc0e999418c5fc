"""An object store in a folder: a local one, or one on a shared drive.

Owns the folder's files, its lock file and its folder of temporary files. The invariants: an object's
file is created and changed only by the rename of a complete and fsynced temporary file; every
rename and removal takes place under one lock on the folder, so that a compare and its replace are one
step; a put that has returned survives power loss.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from ebooklet_tx.connection import RESERVED_NAME_PREFIX, check_object_key
from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    PreconditionFailedError,
    TransientStoreError,
)
from ebooklet_tx.stores.bodies import check_end, check_range, read_whole
from ebooklet_tx.stores.directory.files import etag_of, open_object, sync_file, sync_folder
from ebooklet_tx.stores.directory.folder_lock import folder_lock
from ebooklet_tx.stores.directory.folders import Folders
from ebooklet_tx.stores.directory.os_errors import translating
from ebooklet_tx.stores.directory.temporary_files import TemporaryFile, TemporaryFolder
from ebooklet_tx.stores.directory.uploads import begun_upload, with_part, write_part
from ebooklet_tx.stores.object_store import Blob, ByteSource, StoredObject, UploadState
from ebooklet_tx.stores.request import Request

TEMPORARY_MAX_AGE_SECONDS = 24 * 3600.0

_LOCK_NAME = f"{RESERVED_NAME_PREFIX}.lock"
_TEMPORARY_FOLDER = f"{RESERVED_NAME_PREFIX}.tmp"
_FOLDER_ATTEMPTS = 64
_MAX_NAME_BYTES = 255


class DirectoryStore:
    """Objects as plain files of a folder, so that a web server can serve it as a `db_url`.

    An ETag is a blake2b digest, 16 bytes as hex, over the file's size and its first and last 64 KiB. It is
    cheap to compute and survives copying of the folder. It does not notice a change in the middle of a
    large file of unchanged size. That is sound because packs and segments never change, and every object that
    is compared and swapped has a nonce near its start.

    No metadata is kept, as a plain file has no room for it: it comes back empty.

    The first write of a store removes temporary files that are a day old, which killed writers left;
    until then an upload in parts can be resumed.
    """

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.time, lock_timeout_seconds: float = 30.0
    ) -> None:
        """Names the folder; the first write makes it.

        Args:
            folder: The folder; it may be missing.
            clock: Returns the time of day in seconds, for the age of temporary files.
            lock_timeout_seconds: How long to wait for another writer's replace, which takes a
                moment, before the write fails as transient.
        """
        self.folder = Path(folder).resolve()
        self._clock = clock
        self._lock_timeout_seconds = lock_timeout_seconds
        self._beginning = threading.RLock()
        self._has_written = False
        self._folders = Folders(self.folder)
        self._temporaries = TemporaryFolder(self.folder / _TEMPORARY_FOLDER)

    place = ("file", "")
    """Endpoint and bucket, as roots name them: a folder is the same wherever it is mounted."""

    @property
    def location(self) -> str:
        """Names the store for messages."""
        return f"folder {str(self.folder)!r}"

    @property
    def writable(self) -> bool:
        """True when the folder takes writes, or does not exist yet."""
        with contextlib.suppress(OSError):
            return not self.folder.exists() or os.access(self.folder, os.W_OK | os.X_OK)
        return False

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`."""
        request = self._request("get", key)
        with self._reading(request) as file:
            etag = etag_of(file)
            if etag == if_none_match:
                return None
            announced_bytes = os.fstat(file.fileno()).st_size
            file.seek(0)
            return Blob(read_whole(request, file, announced_bytes, max_bytes, etag), etag)

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on; no bytes need no object."""
        check_range(offset_bytes, length_bytes)
        if length_bytes == 0:
            return b""
        request = self._request("get_range", key)
        with self._reading(request) as file:
            if if_match is not None and etag_of(file) != if_match:
                raise PreconditionFailedError(
                    f"{request.describe()}: the object has changed; read it again", **request.fields
                )
            check_end(request, offset_bytes, length_bytes, os.fstat(file.fileno()).st_size)
            file.seek(offset_bytes)
            return file.read(length_bytes)

    def head(self, key: str) -> StoredObject:
        """Returns the object's size, ETag and time of writing."""
        with self._reading(self._request("head", key)) as file:
            return _described(key, file)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Writes the whole object and returns its ETag; `metadata` is not kept."""
        path = self._path(key)
        if if_match is not None and if_absent:
            raise InvalidArgumentError(f"put of {key!r}: if_match and if_absent exclude each other")
        request = self._request("put", key, writes=True)
        self._begin_writing(request)
        with translating(request, self.folder), self._temporary() as temporary:
            with temporary.open("x+b") as file:
                file.write(data)
                sync_file(file)
                etag = etag_of(file)
            self._publish(request, temporary, path, if_match=if_match, if_absent=if_absent)
        return etag

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Writes an object through one temporary file, part by part, and returns its ETag.

        A failed upload leaves the file for `resume`.
        """
        path = self._path(key)
        if part_bytes < 1:
            raise InvalidArgumentError(f"part_bytes must be at least 1, not {part_bytes}")
        request = self._request("put_parts", key, writes=True)
        self._begin_writing(request)
        # Errors of `source` and `on_part` are the caller's, so each step of ours is translated by itself.
        with contextlib.ExitStack() as stack:
            with translating(request, self.folder):
                temporary, state, offset_bytes = begun_upload(stack, self._temporaries, source.size_bytes, resume)
            if on_part is not None:
                on_part(state)
            while offset_bytes < source.size_bytes:
                part = source.read_at(offset_bytes, min(part_bytes, source.size_bytes - offset_bytes))
                with translating(request, self.folder):
                    write_part(temporary, offset_bytes, part)
                state = with_part(state, offset_bytes, part)
                offset_bytes += len(part)
                if on_part is not None:
                    on_part(state)
            with translating(request, self.folder):
                with temporary.open("r+b") as file:
                    sync_file(file)
                    etag = etag_of(file)
                self._publish(request, temporary, path)
        return etag

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`, in order of name."""
        with translating(self._request("list", prefix), self.folder):
            for key in self._folders.keys(prefix):
                # An object that is deleted meanwhile is left out.
                with contextlib.suppress(ObjectMissingError):
                    yield self.head(key)

    def delete(self, key: str) -> None:
        """Removes the object and the folders that it leaves empty."""
        path = self._path(key)
        request = self._request("delete", key, writes=True)
        with translating(request, self.folder):
            if not self.folder.is_dir() or not path.is_file():
                return
            with self._locked(request):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                kept = self._folders.remove_empty(path.parent)
            # Another writer that has removed that folder meanwhile syncs the one above.
            with contextlib.suppress(FileNotFoundError):
                sync_folder(kept)

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object and returns the copy's ETag."""
        path = self._path(target_key)
        with self._reading(self._request("copy", source_key)) as source:
            request = self._request("copy", target_key, writes=True)
            self._begin_writing(request)
            with translating(request, self.folder), self._temporary() as temporary:
                with temporary.open("x+b") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    sync_file(file)
                    etag = etag_of(file)
                self._publish(request, temporary, path)
        return etag

    def close(self) -> None:
        """Does nothing: no file is held open between operations."""

    def _request(self, operation: str, key: str, *, writes: bool = False) -> Request:
        return Request(operation, self.location, key, writes=writes)

    def _path(self, key: str) -> Path:
        check_object_key(key)
        if any(part.startswith(RESERVED_NAME_PREFIX) for part in key.split("/")):
            raise InvalidArgumentError(
                f"object key {key!r}: names beginning with {RESERVED_NAME_PREFIX!r} are reserved for the store"
            )
        # Checked here because the system calls a long name below a missing folder merely missing.
        if any(len(part.encode("utf-8")) > _MAX_NAME_BYTES for part in key.split("/")):
            raise InvalidArgumentError(
                f"object key {key!r}: a file's name can't be longer than {_MAX_NAME_BYTES} bytes"
            )
        return self.folder / key

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[TemporaryFile]:
        """Names a new temporary file, and removes it at the end if it was not renamed."""
        with self._temporaries.new_file() as temporary:
            try:
                yield temporary
            finally:
                temporary.remove()

    @contextlib.contextmanager
    def _reading(self, request: Request) -> Iterator[BinaryIO]:
        path = self._path(request.key)
        with translating(request, self.folder), contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open_object(path))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ObjectMissingError(
                    f"{request.describe()}: there is no such object", **request.fields
                ) from None
            try:
                yield file
            finally:
                file.close()

    def _begin_writing(self, request: Request) -> None:
        """Makes the folder and removes old temporary files, once per store."""
        with self._beginning, translating(request, self.folder):
            if self._has_written and self.folder.is_dir():
                return
            self._folders.make_root()
            self._temporaries.remove_older(self._clock() - TEMPORARY_MAX_AGE_SECONDS)
            self._has_written = True

    @contextlib.contextmanager
    def _locked(self, request: Request) -> Iterator[None]:
        with folder_lock(self.folder / _LOCK_NAME, self._lock_timeout_seconds, request):
            yield

    def _publish(
        self,
        request: Request,
        temporary: TemporaryFile,
        path: Path,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> None:
        """Makes a complete temporary file the object, if the condition holds."""
        with self._locked(request):
            if if_match is not None or if_absent:
                self._check_condition(request, if_match)
            self._rename(request, temporary, path)
        # Readers may see the new bytes now, but power loss may still take them back.
        with translating(request, self.folder, may_have_applied=True):
            self._folders.sync(path.parent)

    def _check_condition(self, request: Request, if_match: str | None) -> None:
        """Compares under the lock; `if_match` None means that the object must be absent."""
        try:
            with self._reading(request) as file:
                found: str | None = etag_of(file)
        except ObjectMissingError:
            found = None
        if found != if_match:
            state = "the object exists" if if_match is None else "the object has changed or is gone"
            raise PreconditionFailedError(f"{request.describe()}: {state}; read it again", **request.fields)

    def _rename(self, request: Request, temporary: TemporaryFile, path: Path) -> None:
        for _ in range(_FOLDER_ATTEMPTS):
            # On a shared drive without working locks, another machine's delete may remove the empty
            # folder between the two steps.
            with contextlib.suppress(FileNotFoundError):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.rename(path)
                return
            if not temporary.exists():
                break
        raise TransientStoreError(
            f"{request.describe()}: its folder or its temporary file was removed meanwhile",
            may_have_applied=False,
            **request.fields,
        )


def _described(key: str, file: BinaryIO) -> StoredObject:
    status = os.fstat(file.fileno())
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredObject(key, status.st_size, etag_of(file), modified)
