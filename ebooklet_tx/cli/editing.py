"""The commands that change a database on this machine: `put`, `rm`, `resolve` and `discard`.

Have no logic of their own, as the other commands. The invariant: what they do is committed here, all of it or
nothing, and published by `push` alone.
"""

from __future__ import annotations

import argparse
from typing import Any

import ebooklet_tx
from ebooklet_tx.cli.sessions import check_there, edit, opened, serializer_name
from ebooklet_tx.cli.shared import DONE, NEEDS_DECISION, add_command, add_remote, complain, print_json
from ebooklet_tx.cli.terminal import on_terminal, read_bytes
from ebooklet_tx.cli.values import encoded
from ebooklet_tx.cli.wording import typed
from ebooklet_tx.html_tables import counted
from ebooklet_tx.timestamps import as_datetime

_PUT_HELP = """\
The value comes from FILE, or from stdin where there is none or it is `-`. What `get`
prints can be given back: bytes as they are, text as it is (also the line's end that
`echo` adds; `printf` adds none), JSON for the serializers that store JSON or numbers.

The change is committed on this machine; `push` publishes it.
"""

_RM_HELP = """\
All of the keys are deleted, or none where one of them is not there. The change is
committed on this machine; `push` publishes it.
"""

_RESOLVE_HELP = """\
A key is in conflict when it was changed here and by another writer. Without KEY it lists
the conflicts: when each version was written, and by whom. `get` shows the values, with
--theirs the other writer's.

  --ours    keeps this machine's version: the next push puts it on top
  --theirs  takes the other writer's version; the change made here is dropped
  --newest  takes the version with the later timestamp

To keep a third value, `put` it, and then resolve with --ours.
"""

_CHOICES = {
    "ours": "keep this machine's version",
    "theirs": "take the other writer's version",
    "newest": "take the version with the later timestamp",
}

_DISCARD_HELP = """\
The keys show the remote's values again, and what was written here is lost. `diff` shows
what is pending.
"""


