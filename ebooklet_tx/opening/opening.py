"""Opening: from an address and a flag to a session.

The invariant: when opening raises, nothing was changed that the flag did not ask for, and no lock, descriptor or
connection is left behind.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any, Literal, Unpack, overload

from ebooklet_tx.connection import Connection, DirectoryConnection, RemoteConn, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.database.remote_reader import RemoteReader
from ebooklet_tx.errors import (
    InvalidArgumentError,
    OfflineError,
    OfflineWarning,
    ReadOnlyError,
    UnsupportedFormatError,
)
from ebooklet_tx.group import RemoteConnGroup, reading_entries
from ebooklet_tx.group_entries import GROUP_SERIALIZER
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.files.own_files import local_path
from ebooklet_tx.local.journal.facts import note_connection, note_type
from ebooklet_tx.opening.by_flag import open_anew, open_creating, open_offline, open_reading, open_writing
from ebooklet_tx.opening.options import Flag, OpenOptions, ReadOptions
from ebooklet_tx.opening.settings import Settings
from ebooklet_tx.opening.without_file import open_reader
from ebooklet_tx.progress import ProgressOption, Reporter
from ebooklet_tx.stores.deadline import patience
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import only_readable, remote_at
from ebooklet_tx.sync.origin import is_made_here
from ebooklet_tx.sync.pull.public_url import check_public_side
from ebooklet_tx.sync.pull.resolve import Resolver, check_choice
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.session import Session
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.pickle_policy import pickle_allowed, warn_of_pickle
from ebooklet_tx.values.serializers import Serializer, named_serializer

UNREACHABLE_SECONDS = 5.0
"""How long `offline="auto"` tries to connect to a store before it works without it."""


@overload
def open(
    remote_conn: RemoteConn,
    file_path: str | os.PathLike[str] | None,
    flag: Flag = "r",
    value_serializer: Any = None,
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    *,
    remote_conn_group: Literal[True],
    **options: Unpack[OpenOptions],
) -> RemoteConnGroup: ...


@overload
def open(
    remote_conn: RemoteConn,
    file_path: str | os.PathLike[str] | None,
    flag: Flag,
    value_serializer: Any,
    n_buckets: int,
    buffer_size: int,
    remote_conn_group: Literal[True],
    **options: Unpack[OpenOptions],
) -> RemoteConnGroup: ...


@overload
def open(
    remote_conn: RemoteConn,
    file_path: str | os.PathLike[str],
    flag: Flag = "r",
    value_serializer: Any = None,
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    remote_conn_group: bool = False,
    **options: Unpack[OpenOptions],
) -> Database: ...


@overload
def open(
    remote_conn: RemoteConn,
    file_path: None,
    flag: Literal["r"] = "r",
    value_serializer: Any = None,
    *,
    at: str,
    **options: Unpack[ReadOptions],
) -> Database: ...


@overload
def open(
    remote_conn: RemoteConn,
    file_path: None,
    flag: Literal["r"] = "r",
    value_serializer: Any = None,
    *,
    at: None = None,
    **options: Unpack[ReadOptions],
) -> RemoteReader: ...


@at_edge
def open(
    remote_conn: RemoteConn,
    file_path: str | os.PathLike[str] | None,
    flag: Flag = "r",
    value_serializer: Any = None,
    n_buckets: int = 12007,
    buffer_size: int = 2**22,
    remote_conn_group: bool = False,
    *,
    lock: Literal["exclusive"] | None = "exclusive",
    lock_timeout: float = 300.0,
    force_lock: bool = False,
    offline: bool | Literal["auto"] = False,
    allow_pickle: bool | None = None,
    conditional_writes: bool | Literal["auto"] = "auto",
    on_conflict: str | Resolver = "raise",
    accept_partial: bool = False,
    trust_entries: bool = False,
    index: Literal["lazy", "full"] = "lazy",
    at: str | None = None,
    max_local_bytes: int | None = None,
    retry: RetryPolicy | None = None,
    remember_remote: bool = True,
    progress: ProgressOption = None,
) -> Database | RemoteReader:
    """Opens a database: a local Booklet file with its journal, and the remote that it syncs with.

    Args:
        remote_conn: An `S3Connection`; a URL (`s3://bucket/key`, `file:///folder/name`,
            `http(s)://...` for reading only, or `memory://name` in tests); a dict of connection parameters; or
            an entry of a connection group.
        file_path: The local Booklet file; its journal lies beside it as `<file>.journal`. None to read without
            one, from memory: what comes back is a `RemoteReader`; or, with `at`, a database in a temporary file
            that goes when the session is closed.
        flag: `r` reads an existing database, even one that was never pushed; `w` reads and writes it; `c` also
            creates it if it is missing; `n` starts an empty one, which replaces the remote at the next push.
        value_serializer: For a new database: None for bytes, one of booklet's names, or a class or instance
            with `dumps` and `loads`. "orjson" stores NaN and infinities as null, so that they come back as
            None, numpy arrays as lists, and datetimes as str without microseconds. An existing database has
            its own: naming another one is refused before any value is decoded, None takes what is stored, and
            only a class or instance must be given again.
        n_buckets: For a new database: hash buckets of the Booklet file.
        buffer_size: How many value bytes wait in memory before they are committed; an empty value, and a delete,
            count as the bytes of the key.
        remote_conn_group: For a new database: whether it is a `RemoteConnGroup`. An existing database keeps its
            type, although a type checker takes the result for a group.
        lock: "exclusive" keeps other writers of the remote out from open to close; None lets any
            number of writers work, and conflicts come up when they push.
        lock_timeout: Seconds to wait for another writer, of the local file or of the remote.
        force_lock: Take the remote's lock from its holder, whose next push raises `LockLostError`.
        offline: True works with the local file alone; "auto" does so, with an `OfflineWarning`, when the
            remote can't be reached. What is written waits for the next push of a session that is not offline;
            what can't be told without the remote raises `OfflineError`, never `KeyError`.
        allow_pickle: False refuses a database whose values are pickled, before any is unpickled; True says that
            they are trusted, as naming the serializer does. None for what the environment variable
            EBOOKLET_TX_ALLOW_PICKLE says; without either, a database that this journal did not make warns
            once (`PickleWarning`).
        conditional_writes: Whether the store's conditional writes work: "auto" tries them once for each
            endpoint and bucket that is not AWS itself, True and False are the answer.
        on_conflict: What each push does about keys that another writer changed too, unless the push has its own
            argument: "raise", "ours", "theirs", "newest", or a function, as in `Change.push`.
        accept_partial: Whether a file that ebooklet used is taken although it lacks keys that the index beside it
            (`<file>.remote_index`) lists; a copy of an ebooklet_tx remote is never checked.
        trust_entries: Whether an entry of a group is followed wherever it leads, with the credentials of the
            environment. Without that its `db_url` is read anonymously, and a bucket or folder is opened only at
            the endpoint, or in the folder, at which you opened the group.
        index: "lazy" reads of the remote's index what is asked for. "full" brings all of it to this machine, at
            opening and after each pull and push, as `load_index` does: then `in`, `len()` and `keys()` need no
            request, and work offline. `offline="auto"` does so too, as far as that succeeds.
        at: The name of a snapshot to read instead of the newest commit; the flag must be `r`. A file that is
            there must be of the same database, and keeps its base and what is pending in it. One that is missing
            is made, and stands on the snapshot's commit until it is opened without `at`.
        max_local_bytes: How large the local file may be, 1 MiB or more; None for no bound. Where it would become
            larger, the copies that were read longest ago are dropped, down to three quarters of it, and are
            fetched again when they are read. What is pending stays, even beyond the bound; then nothing is kept.
            The file is rewritten for that, so that for a moment a second one lies beside it. The journal is not
            counted: it has what is pending in small commits, and up to 64 MiB of the remote's index.
        retry: How failing requests are tried again; None for the connection's own.
        remember_remote: Whether the journal notes the address, without credentials, for `recover` and the command
            line. False leaves the one that it has.
        progress: Told how far each operation of the session is: a function that gets each `Progress`, or True for
            bars. What the function raises ends the operation, as Ctrl-C does.

    Raises:
        RemoteMissingError: There is no remote database, and the flag does not make one; or no such snapshot.
        UnsupportedFormatError: Something else lies at the address or the path.
        InvalidArgumentError: An argument is wrong, or another serializer was named than the stored one.
        PartialCopyError: ebooklet made the file, and it lacks keys of its remote.
        UUIDMismatchError: The local file belongs to another database.
        LockTimeoutError: Another session kept the local file, or another writer the remote.
        OfflineError: The remote can't be reached; or `offline` is True and there is no local file.
        PickleRefusedError: The values are pickled, and pickle is refused.
        RemoteAccessError: The store refuses.

    Examples:
        >>> with ebooklet_tx.open(remote + "-new", "new.blt", flag="c", value_serializer="orjson") as new:
        ...     new["flow"] = [1.5, 2.5]
        ...     print(new["flow"], bool(new.changes().push()))
        [1.5, 2.5] True
    """
    _check_process()
    connection = parse_connection(remote_conn, trust_entries=trust_entries, for_reading=flag == "r")
    if file_path is None and at is None:
        return open_reader(
            connection,
            flag=flag,
            offline=offline,
            value_serializer=value_serializer,
            pickle_allowed=pickle_allowed(allow_pickle),
            retry=retry,
            progress=progress,
        )
    path = _checked_path(file_path, at, flag=flag, offline=offline)
    _check_apart(path, connection)
    named_serializer(value_serializer)
    check_choice(on_conflict)
    settings = Settings(
        flag=flag,
        value_serializer=value_serializer,
        n_buckets=n_buckets,
        buffer_bytes=buffer_size,
        lock_timeout_seconds=lock_timeout,
        type="group" if remote_conn_group else "booklet",
        lock=lock,
        force_lock=force_lock,
        offline=offline,
        pickle_allowed=pickle_allowed(allow_pickle),
        address=connection.url,
        accept_partial=accept_partial,
        index=index,
        max_local_bytes=max_local_bytes,
        noted_address=json.dumps(connection.to_dict(), sort_keys=True) if remember_remote else None,
    )
    if flag != "r" and only_readable(connection):
        raise ReadOnlyError(f"{connection.url} can only be read: the flag must be r", operation="open")
    # Twice, as an interrupt can come in the middle of the first exit as well.
    with settings.ending, settings.ending:
        remote = remote_at(
            connection,
            retry=retry,
            for_writing=flag != "r",
            conditional_writes=conditional_writes,
        )
        remote.reporter = Reporter(progress)
        settings.ending.add(remote.store.close)
        if at is not None:
            from ebooklet_tx.opening.at_snapshot import open_at

            session = open_at(remote, path, at, settings)
        else:
            session = _open_session(remote, connection, local_path(path), settings)
        session.on_conflict = on_conflict
        if max_local_bytes is not None:
            session.local.limit(max_local_bytes)
        serializer = _begin_serving(session, connection, settings)
        if not (settings.pickle_wanted or is_made_here(session.local)):
            warn_of_pickle(serializer.name, connection.url, stacklevel=3)
        kind = RemoteConnGroup if session.type == "group" else Database
        return kind(session, serializer, connection, buffer_size=buffer_size)


def _checked_path(file_path: Any, at: str | None, *, flag: str, offline: bool | str) -> Path | None:
    """Returns the path of the local file; None for a temporary one, which only a snapshot is read through."""
    if at is None:
        return local_path(file_path)
    from ebooklet_tx.maintenance.snapshots.kept import check_name

    check_name(at)
    if flag != "r" or offline is True:
        raise InvalidArgumentError(
            f"the snapshot {at!r} can only be read, and from the remote: open it with flag 'r' and without "
            "offline, or make it the newest commit with restore()",
            operation="open",
        )
    return None if file_path is None else local_path(file_path)


def _check_apart(path: Path | None, connection: Connection) -> None:
    """Raises where the local file would lie in the very place of the remote's root."""
    if path is None or not isinstance(connection, DirectoryConnection):
        return
    if os.path.realpath(path) == os.path.realpath(connection.folder / connection.name):
        raise InvalidArgumentError(
            f"{path} is given as the local file and as the remote, which are two things: give the remote a "
            "folder of its own, such as a shared one",
            path=path,
            operation="open",
        )


