"""Sessions of the command line: a database that is there, opened with what the arguments say.

The invariant: no command but `clone` makes a local file, and none changes which remote a local file remembers.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import ebooklet_tx
from ebooklet_tx.cli.shared import bars, complain, needed_remote, remembers_remote
from ebooklet_tx.cli.wording import typed
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.files.own_files import PUT_BACK, local_path
from ebooklet_tx.local.journal.journal import journal_path
from ebooklet_tx.stores.deadline import patience
from ebooklet_tx.sync.look_up import know_pending
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.values.serializers import CUSTOM, Undecoded, stored_name

UNREACHABLE_SECONDS = 5.0
"""How long a command that only looks tries to connect to a store before it shows what is on this machine."""

_Result = TypeVar("_Result")


def check_there(options: argparse.Namespace) -> None:
    """Makes sure that the local file exists, so that no command makes one by a slip of the pen.

    Raises:
        LocalMissingError: It does not.
    """
    path = local_path(options.path)
    if size_of(path) is None and size_of(journal_path(path)):
        raise ebooklet_tx.LocalMissingError(2, f"{options.path} does not exist; {PUT_BACK}", path=path)
    if size_of(path) is None:
        raise ebooklet_tx.LocalMissingError(
            2,
            f"{options.path} does not exist; "
            f"`ebooklet-tx clone URL {typed(options.path)}` makes a copy of a remote",
        )


@contextlib.contextmanager
def opened(
    options: argparse.Namespace,
    flag: Literal["r", "w", "c"],
    *,
    lock: Literal["exclusive"] | None = None,
    offline: bool = False,
    quiet: bool = False,
) -> Iterator[ebooklet_tx.Database]:
    """Opens the database that the arguments name.

    Args:
        options: The arguments.
        flag: As `open` takes it.
        lock: The same.
        offline: The same.
        quiet: Whether no bar is shown, as what is printed comes piece by piece.
    """
    check_there(options)
    trusted = True if getattr(options, "allow_pickle", False) else None
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            # No command decodes a pickled value unless it was told to.
            warnings.simplefilter("ignore", ebooklet_tx.PickleWarning)
            database = ebooklet_tx.open(
                needed_remote(options),
                options.path,
                flag,
                _stand_in(options),
                lock=lock,
                lock_timeout=getattr(options, "lock_timeout", 10.0),
                offline=offline,
                at=getattr(options, "at", None),
                allow_pickle=trusted,
                remember_remote=remembers_remote(options),
                progress=not quiet and bars(),
            )
        stack.enter_context(database)
        yield database


@contextlib.contextmanager
def looking(options: argparse.Namespace, *, quiet: bool = False) -> Iterator[ebooklet_tx.Database]:
    """Opens a database to look into: at its newest commit, or offline where that is wanted or has to be.

    Args:
        options: The arguments.
        quiet: As in `opened`.
    """
    with contextlib.ExitStack() as stack:
        offline = options.offline
        if not offline:
            try:
                with patience(unreachable_seconds=UNREACHABLE_SECONDS):
                    database = stack.enter_context(opened(options, "r", quiet=quiet))
            except ebooklet_tx.OfflineError as error:
                if getattr(options, "at", None) is not None:
                    raise
                complain(f"note: this is what was pulled last, as the remote can't be reached: {error}")
                offline = True
        if offline:
            database = stack.enter_context(opened(options, "r", offline=True, quiet=quiet))
        yield database


def edit(options: argparse.Namespace, change: Callable[[ebooklet_tx.Database], _Result]) -> _Result:
    """Makes a change on this machine, without the remote; with it where the change can't be made otherwise.

    Args:
        options: The arguments.
        change: Makes all of the change or nothing, and returns what is to be said of it.
    """
    try:
        with opened(options, "w", offline=True) as database:
            result = change(database)
            _look_up_here(database)
            return result
    except ebooklet_tx.OfflineError:
        with opened(options, "w") as database:
            return change(database)


def _look_up_here(database: ebooklet_tx.Database) -> None:
    """Notes what the index at hand says of the keys that were written, so that `status` counts them exactly."""
    database.changes().update()
    reader = reader_of(database._session)
    # The change is made; where a part of the index is not here, the push looks the keys up.
    with contextlib.suppress(ebooklet_tx.Error):
        know_pending(reader.local, reader.base_index, reader.pull)


def serializer_name(options: argparse.Namespace) -> str | None:
    """Returns the name of the serializer of a local file's values; None is bytes."""
    path = local_path(options.path)
    with contextlib.closing(ValueFile.open(path, writable=False)) as file:
        return stored_name(file.header.value_serializer_code, str(path))


def _stand_in(options: argparse.Namespace) -> Any:
    """Returns what `open` needs for values of a serializer that the command line does not have."""
    return Undecoded if serializer_name(options) == CUSTOM else None


__all__ = ["check_there", "edit", "looking", "opened", "serializer_name"]
