"""The commands that change a database on this machine: `put`, `rm`, `resolve` and `discard`.

Have no logic of their own, as the other commands. The invariant: what they do is committed here, all of it or
nothing, and published by `push` alone.
"""

from __future__ import annotations

import argparse

import ebooklet_tx
from ebooklet_tx.cli.sessions import check_there, edit, serializer_name
from ebooklet_tx.cli.shared import DONE, add_command, add_remote, print_json
from ebooklet_tx.cli.terminal import on_terminal, read_bytes
from ebooklet_tx.cli.values import encoded

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
A key is in conflict when it was changed here and by another writer. Without KEY, lists the conflicts:
when and by whom each version was written. `get` shows the values, with --theirs the other writer's.

  --ours    keeps this machine's version; the next push puts it on top of the other
  --theirs  takes the other writer's version; the change made here is dropped
  --newest  takes the version with the later timestamp

To keep a third value, `put` it, and then resolve with --ours.
"""

_DISCARD_HELP = """\
The keys show the remote's values again, and what was written here is lost. `diff` shows what is pending.
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
        print(f"set {_named(key)} ({len(value):,} bytes), to be pushed")
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


def _named(key: str) -> str:
    return on_terminal(key) if key else "the metadata"


__all__ = ["add_editing_commands"]
