"""What the system's errors about a store's folder mean, as errors of ours."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    ObjectMissingError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.request import Request

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ANOTHER_KIND = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}


@contextlib.contextmanager
def translating(request: Request, folder: Path, *, may_have_applied: bool = False) -> Iterator[None]:
    """Turns what the system raises in the block into errors of ours about a request.

    Args:
        request: What was asked.
        folder: The store's folder.
        may_have_applied: Whether the write may be visible already when the block fails.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, Error):
            raise
        raise _error_for(request, error, folder, may_have_applied=may_have_applied) from None


def _error_for(request: Request, error: OSError, folder: Path, *, may_have_applied: bool) -> Error:
    shown = request.describe()
    why = error.strerror or type(error).__name__
    if error.errno in _REFUSED:
        return RemoteAccessError(f"{shown}: {why}; check the folder's permissions", **request.fields)
    if error.errno == errno.ELOOP:
        return RemoteAccessError(
            f"{shown}: a link lies where the store's own file should be; remove it", **request.fields
        )
    if error.errno == errno.ENAMETOOLONG:
        return InvalidArgumentError(
            f"{shown}: the name is too long for this file system; give the database a shorter name",
            **request.fields,
        )
    if error.errno in _ANOTHER_KIND:
        return _another_kind(request, folder, why)
    if error.errno in _FULL:
        return TransientStoreError(
            f"{shown}: the disk is full ({why}); make room", may_have_applied=may_have_applied, **request.fields
        )
    return TransientStoreError(f"{shown} failed: {why}", may_have_applied=may_have_applied, **request.fields)


def _another_kind(request: Request, folder: Path, why: str) -> Error:
    shown = request.describe()
    if _is_no_folder(folder):
        return RemoteAccessError(
            f"{shown}: a file lies where the folder should be; give another folder", **request.fields
        )
    if not request.writes:
        return ObjectMissingError(f"{shown}: there is no such object ({why})", **request.fields)
    return InvalidArgumentError(
        f"{shown}: a folder can't hold both an object and one below it ({why})", **request.fields
    )


def _is_no_folder(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return folder.exists() and not folder.is_dir()
    return False