def add_editing_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `put`, `rm`, `resolve` and `discard` to the command line."""
    put = add_command(
        commands,
        "put",
        _put,
        "set a key, on this machine until the next push",
        details=_PUT_HELP,
        example="put stations.blt ashburton value.json",
    )
    put.add_argument("key", metavar="KEY", help="the key")
    put.add_argument("file", metavar="FILE", nargs="?", default="-", help="what holds the value (default: stdin)")
    put.add_argument(
        "--raw", action="store_true", help="what is given are the encoded bytes, to be stored as such"
    )
    put.add_argument(
        "--allow-pickle", action="store_true", help="in a database of pickles: pickle what JSON says"
    )
    add_remote(put)
    remove = add_command(
        commands,
        "rm",
        _rm,
        "delete keys, on this machine until the next push",
        details=_RM_HELP,
        example="rm stations.blt rakaia selwyn",
    )
    remove.add_argument("keys", metavar="KEY", nargs="+", help="a key")
    add_remote(remove)
    _add_settling(commands)


def _add_settling(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    resolve = add_command(
        commands,
        "resolve",
        _resolve,
        "list the conflicts, or settle them",
        details=_RESOLVE_HELP,
        example="resolve stations.blt ashburton --theirs",
    )
    resolve.add_argument("keys", metavar="KEY", nargs="*", help="a key in conflict")
    resolve.add_argument("--all", action="store_true", help="settle every conflict")
    choices = resolve.add_mutually_exclusive_group()
    for name, what in _CHOICES.items():
        choices.add_argument(f"--{name}", dest="choice", action="store_const", const=name, help=what)
    add_remote(resolve)
    discard = add_command(
        commands,
        "discard",
        _discard,
        "drop changes that are not pushed",
        details=_DISCARD_HELP,
        example="discard stations.blt ashburton",
    )
    discard.add_argument("keys", metavar="KEY", nargs="*", help="a key that was set or deleted here")
    discard.add_argument("--all", action="store_true", help="drop every change")
    add_remote(discard)


def _put(options: argparse.Namespace) -> int:
    check_there(options)
    key, name = options.key, serializer_name(options)
    value = encoded(key, read_bytes(options.file), name, raw=options.raw, allow_pickle=options.allow_pickle)

    def change(database: ebooklet_tx.Database) -> None:
        database.set(key, value, encode_value=False)

    edit(options, change)
    if options.json:
        print_json({"bytes": len(value), "key": key})
    else:
        print(f"set {_named(key)} ({counted(len(value), 'byte')}), to be pushed")
    return DONE


def _rm(options: argparse.Namespace) -> int:
    def change(database: ebooklet_tx.Database) -> None:
        with database.transaction():
            for key in dict.fromkeys(options.keys):
                try:
                    del database[key]
                except KeyError:
                    raise ebooklet_tx.Error(
                        f"there is no key {key!r} in {options.path}; nothing was deleted", key=key
                    ) from None

    edit(options, change)
    if options.json:
        print_json({"deleted": list(dict.fromkeys(options.keys))})
    for key in () if options.json else dict.fromkeys(options.keys):
        print(f"deleted {_named(key)}, to be pushed")
    return DONE


def _resolve(options: argparse.Namespace) -> int:
    if options.choice is None:
        if options.all or options.keys:
            raise ebooklet_tx.InvalidArgumentError("which version? give --ours, --theirs or --newest")
        return _list_conflicts(options)
    if options.all == bool(options.keys):
        raise ebooklet_tx.InvalidArgumentError("which conflicts? name their keys, or give --all")

    def change(database: ebooklet_tx.Database) -> list[str]:
        changes = database.changes()
        keys = options.keys or [conflict.key for conflict in changes.conflicts()]
        try:
            changes.resolve(keys, options.choice)
        except KeyError as error:
            raise ebooklet_tx.Error(
                f"{error.args[0]!r} in {options.path} is not in conflict, so nothing was settled; "
                f"`ebooklet-tx resolve {typed(options.path)}` lists what is, as of the last pull"
            ) from None
        return list(dict.fromkeys(keys))

    keys = edit(options, change)
    if options.json:
        print_json({"choice": options.choice, "resolved": keys})
    for key in () if options.json else keys:
        print(f"settled {_named(key)}: {options.choice}")
    if not (keys or options.json):
        print("no conflicts")
    return DONE


def _list_conflicts(options: argparse.Namespace) -> int:
    with opened(options, "r", offline=True) as database:
        conflicts = database.changes().conflicts()
    sides = [(one, {"ours": one.ours_version, "theirs": one.theirs_version}) for one in conflicts]
    if options.json:
        print_json(
            [
                {"key": one.key, **{name: _side(version) for name, version in versions.items()}}
                for one, versions in sides
            ]
        )
    for one, versions in () if options.json else sides:
        print(_named(one.key))
        for name, version in versions.items():
            print(f"  {name:<6}  {_in_words(version)}")
    if not (sides or options.json):
        print("no conflicts")
    return NEEDS_DECISION if conflicts else DONE


def _side(version: ebooklet_tx.Version) -> dict[str, Any]:
    return {
        "deleted": version.digest is None,
        "digest": None if version.digest is None else version.digest.hex(),
        "timestamp_us": version.timestamp_us,
        "writer": version.writer,
    }


def _in_words(version: ebooklet_tx.Version) -> str:
    when = as_datetime(version.timestamp_us)
    what = "deleted" if version.digest is None else "set"
    at = "" if when is None else f" {when:%Y-%m-%d %H:%M:%S}"
    return f"{what}{at}{'' if version.writer is None else f' by {on_terminal(version.writer)}'}"


def _discard(options: argparse.Namespace) -> int:
    if options.all == bool(options.keys):
        raise ebooklet_tx.InvalidArgumentError("which changes? name their keys, or give --all")
    keys = None if options.all else list(dict.fromkeys(options.keys))
    dropped = edit(options, lambda database: database.changes().discard(keys))
    if options.json:
        print_json({"discarded": dropped})
    else:
        print(f"dropped {counted(dropped, 'change')}")
    if keys is not None and dropped < len(keys):
        complain(f"note: {len(keys) - dropped} of these keys had no change to drop")
    return DONE


def _named(key: str) -> str:
    return on_terminal(key) if key else "the metadata"


__all__ = ["add_editing_commands"]
