"""The commands about snapshots, and about what differs between two states.

Has no logic of its own, as the other commands. The invariant: what a user or another writer has named is escaped
before a terminal gets it.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import ebooklet_tx
from ebooklet_tx.cli.help import Help
from ebooklet_tx.cli.looking import add_looking
from ebooklet_tx.cli.sessions import looking, opened
from ebooklet_tx.cli.shared import (
    DONE,
    NEEDS_DECISION,
    add_command,
    add_remote,
    complain,
    print_json,
    program,
    said,
)
from ebooklet_tx.cli.terminal import on_terminal
from ebooklet_tx.html_tables import counted
from ebooklet_tx.timestamps import as_datetime

_SUMMARIES = {
    "create": "keep the remote's newest commit under a name",
    "list": "show the snapshots, the oldest first",
    "restore": "make the state of a snapshot the remote's newest commit",
    "delete": "delete a snapshot",
}

_EXAMPLES = {
    "create": 'snapshot create stations.blt monday --message "as delivered"',
    "list": "snapshot list stations.blt",
    "restore": "snapshot restore stations.blt monday",
    "delete": "snapshot delete stations.blt monday",
}

_MARKS = {"added": "+", "removed": "-", "changed": "~", "set": "*"}

_SNAPSHOT_HELP = """\
Makes, shows, restores and deletes snapshots.

A snapshot keeps a commit of the remote under a name, until it is deleted: all of its keys
and values can be read and restored. Making one takes three small requests.
"""

_DETAILS = {
    "create": "What is pending in the local file is not in it: push first.",
    "list": "A line for each: its name, when it was made (UTC), the commit, and who made it.",
    "restore": """\
It is one new commit with the keys, values and metadata of the snapshot; no value is sent,
and the history stays. What is pending here stays pending, and conflicts are named.""",
    "delete": "Commits and values that no snapshot and no commit needs any more are freed by `collect`.",
}

_DIFF_HELP = """\
Without A: what is pending in the local file. With A: what was changed from A to the
newest commit. With A and B: from A to B. Each is the name of a snapshot, or the number or
id of a commit as `log` shows them.

  +  added      -  removed      ~  changed
  *  set: added or changed, as A is a commit whose state is not kept
"""


def add_snapshot_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `snapshot` and `diff` to the command line."""
    snapshot = commands.add_parser(
        "snapshot",
        help="make, show, restore or delete snapshots",
        description=_SNAPSHOT_HELP,
        epilog=f"example:\n  {program()} {_EXAMPLES['create']}",
        formatter_class=Help,
    )
    actions = snapshot.add_subparsers(title="actions", metavar="ACTION", required=True)
    run: dict[str, Callable[[argparse.Namespace], int]] = {
        "create": _create,
        "list": _list,
        "restore": _restore,
        "delete": _delete,
    }
    for name, command in run.items():
        parser = add_command(
            actions, name, command, _SUMMARIES[name], details=_DETAILS[name], example=_EXAMPLES[name]
        )
        if name != "list":
            parser.add_argument("name", metavar="NAME", help="the snapshot's name")
        add_remote(parser, lock_timeout=name != "list")
        if name in ("create", "restore"):
            parser.add_argument("--message", default="", metavar="TEXT", help="what is said of it")
    diff = add_command(
        commands,
        "diff",
        _diff,
        "show what is pending, or what differs between two commits or snapshots",
        details=_DIFF_HELP,
        example="diff stations.blt monday",
    )
    diff.add_argument("one", nargs="?", metavar="A", help="a commit or snapshot to compare from")
    diff.add_argument("other", nargs="?", metavar="B", help="one to compare with (default: the newest commit)")
    add_looking(diff)


def _create(options: argparse.Namespace) -> int:
    with opened(options, "w") as database, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ebooklet_tx.NotPushedWarning)
        made = database.snapshot(options.name, message=options.message)
    for warning in caught:
        complain(f"note: {warning.message}")
    if options.json:
        print_json(made.to_dict())
    else:
        print(f"kept commit {made.seq} ({counted(made.key_count, 'key')}) as {made.name}")
    return DONE


def _list(options: argparse.Namespace) -> int:
    with opened(options, "r") as database:
        found = database.snapshots()
    if options.json:
        print_json([each.to_dict() for each in found])
    width = max((len(each.name) for each in found), default=0)
    for each in () if options.json else found:
        when = as_datetime(each.created_at_us)
        print(
            f"{on_terminal(each.name):<{width}}  {when:%Y-%m-%d %H:%M:%S}  commit {each.seq}, "
            f"{counted(each.key_count, 'key')}  {on_terminal(each.writer)}{said(each.message)}"
        )
    return DONE


def _restore(options: argparse.Namespace) -> int:
    with opened(options, "w") as database:
        result = database.restore(options.name, message=options.message)
    if options.json:
        print_json(result.to_dict())
    elif result:
        print(f"commit {result.seq} has the {counted(result.key_count, 'key')} of {result.snapshot}")
    else:
        print(f"nothing to restore: commit {result.seq} has the keys and values of {result.snapshot}")
    for key in () if options.json else result.conflicts:
        print(f"CONFLICT: {key!r} is pending here and was restored")
    return NEEDS_DECISION if result.conflicts else DONE


def _delete(options: argparse.Namespace) -> int:
    with opened(options, "w") as database:
        database.delete_snapshot(options.name)
    if options.json:
        print_json({"deleted": options.name})
    else:
        print(f"deleted the snapshot {options.name}")
    return DONE


def _diff(options: argparse.Namespace) -> int:
    with looking(options, quiet=True) as database:
        changes = database.diff(_which(options.one), _which(options.other))
        if options.json:
            print_json([{"key": key, "kind": kind} for key, kind in changes])
            return DONE
        for key, kind in changes:
            print(_MARKS[kind], on_terminal(key))
    return DONE


def _which(text: str | None) -> Any:
    """Returns what `diff` takes: digits are a commit's number."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


__all__ = ["add_snapshot_commands"]
