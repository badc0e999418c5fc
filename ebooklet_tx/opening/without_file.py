"""Opening a database for reading without a local file.

The invariant: nothing is written anywhere, and what can't be had without a file is refused before any request.
"""

from __future__ import annotations

from typing import Any

from ebooklet_tx.connection import Connection
from ebooklet_tx.database.remote_reader import RemoteReader
from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.group import reading_entries
from ebooklet_tx.progress import ProgressOption, Reporter
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import remote_at
from ebooklet_tx.sync.read.newest import NewestReader
from ebooklet_tx.values.pickle_policy import check_pickle, is_pickling, warn_of_pickle
from ebooklet_tx.values.serializers import CUSTOM, named_serializer, resolve, same_serializer


def open_reader(
    connection: Connection,
    *,
    flag: str,
    offline: bool | str,
    value_serializer: Any,
    pickle_allowed: bool | None,
    retry: RetryPolicy | None,
    progress: ProgressOption = None,
) -> RemoteReader:
    """Opens a reader of the newest commit; one request.

    Raises:
        InvalidArgumentError: The flag or `offline` need a file, or another serializer was named than the stored.
        RemoteMissingError: There is no database.
        PickleRefusedError: The values are pickled, and pickle is refused.
    """
    if flag != "r" or offline is True:
        raise InvalidArgumentError(
            "without a file_path a database can only be read, and from the remote: give the path of a local file "
            "to write, or to work offline",
            operation="open",
        )
    named = named_serializer(value_serializer)
    remote = remote_at(connection, retry=retry)
    remote.reporter = Reporter(progress)
    try:
        reader = NewestReader(remote)
        manifest = reader.view.manifest
        stored = manifest.value_serializer
        if (stored == CUSTOM) != (named == CUSTOM) or (named and not same_serializer(named, stored)):
            raise InvalidArgumentError(
                f"the values of {connection.url} are of the serializer {stored!r}, and value_serializer is "
                f"{named!r}; leave it out, name that one, or give the class where it is {CUSTOM!r}",
                operation="open",
            )
        check_pickle(stored, connection.url, allowed=pickle_allowed)
        if not (pickle_allowed is True or is_pickling(named)):
            warn_of_pickle(stored, connection.url, stacklevel=4)
        serializer = resolve(value_serializer if stored == CUSTOM else stored)
        if manifest.type == "group":
            serializer = reading_entries(serializer, connection)
        return RemoteReader(reader, serializer, connection.url, remote.store.close)
    except BaseException:
        remote.store.close()
        raise


__all__ = ["open_reader"]
