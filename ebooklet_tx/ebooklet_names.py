"""Names that programs written for ebooklet 0.6 to 0.11 call.

Each is another name of `open` with its own order of arguments. The invariant: a call written for ebooklet has the
same meaning here; arguments about ebooklet's own layout are accepted and have no effect.
"""

from __future__ import annotations

import os
from typing import Any

from ebooklet_tx.connection import RemoteConn
from ebooklet_tx.database import Database
from ebooklet_tx.errors import UnsupportedFormatError
from ebooklet_tx.group import RemoteConnGroup
from ebooklet_tx.opening import open as open_database
from ebooklet_tx.opening.options import Flag

DEFAULT_GROUP_BYTES = 32 * 2**20
"""What ebooklet packs together by default; here a pack has its own size and the number has no effect."""


def open_ebooklet(
    remote_conn: RemoteConn,
    file_path: str | os.PathLike[str],
    flag: Flag = "r",
    value_serializer: Any = None,
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    *,
    group_bytes: int | None = None,
    num_groups: int | None = None,
    push_packers: int = 1,
    **options: Any,
) -> Database:
    """Opens a database as `open` does.

    Args:
        remote_conn: As in `open`; so are `file_path`, `flag`, `value_serializer`, `n_buckets`, `buffer_size`.
        group_bytes: No effect; so are `num_groups` and `push_packers`.
        **options: Keyword arguments of `open`.

    Examples:
        >>> with ebooklet_tx.open_ebooklet(remote, "other.blt") as other:
        ...     dict(other)
        {'a': 1, 'b': 2}
    """
    database: Database = open_database(
        remote_conn, file_path, flag, value_serializer, n_buckets, buffer_size, **options
    )
    return database


def open_rcg(
    remote_conn: RemoteConn,
    file_path: str | os.PathLike[str],
    flag: Flag = "r",
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    *,
    group_bytes: int | None = None,
    num_groups: int | None = None,
    push_packers: int = 1,
    **options: Any,
) -> RemoteConnGroup:
    """Opens a connection group as `open` does with `remote_conn_group=True`.

    Args:
        remote_conn: As in `open`; so are `file_path`, `flag`, `n_buckets`, `buffer_size`.
        group_bytes: No effect; so are `num_groups` and `push_packers`.
        **options: Keyword arguments of `open`.

    Raises:
        UnsupportedFormatError: The database there is no group.

    Examples:
        >>> with ebooklet_tx.open_rcg(remote + "-group", "group.blt", "c") as group:
        ...     len(group)
        0
    """
    database: Database = open_database(
        remote_conn, file_path, flag, None, n_buckets, buffer_size, remote_conn_group=True, **options
    )
    if isinstance(database, RemoteConnGroup):
        return database
    database.close()
    raise UnsupportedFormatError(f"{database!r} is a database and no group; open it with open()")
