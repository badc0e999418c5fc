"""The commands that look into a database: how it stands, its history, its keys and its values.

Have no logic of their own, as the other commands. The invariant: what is pending here stays as it is, and nothing
is published.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import ebooklet_tx
from ebooklet_tx.cli.sessions import looking, serializer_name
from ebooklet_tx.cli.shared import (
    DONE,
    NEEDS_DECISION,
    add_command,
    add_remote,
    number_in,
    print_json,
    said,
    show,
)
from ebooklet_tx.cli.terminal import on_terminal, print_bytes, print_json_list
from ebooklet_tx.cli.values import shown
from ebooklet_tx.cli.wording import typed
from ebooklet_tx.local.journal.entries import PENDING_NONE, Entry
from ebooklet_tx.maintenance.status import history
from ebooklet_tx.sync.pull.conflicts import read_side
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.sync.read.visible_keys import key_pages
from ebooklet_tx.timestamps import as_datetime

_STATUS_HELP = """\
No request is sent, and nothing is changed:

  base        the commit of the remote on which the local file stands
  pending     what was changed here, and the next push publishes
  unresolved  a push that was interrupted: `recover` settles it
  conflicts   keys changed here and by another writer: `resolve` shows them
  to repair   what the next command that opens the file puts right, or `recover`
"""

_LOG_HELP = """\
A line for each, the newest first: its number, when it was made (UTC), its id, how many
keys it set (+) and deleted (-), the bytes of their values, who made it, and its message.
`pull` brings what is newer.
"""

_LS_HELP = """\
Shows the newest commit, with what is pending in the local file on top. Without -l it
prints the keys alone, one a line. On a terminal, control characters in keys are escaped;
a pipe gets keys as they are, and -0 keeps keys apart that hold line breaks.

With -l: the bytes of each value, when it was set (UTC), and where it is:
  here     on this machine, as in the remote
  remote   in the remote alone; `get` fetches it
  pending  set on this machine, and not pushed yet
"""

_GET_HELP = """\
Prints the value alone: bytes as they are, text as it is, and JSON for the serializers
that store JSON or numbers. A pickled value is shown with --allow-pickle only, as
unpickling runs code that its writer chose.

Of a key in conflict this shows the version of this machine; --theirs shows the other
writer's, --base what both began from.
"""


def add_looking_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `status`, `ls`, `get` and `log` to the command line."""
    add_command(
        commands,
        "status",
        _status,
        "show what is pending, the base commit, and what is to be repaired",
        details=_STATUS_HELP,
        example="status stations.blt",
    )
    keys = add_command(
        commands,
        "ls",
        _ls,
        "list the keys, or those that begin with PREFIX",
        details=_LS_HELP,
        example="ls stations.blt river/ -l",
    )
    keys.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="what the keys begin with")
    keys.add_argument("-l", "--long", action="store_true", help="with size, time, and where the value is")
    keys.add_argument("-0", "--null", action="store_true", help="end each line with a zero byte, for xargs -0")
    _add_at(keys)
    add_looking(keys)
    value = add_command(
        commands,
        "get",
        _get,
        "print the value of a key",
        details=_GET_HELP,
        example="get stations.blt ashburton",
    )
    value.add_argument("key", metavar="KEY", help="the key")
    value.add_argument("--raw", action="store_true", help="print the bytes as the serializer has encoded them")
    value.add_argument("--allow-pickle", action="store_true", help="unpickle the value: its writer is trusted")
    sides = value.add_mutually_exclusive_group()
    sides.add_argument("--theirs", action="store_true", help="of a conflict: the other writer's value")
    sides.add_argument("--base", action="store_true", help="of a conflict: the value that both have changed")
    _add_at(value)
    add_looking(value)
    log = add_command(
        commands,
        "log",
        _log,
        "show the newest commits that this machine has heard of",
        details=_LOG_HELP,
        example="log stations.blt --limit 5",
    )
    log.add_argument("--limit", type=number_in(int, 1), metavar="N", default=20, help="how many (default 20)")


def _add_at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", metavar="SNAPSHOT", help="show what a snapshot keeps, not the newest commit")


