"""The command `stats`: the bytes of a database by kind, on this machine and in the remote, and which are dead.

The invariant: nothing is changed; what the remote holds is told from its listing and its index, and no value is
read.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable
from typing import Any

import ebooklet_tx
from ebooklet_tx.cli.shared import DONE, add_command, add_remote, needed_remote, print_json
from ebooklet_tx.connection import parse_connection
from ebooklet_tx.html_tables import counted
from ebooklet_tx.maintenance.inventory import SNAPSHOT, Inventory, take_inventory
from ebooklet_tx.maintenance.reports import Status
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.connecting import only_readable, remote_at

_HELP = """\
Of the local file: its size and the dead part, which `prune` frees; the journal; what is
pending. Of the remote, by kind of object: how many, their bytes, and how many of them are
dead. `compact` rewrites packs that hold dead values, and `collect` deletes objects that
nothing names. Values that the newest commit has no more may still be those of a snapshot.

It lists the remote's objects and reads its whole index. --local asks for the local part alone.
"""

_KINDS = ("root", "packs", "index", "history", "snapshots", "garbage", "other")


def add_stats_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `stats` to the command line."""
    stats = add_command(
        commands,
        "stats",
        _stats,
        "show what takes room, here and in the remote, and how much of it is dead",
        details=_HELP,
        example="stats stations.blt",
    )
    stats.add_argument("--local", action="store_true", help="leave the remote out; no request is sent")
    add_remote(stats, lock_timeout=False)


def _stats(options: argparse.Namespace) -> int:
    local = _local(ebooklet_tx.status(options.path))
    remote = None if options.local else _remote(needed_remote(options))
    if options.json:
        print_json({"local": local, "remote": remote})
        return DONE
    print(options.path)
    print(f"  file      {_size(local['file_bytes'])}{_dead(local['dead_bytes'], local['file_bytes'])}")
    print(f"  journal   {_size(local['journal_bytes'])}")
    print(f"  pending   {_size(local['pending_bytes'])}  {counted(local['pending_keys'], 'key')} to be pushed")
    if remote is not None:
        print(remote["url"])
        for kind in _KINDS:
            found = remote[kind]
            if found["objects"]:
                but = " but for snapshots" if kind == "packs" and remote["snapshots"]["objects"] else ""
                dead = _dead(found.get("dead_bytes"), found["bytes"], but)
                print(f"  {kind:<9} {_size(found['bytes'])}  {counted(found['objects'], 'object')}{dead}")
    return DONE


def _size(count: int) -> str:
    return f"{count:>15,} bytes"


def _dead(dead_bytes: int | None, count: int, but: str = "") -> str:
    if dead_bytes is None or not count:
        return ""
    return f", {dead_bytes:,} of them dead{but} ({100 * dead_bytes / count:.1f}%)"


def _local(status: Status) -> dict[str, Any]:
    return {
        "file_bytes": status.file_bytes,
        "dead_bytes": status.dead_bytes,
        "journal_bytes": status.journal_bytes,
        "staged_bytes": status.staged_bytes,
        "pending_bytes": status.pending_bytes,
        "pending_keys": status.pending_sets + status.pending_deletes,
    }


def _remote(source: Any) -> dict[str, Any]:
    """Returns what lies in the remote, by kind."""
    connection = parse_connection(source)
    if only_readable(connection):
        raise ebooklet_tx.ReadOnlyError(
            f"{connection.url} is a public address, whose objects can't be listed; --local leaves it out"
        )
    remote = remote_at(connection)
    with contextlib.closing(remote.store), take_inventory(remote) as found:
        if found.fetched is None:
            raise ebooklet_tx.RemoteMissingError(f"there is no database {remote.root_place}")
        return {"url": connection.url, "seq": found.fetched.manifest.seq, **_by_kind(found)}


def _by_kind(found: Inventory) -> dict[str, dict[str, int]]:
    dead = {} if found.obstacles else found.dead()
    own = {name: stored for name, stored in found.listing.own.items() if name not in dead}
    live_bytes = {pack.ref.name: min(pack.live_bytes, pack.ref.size_bytes) for pack in found.packs}
    # What only a snapshot names is not dead, and how much of it is live is not looked up.
    packs = [(stored, live_bytes.get(name)) for name, stored in own.items() if name.startswith("pack/")]
    dead_bytes = sum(stored.size_bytes - live for stored, live in packs if live is not None)
    root_bytes = len(found.fetched.data) if found.fetched is not None else 0
    return {
        "root": {"objects": 1, "bytes": root_bytes},
        "packs": _tally(stored for stored, _ in packs) | {"dead_bytes": max(0, dead_bytes)},
        "index": _tally(stored for name, stored in own.items() if name.startswith("index/")),
        "history": _tally(stored for name, stored in own.items() if name.startswith("history/")),
        "snapshots": _tally(stored for name, stored in own.items() if name.startswith(SNAPSHOT)),
        "garbage": (garbage := _tally(dead.values())) | {"dead_bytes": garbage["bytes"]},
        "other": _tally([*found.listing.notes.values(), *found.listing.strange]),
    }


def _tally(found: Iterable[StoredObject]) -> dict[str, int]:
    sizes = [stored.size_bytes for stored in found]
    return {"objects": len(sizes), "bytes": sum(sizes)}


__all__ = ["add_stats_command"]
