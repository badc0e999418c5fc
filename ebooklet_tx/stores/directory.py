"""An object store in a folder: a local one, or one on a shared drive.

Owns the folder's files, its lock file and its folder of temporary files. The invariants: an object's
file comes into being, and changes, only by the rename of a complete and fsynced temporary file; every
rename and removal takes place under one lock on the folder, so that a compare and its replace are one
step; a put that has returned survives power loss.
"""

from __future__ import annotations

import contextlib
import errno
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
    Error,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.directory_files import (
    etag_of,
    folder_lock,
    intact_bytes,
    open_object,
    sync_file,
    sync_folder,
    with_part,
    write_part,
)
from ebooklet_tx.stores.http_errors import Request, check_range, read_whole
from ebooklet_tx.stores.object_store import Blob, ByteSource, StoredObject, UploadState
from ebooklet_tx.stores.temporary_files import UPLOAD_ID, TemporaryFile, TemporaryFolder

TEMPORARY_MAX_AGE_SECONDS = 24 * 3600.0

_LOCK_NAME = f"{RESERVED_NAME_PREFIX}.lock"
_TEMPORARY_FOLDER = f"{RESERVED_NAME_PREFIX}.tmp"
_FOLDER_ATTEMPTS = 64
_MAX_NAME_BYTES = 255

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ANOTHER_KIND = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}