def add_looking(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a command that looks into a database by `sessions.looking`."""
    parser.add_argument("--offline", action="store_true", help="show what was pulled last, without any request")
    add_remote(parser, lock_timeout=False)


def _status(options: argparse.Namespace) -> int:
    report = ebooklet_tx.status(options.path)
    show(report, options)
    return NEEDS_DECISION if report.needs_decision else DONE


def _log(options: argparse.Namespace) -> int:
    records = history(options.path, options.limit)
    if options.json:
        print_json([asdict(record) for record in records])
    for record in () if options.json else records:
        when = as_datetime(record.committed_at_us)
        print(
            f"{record.seq:>8}  {when:%Y-%m-%d %H:%M:%S}  {record.commit_id}  "
            f"+{record.set_count} -{record.deleted_count}  {record.value_bytes:,} bytes  "
            f"{on_terminal(record.writer)}{said(record.message)}"
        )
    return DONE


# -- keys --------------------------------------------------------------------------------------


def _ls(options: argparse.Namespace) -> int:
    with looking(options, quiet=True) as database:
        rows = _entries(database, options.prefix) if options.long else _keys(database, options.prefix)
        if options.json:
            print_json_list(rows)
            return DONE
        end = "\0" if options.null else "\n"
        for row in rows:
            key = row["key"] if options.null else on_terminal(row["key"])
            print(_facts(row) + key if options.long else key, end=end)
    return DONE


def _keys(database: ebooklet_tx.Database, prefix: str) -> Iterator[dict[str, Any]]:
    return ({"key": key} for key in database.keys(prefix))


def _entries(database: ebooklet_tx.Database, prefix: str) -> Iterator[dict[str, Any]]:
    reader = reader_of(database._session)
    for page in key_pages(reader, prefix):
        found = reader.entries(page, in_order=True)
        for key in page:
            if key in found:
                yield _row(found[key])


def _row(entry: Entry) -> dict[str, Any]:
    is_here = entry.local_digest == entry.digest
    state = "pending" if entry.pending != PENDING_NONE else "here" if is_here else "remote"
    return {"key": entry.key, "bytes": entry.length_bytes, "timestamp_us": entry.timestamp_us, "state": state}


def _facts(row: dict[str, Any]) -> str:
    when = as_datetime(row["timestamp_us"])
    return f"{row['bytes']:>13,}  {when:%Y-%m-%d %H:%M:%S}  {row['state']:<7}  "


# -- values ------------------------------------------------------------------------------------


def _get(options: argparse.Namespace) -> int:
    key, name = options.key, None
    with looking(options) as database:
        name = serializer_name(options)
        stamp, data = _encoded(database, options)
    value = shown(key, data, name, raw=options.raw, allow_pickle=options.allow_pickle)
    if options.json:
        print_json(
            {
                "bytes": len(data),
                "form": value.form,
                "key": key,
                "serializer": name,
                "timestamp_us": stamp,
                "value": json.loads(value.data) if value.form == "json" else value.value,
            }
        )
    else:
        print_bytes(value.data, f"the value of key {key!r}")
    return DONE


def _encoded(database: ebooklet_tx.Database, options: argparse.Namespace) -> tuple[int | None, bytes]:
    """Returns the timestamp and the encoded bytes of the version that is asked for."""
    key = options.key
    if not (options.theirs or options.base):
        found = database.get_timestamp(key, include_value=True, decode_value=False)
        if found is None:
            raise ebooklet_tx.Error(f"there is no key {key!r} in {options.path}", key=key)
        stamp, value = found
        return stamp, value
    conflict = next((one for one in database.changes().conflicts() if one.key == key), None)
    if conflict is None:
        raise ebooklet_tx.Error(
            f"{key!r} in {options.path} is not in conflict; "
            f"`ebooklet-tx resolve {typed(options.path)}` lists what is",
            key=key,
        )
    version = conflict.theirs_version if options.theirs else conflict.base_version
    data = read_side(reader_of(database._session), key, "remote" if options.theirs else "base")
    if data is None:
        raise ebooklet_tx.Error(
            f"that version of {key!r} has no value: the key was not there, or is deleted", key=key
        )
    return version.timestamp_us, data


__all__ = ["add_looking", "add_looking_commands"]