def _check_process() -> None:
    """Raises in a process that only imports its parent's main program, and would open all of it again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InvalidArgumentError(
            "a database was about to be opened in a worker process that imports the main program; put what the "
            "program does under if __name__ == '__main__'",
            operation="open",
        )


def _open_session(remote: Remote, connection: Connection, path: Path, settings: Settings) -> Session:
    """Opens by the flag, or offline where that is wanted or the remote can't be reached."""
    if settings.offline is True:
        remote.store.close()
        return open_offline(connection, path, settings)
    opener = {"r": open_reading, "w": open_writing, "c": open_creating, "n": open_anew}[settings.flag]
    seconds = UNREACHABLE_SECONDS if settings.offline == "auto" else math.inf
    try:
        with patience(unreachable_seconds=seconds):
            return opener(remote, path, settings)
    except OfflineError as error:
        if settings.offline != "auto" or settings.flag == "n" or size_of(path) is None:
            raise
        warnings.warn(
            f"{connection.url} is unreachable, so {path} is opened offline, as it was left: {error}",
            OfflineWarning,
            stacklevel=4,
        )
        remote.store.close()
        return open_offline(connection, path, settings)


def _begin_serving(session: Session, connection: Connection, settings: Settings) -> Serializer:
    """Gives a session its serializer, and notes in its journal what it is and where its remote lies."""
    serializer = session.local.serializer(settings.value_serializer)
    settings.check_pickle(serializer.name)
    if session.type == "group" and serializer.name != GROUP_SERIALIZER:
        raise UnsupportedFormatError(
            f"{session.local.path} holds values of the serializer {serializer.name!r}, so it is no connection "
            "group; open it without remote_conn_group",
            path=session.local.path,
            operation="open",
        )
    if session.type == "group":
        serializer = reading_entries(serializer, connection)
    session.decode, session.encode = serializer.loads_any, serializer.dumps_any
    if session.local.writable:
        if not session.remote.offline:
            check_public_side(session.local, session.remote.root_place, connection)
        if settings.noted_address is not None:
            note_connection(session.journal, settings.noted_address)
        note_type(session.journal, session.type)
    return serializer
