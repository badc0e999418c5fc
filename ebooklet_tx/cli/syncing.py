"""The commands that publish what is pending here, and bring here what other writers have published.

Have no logic of their own, as the other commands.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import ebooklet_tx
from ebooklet_tx.cli.importing import default_path
from ebooklet_tx.cli.sessions import check_there, opened
from ebooklet_tx.cli.shared import (
    DONE,
    NEEDS_DECISION,
    PLACE_OPTIONS,
    add_command,
    add_place,
    add_remote,
    bars,
    complain,
    local_file,
    needed_remote,
    print_json,
    url_with,
)
from ebooklet_tx.cli.wording import typed
from ebooklet_tx.connection import parse_connection
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.files.own_files import local_path
from ebooklet_tx.maintenance.reports import some_of
from ebooklet_tx.sync.commit.preview import PushPreview, preview
from ebooklet_tx.sync.connecting import only_readable, remote_at
from ebooklet_tx.values.serializers import Undecoded

_CLONE_HELP = """\
Values are fetched when they are read, and kept; --load fetches all of them now, so that
everything works without the remote, and where it is interrupted, `pull --load` goes on.
The copy remembers where the remote is.

URL is s3://bucket/key, file:///folder/name, or the public https://... address of a
database, which can't be pushed to.
"""

_PUSH_HELP = """\
Other writers see all of the commit or nothing of it. Where another writer has changed
some of the same keys, nothing is pushed, and the keys are named: settle them with
`resolve`, and push again.
"""

_PULL_HELP = """\
What is pending here stays pending. Keys that were changed here and by another writer are
listed; `resolve` settles them.
"""


def add_sync_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `clone`, `push` and `pull` to the command line."""
    clone = add_command(
        commands,
        "clone",
        _clone,
        "make a local copy of a database in a remote",
        details=_CLONE_HELP,
        example="clone s3://my-bucket/stations.blt",
        takes_path=False,
    )
    clone.add_argument("url", metavar="URL", help="where the database is")
    clone.add_argument(
        "path",
        type=local_file,
        metavar="PATH",
        nargs="?",
        help="the local file, or its folder (default: the last part of URL, here)",
    )
    clone.add_argument("--load", action="store_true", help="fetch every value now")
    add_place(clone)
    push = add_command(
        commands,
        "push",
        _push,
        "publish the pending changes as one commit",
        details=_PUSH_HELP,
        example='push stations.blt --message "gauge 7 recalibrated"',
    )
    add_remote(push)
    push.add_argument(
        "--on-conflict",
        choices=("raise", "ours", "theirs", "newest"),
        default="raise",
        help="what becomes of keys that another writer changed, too (default raise: nothing is pushed)",
    )
    push.add_argument(
        "--force", action="store_true", help="put this side on top, also where the remote has vanished"
    )
    push.add_argument("--dry-run", action="store_true", help="only tell what would be pushed")
    push.add_argument("--message", default="", metavar="TEXT", help="what the history says of the commit")
    pull = add_command(
        commands,
        "pull",
        _pull,
        "apply what other writers have pushed",
        details=_PULL_HELP,
        example="pull stations.blt --load",
    )
    add_remote(pull)
    pull.add_argument("--load", action="store_true", help="fetch every value that is not on this machine")


def _clone(options: argparse.Namespace) -> int:
    url = url_with(options.url, {name: getattr(options, name) for name in PLACE_OPTIONS})
    path = options.path or default_path(options.url)
    if path.is_dir():
        path /= default_path(options.url)
    if size_of(local_path(path)) is not None:
        with contextlib.closing(ValueFile.open(local_path(path), writable=False)):
            # Raised where it is no Booklet, which a pull can't bring up to date.
            raise ebooklet_tx.InvalidArgumentError(
                f"{path} is there already; `ebooklet-tx pull {typed(path)}{' --load' * options.load}` brings it "
                "up to date, another PATH makes a copy"
            )
    with _cloned(url, path) as database:
        keys, seq = len(database), sum(record.seq for record in database.history(1))
        failures = database.load_items() if options.load else {}
    if options.json:
        print_json({"failures": failures, "file": str(path), "keys": keys, "seq": seq})
    else:
        loaded = ", all values loaded" if _all(options, failures) else ""
        print(f"{path} is a copy of commit {seq}: {counted(keys, 'key')}{loaded}")
    return _told(failures)


