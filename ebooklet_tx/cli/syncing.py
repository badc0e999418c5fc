"""The commands that publish what is pending here, and bring here what other writers have published.

Have no logic of their own, as the other commands.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

import ebooklet_tx
from ebooklet_tx.cli.shared import (
    DONE,
    NEEDS_DECISION,
    add_command,
    add_remote,
    needed_remote,
    print_json,
)


def add_sync_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `push` and `pull` to the command line."""
    push = add_command(
        commands,
        "push",
        _push,
        "publish the pending changes",
        example='push stations.blt --message "gauge 7 recalibrated"',
    )
    add_remote(push)
    push.add_argument("--force", action="store_true", help="put this side on top of conflicts")
    push.add_argument("--message", default="", metavar="TEXT", help="what the history says of the commit")
    add_remote(
        add_command(commands, "pull", _pull, "apply what other writers have pushed", example="pull stations.blt")
    )


def _push(options: argparse.Namespace) -> int:
    with _opened(options) as database:
        result = database.changes().push(force_push=options.force, message=options.message)
    if options.json:
        print_json(asdict(result))
    elif result:
        print(f"pushed commit {result.seq}: {result.set_count} sets, {result.deleted_count} deletes")
    else:
        print(f"nothing to push; the remote stands at commit {result.seq}")
    return DONE


def _pull(options: argparse.Namespace) -> int:
    with _opened(options) as database:
        result = database.changes().pull()
        conflicts = [conflict.key for conflict in database.changes().conflicts()]
    if options.json:
        print_json({**asdict(result), "conflicts": conflicts})
    else:
        print(f"this machine stands at commit {result.seq}")
        for key in conflicts:
            print(f"CONFLICT: {key!r} was changed here and by another writer")
    return NEEDS_DECISION if conflicts else DONE


def _opened(options: argparse.Namespace) -> ebooklet_tx.Database:
    return ebooklet_tx.open(needed_remote(options), options.path, "w", lock_timeout=options.lock_timeout)


__all__ = ["add_sync_commands"]
