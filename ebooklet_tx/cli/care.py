"""The commands that look after a database: repairing it, checking its remote, and freeing what is dead.

Have no logic of their own, as the other commands.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator

import ebooklet_tx
from ebooklet_tx.cli.sessions import check_there, edit, opened
from ebooklet_tx.cli.shared import (
    DONE,
    FAILED,
    NEEDS_DECISION,
    add_command,
    add_lock_timeout,
    add_remote,
    bars,
    named_remote,
    needed_remote,
    number_in,
    print_json,
    remembers_remote,
    show,
)
from ebooklet_tx.cli.terminal import on_terminal
from ebooklet_tx.html_tables import counted
from ebooklet_tx.maintenance.checking import collect, verify

_RECOVER_HELP = """\
After a crash: the local file is made sound, and a push that was cut short is resumed, or
rolled back with --no-resume. What was not being pushed stays pending. It tells what it
did, and what needs a decision; a dry run changes nothing.
"""

_VERIFY_HELP = """\
Reads the root, the whole index and the list of objects, and with --values every value.
With --repair, what is lost or damaged is written anew from what PATH's machine has.
"""

_COLLECT_HELP = """\
An object goes once it has been garbage for the grace period, in which readers of an older
commit may still need it. Snapshots keep what is theirs. It can be stopped, and run beside
readers and writers.
"""

_UNLOCK_HELP = """\
A writer renews its lock all the time. One whose process is gone from this machine, or
that is not renewed for a minute while this command watches, was left behind, and is taken
away. Any other stays, unless --force is given; its holder then finds out at its next
push, with every change still pending.
"""

_COMPACT_HELP = """\
It is a commit of the same values. The old packs stay, for readers of an older commit,
until `collect` deletes them.
"""

_PRUNE_HELP = """\
No request is sent. Values that were replaced or deleted leave the file; with --before
also local copies of pushed values, which are fetched again when they are read. What is
not pushed always stays.
"""


def add_care_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `recover`, `verify`, `compact`, `collect`, `prune` and `unlock` to the command line."""
    _add_recover(commands)
    _add_verify(commands)
    _add_compact(commands)
    _add_collect(commands)
    _add_prune(commands)
    _add_unlock(commands)


