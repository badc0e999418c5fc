"""Who may do what with a local file: mode, owner, group, access list and other attributes, carried over.

The invariant: a file that holds what another one holds is never open to more people than that
one. What the system refuses to set is left out and told; where the group can't be kept, its members get no
more than everybody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ebooklet_tx.local.files.file_calls import REFUSED

ACCESS_LIST = "system.posix_acl_access"

_NO_SUCH = {errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_SYSTEMS_OWN = ("security.", "trusted.", "system.")
"""Attributes that the system gives each file itself, and that most users can't set."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Who may do what with a file, and the attributes that its owner gave it."""

    mode: int
    uid: int
    gid: int
    attributes: dict[str, bytes] = field(default_factory=dict)

    @property
    def access_list(self) -> bytes | None:
        return self.attributes.get(ACCESS_LIST)


def rights_of(file: int | Path) -> Rights:
    """Returns the rights of an open file, or of what a path names; a link is not followed."""
    # Of a descriptor there is no link to follow.
    follow = isinstance(file, int)
    found = os.fstat(file) if isinstance(file, int) else file.lstat()
    attributes: dict[str, bytes] = {}
    with _unsupported():
        # Other systems than Linux have other calls for them.
        for name in os.listxattr(file, follow_symlinks=follow):
            with _unsupported():
                attributes[name] = os.getxattr(file, name, follow_symlinks=follow)
    return Rights(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, attributes)


def give(fd: int, rights: Rights) -> list[str]:
    """Gives a new file the rights of another.

    Returns:
        What the system refused to set: "owner", "group", and names of attributes.
    """
    refused = _give_owner(fd, rights)
    mode = rights.mode if "group" not in refused else _without_group(rights.mode)
    _drop_access_list(fd)
    os.fchmod(fd, mode)
    for name, value in rights.attributes.items():
        if name == ACCESS_LIST and "group" in refused:
            # Its entry of the owning group would mean another group.
            refused.append(name)
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in REFUSED | _NO_SUCH:
                raise
            if name == ACCESS_LIST or not name.startswith(_SYSTEMS_OWN):
                refused.append(name)
    return refused


def narrow(path: Path, rights: Rights) -> bool:
    """Takes from a file what another one's rights do not give; a link, and what is no file, is left alone.

    Returns:
        Whether anything was to be taken away.

    Raises:
        PermissionError: The file is another user's.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    now = rights_of(path)
    allowed = rights.mode
    if now.gid != rights.gid:
        try:
            os.chown(path, -1, rights.gid, follow_symlinks=False)
        except PermissionError:
            allowed = _without_group(allowed)
    same_list = now.access_list == rights.access_list
    if same_list and not now.mode & ~allowed:
        return False
    if not same_list:
        _drop_access_list(path)
    os.chmod(path, now.mode & allowed)  # noqa: PTH101
    if rights.access_list is not None and allowed == rights.mode:
        os.setxattr(path, ACCESS_LIST, rights.access_list, follow_symlinks=False)
    return True


def _give_owner(fd: int, rights: Rights) -> list[str]:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) == (rights.uid, rights.gid):
        return []
    for uid, refused in ((rights.uid, []), (-1, ["owner"])):
        try:
            os.fchown(fd, uid, rights.gid)
        except OSError as error:
            # A file system that knows no owners says that the argument is wrong.
            if error.errno not in REFUSED | {errno.EINVAL}:
                raise
        else:
            return refused if now.st_uid != rights.uid else []
    owner = ["owner"] if now.st_uid != rights.uid else []
    return [*owner, "group"] if now.st_gid != rights.gid else owner


def _without_group(mode: int) -> int:
    """Returns a mode by which the members of a group get no more than everybody."""
    return mode & ~0o070 | (mode & 0o070 & (mode & 0o007) << 3)


def _drop_access_list(file: int | Path) -> None:
    """Removes an access list, such as a new file has from its folder."""
    with _unsupported():
        os.removexattr(file, ACCESS_LIST, follow_symlinks=isinstance(file, int))


@contextlib.contextmanager
def _unsupported() -> Iterator[None]:
    """Passes over what a file, or its file system, does not have."""
    try:
        yield
    except AttributeError:
        return
    except OSError as error:
        if error.errno not in _NO_SUCH | REFUSED:
            raise
