"""What an import is asked for, held against what the source is."""

from __future__ import annotations

import contextlib
from typing import Any

from ebooklet_tx.connection import Connection, DirectoryConnection
from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError
from ebooklet_tx.importing.report import ImportReport
from ebooklet_tx.importing.source_root import SourceRoot
from ebooklet_tx.stores.http import HTTPStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import remote_at
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.values.serializers import CUSTOM, Undecoded, resolve, same_serializer, stored_name


def source_at(place: Connection, retry: RetryPolicy | None) -> Remote:
    """Returns the remote of a source; nothing is sent yet.

    Raises:
        InvalidArgumentError: It is a folder, which can't hold a root and, below the same name, the values.
    """
    if isinstance(place, DirectoryConnection):
        raise InvalidArgumentError(
            f"the source {place.url} is a folder, and what ebooklet stores is in none: name a bucket, or a web "
            "server"
        )
    remote = remote_at(place, retry=retry)
    store = getattr(remote.store, "inner", None)
    if isinstance(store, HTTPStore):
        store.suffix_starts = "./"
    return remote


def check_apart(source: Remote, target_place: Connection) -> None:
    """Refuses a target whose objects could be taken for the source's, or the other way round."""
    target = remote_at(target_place)
    with contextlib.closing(target.store):
        same_store = target.store.location == source.store.location
    if same_store and f"{target.names.root}/".startswith(f"{source.names.root}/"):
        raise InvalidArgumentError(
            f"the target {target.root_place} lies where ebooklet keeps its values; give it a key of its own, "
            f"such as {source.names.root + '_tx'!r}; nothing was imported"
        )


def serializer_of(root: SourceRoot, given: Any) -> Any:
    """Returns what the target is opened with."""
    named = resolve(given).name
    if root.serializer_code is None:
        return given
    try:
        stored = stored_name(root.serializer_code, root.name)
    except InvalidArgumentError as error:
        if named == "bytes":
            return given
        raise InvalidArgumentError(
            f"{error}; or give value_serializer='bytes' to take the encoded values over as bytes; nothing was "
            "imported"
        ) from error
    if stored == CUSTOM and given is None:
        # They are copied, and never decoded.
        return Undecoded
    if given is not None and not same_serializer(named, stored):
        raise InvalidArgumentError(
            f"value_serializer {named!r} was given, but the values of {root.name} are of the serializer "
            f"{stored!r}; leave value_serializer out; nothing was imported"
        )
    return stored if given is None else given


def check_complete(root: SourceRoot, report: ImportReport) -> None:
    """Raises where values of the source are missing."""
    if not report.missing_keys:
        return
    key, why = next(iter(report.missing.items()))
    raise RemoteIntegrityError(
        f"{report.missing_keys} of the {report.key_count} values of {root.name} are missing or damaged, the "
        f"first of them {key!r}: {why}. All others are in the target. Put the objects back and run the import "
        "again, or give accept_missing=True (--accept-missing) to go on without them",
        key=key,
    )


__all__ = ["check_apart", "check_complete", "serializer_of", "source_at"]