def _add_recover(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    recover = add_command(
        commands,
        "recover",
        _recover,
        "repair a local file, and settle an interrupted push",
        details=_RECOVER_HELP,
        example="recover --dry-run stations.blt",
    )
    add_remote(recover)
    recover.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    recover.add_argument(
        "--no-resume", action="store_true", help="roll an interrupted push back instead of resuming it"
    )
    recover.add_argument(
        "--accept-deletes",
        action="store_true",
        help="delete the keys that were missing from the file, as after booklet's own clear() or prune()",
    )
    recover.add_argument(
        "--accept-partial",
        action="store_true",
        help="take a file of ebooklet's as it is although keys of ebooklet's remote are missing from it",
    )
    recover.add_argument(
        "--repair-remote",
        action="store_true",
        help="write the remote's root anew, as this machine knew it last, if it is damaged",
    )


def _recover(options: argparse.Namespace) -> int:
    with _quiet_log():
        report = ebooklet_tx.recover(
            options.path,
            named_remote(options),
            dry_run=options.dry_run,
            resume=not options.no_resume,
            accept_deletes=options.accept_deletes,
            lock_timeout=options.lock_timeout,
            accept_partial=options.accept_partial,
            repair_remote=options.repair_remote,
            remember_remote=remembers_remote(options),
            progress=bars(),
        )
    show(report, options)
    return FAILED if report.failed else NEEDS_DECISION if report.needs_decision else DONE


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Keeps warnings out of the log while a report is made that says all of them."""
    log = logging.getLogger("ebooklet_tx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = add_command(
        commands,
        "verify",
        _verify,
        "check the remote: say what is damaged or missing there",
        details=_VERIFY_HELP,
        example="verify --values stations.blt",
    )
    add_remote(verify)
    verify.add_argument("--values", action="store_true", help="read every value as well")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="write what is lost or damaged anew, from what PATH's machine has",
    )


def _verify(options: argparse.Namespace) -> int:
    if options.repair and options.path is None:
        raise ebooklet_tx.InvalidArgumentError("--repair needs PATH, the local file that it takes values from")
    report = verify(
        needed_remote(options),
        read_values=options.values,
        file_path=options.path,
        repair=options.repair,
        lock_timeout=options.lock_timeout,
        progress=bars(),
    )
    show(report, options)
    return DONE if report.sound else NEEDS_DECISION


def _add_collect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    collect = add_command(
        commands,
        "collect",
        _collect,
        "delete the remote's objects that nothing names any more",
        details=_COLLECT_HELP,
        example="collect --dry-run stations.blt",
    )
    add_remote(collect)
    collect.add_argument(
        "--grace-hours",
        type=number_in(float, 0),
        default=24.0,
        metavar="N",
        help="how long garbage is kept (default 24); under 12 only while nobody pushes",
    )
    collect.add_argument("--dry-run", action="store_true", help="only tell what would be deleted")


def _collect(options: argparse.Namespace) -> int:
    report = collect(
        needed_remote(options),
        grace_seconds=options.grace_hours * 3600,
        dry_run=options.dry_run,
        lock_timeout=options.lock_timeout,
        progress=bars(),
    )
    show(report, options)
    return DONE


def _add_compact(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    compact = add_command(
        commands,
        "compact",
        _compact,
        "rewrite packs of the remote that hold mostly dead values, and merge small ones",
        details=_COMPACT_HELP,
        example="compact stations.blt --live-share 0.8",
    )
    add_remote(compact)
    compact.add_argument(
        "--live-share",
        type=number_in(float, 0, 1),
        default=0.5,
        metavar="SHARE",
        help="rewrite packs of which less than this share is live, from 0 to 1 (default 0.5)",
    )


def _compact(options: argparse.Namespace) -> int:
    with opened(options, "w", lock="exclusive") as database:
        report = database.compact(live_share=options.live_share)
    show(report, options)
    return NEEDS_DECISION if report.unreadable_keys else DONE


def _add_prune(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    prune = add_command(
        commands,
        "prune",
        _prune,
        "rewrite the local file without its dead bytes",
        details=_PRUNE_HELP,
        example="prune stations.blt --before 2026-01-01T00:00:00+00:00",
    )
    prune.add_argument(
        "--before",
        metavar="TIME",
        help="drop the local copies of values that were set before it, too: ISO 8601 with a zone",
    )
    prune.add_argument(
        "--max-bytes",
        type=number_in(int, 0),
        metavar="N",
        help="drop the local copies that were read longest ago, too, until the file is no larger",
    )
    add_remote(prune)


def _prune(options: argparse.Namespace) -> int:
    check_there(options)
    before = ebooklet_tx.status(options.path).file_bytes
    removed = edit(options, lambda database: database.prune(options.before, max_bytes=options.max_bytes))
    after = ebooklet_tx.status(options.path).file_bytes
    if options.json:
        print_json({"bytes_after": after, "bytes_before": before, "removed": removed})
    else:
        print(f"{options.path}: {before:,} -> {after:,} bytes, {counted(removed, 'item')} removed")
    return DONE


def _add_unlock(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    unlock = add_command(
        commands,
        "unlock",
        _unlock,
        "take the remote's lock away from a writer that is gone",
        details=_UNLOCK_HELP,
        example="unlock stations.blt --lock-timeout 70",
    )
    add_remote(unlock, lock_timeout=False)
    unlock.add_argument("--force", action="store_true", help="take it even if its holder may be at work")
    add_lock_timeout(
        unlock, 0.0, "how long to watch a lock; one that is not renewed for a minute was left behind (default 0)"
    )


def _unlock(options: argparse.Namespace) -> int:
    remote = named_remote(options)
    held_by = ebooklet_tx.unlock(options.path, remote, force=options.force, lock_timeout=options.lock_timeout)
    if options.json:
        print_json({"held_by": held_by})
    else:
        taken = "nobody held the lock" if held_by is None else f"the lock was taken from {held_by}"
        print(on_terminal(taken))
    return DONE


__all__ = ["add_care_commands"]