def _cloned(url: str, path: Path) -> ebooklet_tx.Database:
    """Opens a new copy, also of a database whose values have a serializer of the user's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ebooklet_tx.PickleWarning)
        try:
            return ebooklet_tx.open(url, path, "r", progress=bars())
        except ebooklet_tx.InvalidArgumentError as error:
            try:
                return ebooklet_tx.open(url, path, "r", Undecoded, progress=bars())
            except ebooklet_tx.InvalidArgumentError:
                raise error from None


def _all(options: argparse.Namespace, failures: Mapping[str, str]) -> bool:
    return options.load and not failures


def _told(failures: Mapping[str, str]) -> int:
    """Names the values that could not be fetched; returns the exit code."""
    for key, reason in failures.items():
        complain(f"NOT LOADED: {key!r}: {reason}")
    return NEEDS_DECISION if failures else DONE


def _push(options: argparse.Namespace) -> int:
    if options.dry_run:
        return _preview(options)
    try:
        # "c" lets a remote that has vanished be made again; there is a local file all the same.
        with opened(options, "c" if options.force else "w", lock="exclusive") as database:
            result = database.changes().push(
                force_push=options.force, on_conflict=options.on_conflict, message=options.message
            )
    except ebooklet_tx.ConflictError as error:
        complain(_conflicts(error, options.path))
        return NEEDS_DECISION
    if options.json:
        print_json(asdict(result))
    elif result:
        sets, deletes = counted(result.set_count, "set"), counted(result.deleted_count, "delete")
        print(f"pushed commit {result.seq}: {sets}, {deletes}")
    else:
        print(f"nothing to push; the remote stands at commit {result.seq}")
    return DONE


def _conflicts(error: ebooklet_tx.ConflictError, path: Path) -> str:
    keys = [conflict.key for conflict in error.conflicts]
    one = len(keys) == 1 and error.complete
    named = f"{keys[0]!r} was" if one else f"{counted(len(keys), 'key')} ({some_of(keys)}) were"
    return (
        f"{'' if error.complete else 'at least '}{named} changed here and by another writer, so nothing was "
        f"pushed; `ebooklet-tx resolve {typed(path)}` shows both versions, and settles them"
    )


def _preview(options: argparse.Namespace) -> int:
    """Tells what a push would do; the exit code is that of the push."""
    with opened(options, "r", offline=True) as database:
        remote = remote_at(parse_connection(needed_remote(options)))
        with contextlib.closing(remote.store):
            found = preview(database._session.journal, remote, uuid=database.uuid)
    settled = options.force or options.on_conflict != "raise"
    if options.json:
        print_json(found.to_dict())
    elif found.set_count or found.deleted_count or found.replaces_remote:
        sets, deletes = counted(found.set_count, "set"), counted(found.deleted_count, "delete")
        print(f"would push {sets} and {deletes}, {counted(found.value_bytes, 'byte')}, {_on_top_of(found)}")
    else:
        print(f"nothing to push, {_on_top_of(found)}")
    for key in () if options.json else found.conflicts:
        print(f"CONFLICT: {key!r} was changed here and by another writer")
    return NEEDS_DECISION if found.conflicts and not settled else DONE


def _on_top_of(found: PushPreview) -> str:
    if found.remote_seq is None:
        return "as a new database"
    word = "in place of" if found.replaces_remote else "on top of"
    behind = "" if found.remote_seq == found.base_seq else f" (this machine stands at commit {found.base_seq})"
    return f"{word} commit {found.remote_seq}{behind}"


def _pull(options: argparse.Namespace) -> int:
    check_there(options)
    flag: Literal["r", "w"] = "r" if only_readable(parse_connection(needed_remote(options))) else "w"
    with opened(options, flag) as database:
        result = database.changes().pull()
        conflicts = [conflict.key for conflict in database.changes().conflicts()]
        failures = database.load_items() if options.load else {}
    if options.json:
        print_json({**asdict(result), "conflicts": conflicts, "load_failures": failures})
    else:
        print(f"this machine stands at commit {result.seq}{', all values loaded' * _all(options, failures)}")
        for key in conflicts:
            print(f"CONFLICT: {key!r} was changed here and by another writer")
        if conflicts:
            print(f"`ebooklet-tx resolve {typed(options.path)}` shows both versions, and settles them")
    return _told(failures) or (NEEDS_DECISION if conflicts else DONE)


__all__ = ["add_sync_commands"]