class DirectoryStore:
    """Objects as plain files of a folder, so that a web server can serve it as a `db_url`.

    An ETag is a blake2b digest, 16 bytes as hex, over the file's size and its first and last 64 KiB. It is
    cheap to compute and survives copying of the folder. It can't see a change in the middle of a
    large file of unchanged size; that is sound because packs and segments never change, and whatever
    is compared-and-swapped carries a nonce near its start.

    No metadata is kept, as that would need something beside the plain bytes: it comes back empty.

    Temporary files that a killed writer left are removed by a later store's first write when they
    are a day old; until then an upload in parts can be gone on with.
    """

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.time, lock_timeout_seconds: float = 30.0
    ) -> None:
        """Names the folder; it is made at the first write.

        Args:
            folder: The folder; it may be missing.
            clock: Tells the time of day in seconds, for the age of temporary files.
            lock_timeout_seconds: How long to wait for another writer's replace, which is
                momentary, before the write fails as transient.
        """
        self.folder = Path(folder).resolve()
        self._clock = clock
        self._lock_timeout_seconds = lock_timeout_seconds
        self._beginning = threading.RLock()
        self._has_written = False
        self._durable_folders: dict[Path, int] = {}
        self._temporaries = TemporaryFolder(self.folder / _TEMPORARY_FOLDER)

    place = ("file", "")
    """Endpoint and bucket, as roots name them: a folder is the same wherever it is mounted."""

    @property
    def location(self) -> str:
        """Names the store for messages."""
        return f"folder {str(self.folder)!r}"

    @property
    def writable(self) -> bool:
        """True when the folder takes writes, or is not there yet."""
        with contextlib.suppress(OSError):
            # Of one that can't be seen nothing good is expected.
            return not self.folder.exists() or os.access(self.folder, os.W_OK | os.X_OK)
        return False

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`."""
        with self._reading("get", key) as file:
            etag = etag_of(file)
            if etag == if_none_match:
                return None
            announced = os.fstat(file.fileno()).st_size
            file.seek(0)
            return Blob(read_whole(Request("get", self.location, key), file, announced, max_bytes, etag), etag)

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on; no bytes need no object."""
        check_range(offset_bytes, length_bytes)
        if length_bytes == 0:
            return b""
        with self._reading("get_range", key) as file:
            if if_match is not None and etag_of(file) != if_match:
                raise PreconditionFailedError(
                    f"{self._shown('get_range', key)}: the object has changed; read again"
                )
            size_bytes = os.fstat(file.fileno()).st_size
            if offset_bytes + length_bytes > size_bytes:
                raise NotFoundInRangeError(
                    f"{self._shown('get_range', key)}: bytes {offset_bytes} to "
                    f"{offset_bytes + length_bytes} of an object of {size_bytes}"
                )
            file.seek(offset_bytes)
            return file.read(length_bytes)

    def head(self, key: str) -> StoredObject:
        """Returns the object's size, ETag and time of writing."""
        with self._reading("head", key) as file:
            return _describe(key, file)

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
        self._begin_writing("put", key)
        with self._translated("put", key), self._temporary() as temporary:
            with temporary.open("x+b") as file:
                file.write(data)
                sync_file(file)
                etag = etag_of(file)
            self._place("put", key, temporary, path, if_match=if_match, if_absent=if_absent)
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

        The upload's id is the temporary file's name; a part's tag is its offset, length and digest, so
        that only parts found intact in the file are gone on from. A failed upload leaves the
        file for `resume`.
        """
        path = self._path(key)
        if part_bytes < 1:
            raise InvalidArgumentError(f"part_bytes must be at least 1, not {part_bytes}")
        self._begin_writing("put_parts", key)
        with contextlib.ExitStack() as stack:
            with self._translated("put_parts", key):
                temporary, state, offset_bytes = self._begun_upload(stack, source, resume)
            if on_part is not None:
                on_part(state)
            while offset_bytes < source.size_bytes:
                part = source.read_at(offset_bytes, min(part_bytes, source.size_bytes - offset_bytes))
                with self._translated("put_parts", key):
                    write_part(temporary, offset_bytes, part)
                state = with_part(state, offset_bytes, part)
                offset_bytes += len(part)
                if on_part is not None:
                    on_part(state)
            with self._translated("put_parts", key):
                with temporary.open("r+b") as file:
                    sync_file(file)
                    etag = etag_of(file)
                self._place("put_parts", key, temporary, path)
        return etag

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`, in order of name."""
        for key in self._walk("", prefix):
            # A file that goes away while the folder is walked was not there.
            with contextlib.suppress(ObjectMissingError):
                yield self.head(key)

    def delete(self, key: str) -> None:
        """Removes the object and the folders that it leaves empty."""
        path = self._path(key)
        with self._translated("delete", key):
            if not self.folder.is_dir() or not path.is_file():
                return
            with self._locked("delete", key):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                kept = self._remove_empty_folders(path.parent)
            # Whoever has removed that folder meanwhile syncs the one above.
            with contextlib.suppress(FileNotFoundError):
                sync_folder(kept)

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object and returns the copy's ETag."""
        path = self._path(target_key)
        with self._reading("copy", source_key) as source:
            self._begin_writing("copy", target_key)
            with self._translated("copy", target_key), self._temporary() as temporary:
                with temporary.open("x+b") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    sync_file(file)
                    etag = etag_of(file)
                self._place("copy", target_key, temporary, path)
        return etag

    def close(self) -> None:
        """Does nothing: no file is held open between operations."""

    def _path(self, key: str) -> Path:
        check_object_key(key)
        if any(part.startswith(RESERVED_NAME_PREFIX) for part in key.split("/")):
            raise InvalidArgumentError(
                f"object key {key!r}: names beginning with {RESERVED_NAME_PREFIX!r} are the store's own"
            )
        # Asked first, as a long name below a folder that is not there would pass for merely missing.
        if any(len(part.encode("utf-8")) > _MAX_NAME_BYTES for part in key.split("/")):
            raise InvalidArgumentError(
                f"object key {key!r}: a file's name can't be over {_MAX_NAME_BYTES} bytes long"
            )
        return self.folder / key

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[TemporaryFile]:
        """Names a new temporary file, which is gone afterwards."""
        with self._temporaries.new_file() as temporary:
            try:
                yield temporary
            finally:
                temporary.remove()

    @contextlib.contextmanager
    def _reading(self, operation: str, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        with self._translated(operation, key, writes=False), contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open_object(path))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ObjectMissingError(f"{self._shown(operation, key)}: there is no such object") from None
            try:
                yield file
            finally:
                file.close()

    def _begin_writing(self, operation: str, key: str) -> None:
        """Makes the folder and removes old temporary files, once per store."""
        with self._beginning, self._translated(operation, key):
            if self._has_written and self.folder.is_dir():
                return
            missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.is_dir()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync_folder(folder.parent)
            self._temporaries.remove_older(self._clock() - TEMPORARY_MAX_AGE_SECONDS)
            self._has_written = True

    def _place(
        self,
        operation: str,
        key: str,
        temporary: TemporaryFile,
        path: Path,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> None:
        """Makes a complete temporary file the object, if the condition holds."""
        with self._locked(operation, key):
            if if_match is not None or if_absent:
                self._check_condition(operation, key, if_match)
            self._rename(operation, key, temporary, path)
        try:
            self._sync_folders(path.parent)
        except OSError as error:
            # The new bytes are in sight already, though maybe not for good.
            raise self._error(operation, key, error, may_have_applied=True) from error

    def _check_condition(self, operation: str, key: str, if_match: str | None) -> None:
        """Compares under the lock; `if_match` None means that the object must be absent."""
        try:
            with self._reading(operation, key) as file:
                found: str | None = etag_of(file)
        except ObjectMissingError:
            found = None
        if found != if_match:
            state = "the object exists" if if_match is None else "the object has changed or is gone"
            raise PreconditionFailedError(f"{self._shown(operation, key)}: {state}; read again")

    def _rename(self, operation: str, key: str, temporary: TemporaryFile, path: Path) -> None:
        for _ in range(_FOLDER_ATTEMPTS):
            # Where a shared drive does not keep its locks, a delete elsewhere may remove the empty
            # folder between the two steps.
            with contextlib.suppress(FileNotFoundError):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.rename(path)
                return
            if not temporary.exists():
                break
        raise TransientStoreError(
            f"{self._shown(operation, key)}: its folder keeps vanishing", may_have_applied=False
        )

    def _remove_empty_folders(self, folder: Path) -> Path:
        """Removes empty folders upwards and returns the first that is kept."""
        while folder != self.folder:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            folder = folder.parent
        return folder

    def _sync_folders(self, folder: Path) -> None:
        """Makes an entry of `folder` durable, and the entries of the folders that lead to it."""
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
            while folder != self.folder:
                # By inode: a folder removed and made again needs its entry written again.
                inode = folder.stat().st_ino
                if self._durable_folders.get(folder) != inode:
                    sync_folder(folder.parent)
                    self._durable_folders[folder] = inode
                folder = folder.parent

    def _begun_upload(
        self, stack: contextlib.ExitStack, source: ByteSource, resume: UploadState | None
    ) -> tuple[TemporaryFile, UploadState, int]:
        """Returns the upload to go on with and the bytes it has, beginning anew where it must."""
        if resume is not None and UPLOAD_ID.fullmatch(resume.upload_id):
            with contextlib.suppress(FileNotFoundError):
                temporary = stack.enter_context(self._temporaries.file(resume.upload_id))
                offset_bytes = intact_bytes(temporary, resume, source.size_bytes)
                if offset_bytes is not None:
                    return temporary, resume, offset_bytes
        temporary = stack.enter_context(self._temporaries.new_file(".part"))
        temporary.open("x+b").close()
        return temporary, UploadState(temporary.name), 0

    def _walk(self, folder_key: str, prefix: str) -> Iterator[str]:
        """Yields the keys below a folder that begin with `prefix`, in the order of their UTF-8 bytes."""
        with self._translated("list", prefix, writes=False):
            try:
                with os.scandir(self.folder / folder_key) as entries:
                    found = sorted(
                        (_key_of(folder_key, entry), entry.is_dir(follow_symlinks=False)) for entry in entries
                    )
            except (FileNotFoundError, NotADirectoryError):
                return
        for name, is_folder in found:
            key = os.fsdecode(name)
            if key.rstrip("/").rpartition("/")[2].startswith(RESERVED_NAME_PREFIX) or not _is_text(name):
                continue
            if is_folder and (key.startswith(prefix) or prefix.startswith(key)):
                yield from self._walk(key, prefix)
            elif not is_folder and key.startswith(prefix):
                yield key

    @contextlib.contextmanager
    def _locked(self, operation: str, key: str) -> Iterator[None]:
        with folder_lock(self.folder / _LOCK_NAME, self._lock_timeout_seconds, self._shown(operation, key)):
            yield

    @contextlib.contextmanager
    def _translated(self, operation: str, key: str, *, writes: bool = True) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, Error):
                raise
            raise self._error(operation, key, error, writes=writes) from error

    def _error(
        self, operation: str, key: str, error: OSError, *, writes: bool = True, may_have_applied: bool = False
    ) -> Error:
        shown = self._shown(operation, key)
        why = error.strerror or type(error).__name__
        if error.errno in _REFUSED:
            return RemoteAccessError(f"{shown}: {why}; check the folder's permissions")
        if error.errno == errno.ELOOP:
            return RemoteAccessError(f"{shown}: a link lies where the store's own file should be; remove it")
        if error.errno == errno.ENAMETOOLONG:
            return InvalidArgumentError(f"{shown}: the name is too long for this file system")
        if error.errno in _ANOTHER_KIND:
            if self._is_no_folder():
                return RemoteAccessError(f"{shown}: a file lies where the folder should be; give another folder")
            if not writes:
                return ObjectMissingError(f"{shown}: there is no such object ({why})")
            return InvalidArgumentError(f"{shown}: a folder can't hold both an object and one below it ({why})")
        if error.errno in _FULL:
            return TransientStoreError(
                f"{shown}: the disk is full ({why}); make room", may_have_applied=may_have_applied
            )
        return TransientStoreError(f"{shown} failed: {why}", may_have_applied=may_have_applied)

    def _is_no_folder(self) -> bool:
        with contextlib.suppress(OSError):
            return self.folder.exists() and not self.folder.is_dir()
        return False

    def _shown(self, operation: str, key: str) -> str:
        return f"{operation} of {key!r} in {self.location}"


def _describe(key: str, file: BinaryIO) -> StoredObject:
    status = os.fstat(file.fileno())
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredObject(key, status.st_size, etag_of(file), modified)


def _key_of(folder_key: str, entry: os.DirEntry[str]) -> bytes:
    # A folder sorts with the slash that its objects' keys have after its name.
    slash = "/" if entry.is_dir(follow_symlinks=False) else ""
    return os.fsencode(f"{folder_key}{entry.name}{slash}")


def _is_text(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
