"""The command line: what the user types and sees.

Has no logic of its own: each command is a call of the public interface and a print of
what it returned. The invariant: what was reported decides the exit code, as the help says.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import ebooklet_tx
from ebooklet_tx.cli import importing
from ebooklet_tx.cli.demo import KILL_POINTS, run_demo
from ebooklet_tx.cli.shared import (
    DONE,
    EPILOG,
    FAILED,
    INTERRUPTED,
    NEEDS_DECISION,
    add_command,
    add_lock_timeout,
    add_remote,
    complain,
    named_remote,
    needed_remote,
    print_json,
    program,
    said,
    show,
)
from ebooklet_tx.cli.snapshots import add_snapshot_commands
from ebooklet_tx.maintenance.checking import collect, verify
from ebooklet_tx.maintenance.status import history
from ebooklet_tx.timestamps import as_datetime
from ebooklet_tx.tracebacks import full_tracebacks

_DECISIONS = (ebooklet_tx.ConflictError, ebooklet_tx.LockHeldError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        with full_tracebacks(options.debug):
            code = command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has gone: nothing more can be said.
        _silence_stdout()
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        complain(error if isinstance(error, ebooklet_tx.Error) else _foreign(error))
        _silence_stdout()
        return NEEDS_DECISION if isinstance(error, _DECISIONS) else FAILED
    return code


def _silence_stdout() -> None:
    """Throws away what stdout did not take, so that the interpreter's end does not fail by it once more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _foreign(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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


# -- commands ----------------------------------------------------------------------------------


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
        )
    show(report, options)
    return FAILED if report.failed else NEEDS_DECISION if report.needs_decision else DONE


def _status(options: argparse.Namespace) -> int:
    report = ebooklet_tx.status(options.path)
    show(report, options)
    return NEEDS_DECISION if report.needs_decision else DONE


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


def _unlock(options: argparse.Namespace) -> int:
    remote = named_remote(options)
    held_by = ebooklet_tx.unlock(options.path, remote, force=options.force, lock_timeout=options.lock_timeout)
    if options.json:
        print_json({"held_by": held_by})
    else:
        print("nobody held the lock" if held_by is None else f"the lock was taken from {held_by}")
    return DONE


def _log(options: argparse.Namespace) -> int:
    records = history(options.path, options.limit)
    if options.json:
        print_json([asdict(record) for record in records])
    for record in () if options.json else records:
        when = as_datetime(record.committed_at_us)
        print(
            f"{record.seq:>8}  {when:%Y-%m-%d %H:%M:%S}  {record.commit_id}  "
            f"+{record.set_count} -{record.deleted_count}  {record.value_bytes:,} bytes  {record.writer}"
            f"{said(record.message)}"
        )
    return DONE


def _verify(options: argparse.Namespace) -> int:
    report = verify(needed_remote(options), read_values=options.values, file_path=options.path)
    show(report, options)
    return DONE if report.sound else NEEDS_DECISION


def _collect(options: argparse.Namespace) -> int:
    try:
        report = collect(
            needed_remote(options),
            grace_seconds=options.grace_hours * 3600,
            dry_run=options.dry_run,
            lock_timeout=options.lock_timeout,
        )
    except ebooklet_tx.RemoteIntegrityError as error:
        complain(error)
        return NEEDS_DECISION
    show(report, options)
    return DONE


def _import_ebooklet(options: argparse.Namespace) -> int:
    report = importing.run_import(options)
    show(report, options)
    return DONE if report.sound else NEEDS_DECISION


def _demo(options: argparse.Namespace) -> int:
    report = run_demo(
        folder=options.folder,
        files=options.files,
        endpoint_url=options.endpoint_url,
        bucket=options.bucket,
        key=options.key,
        create_bucket=options.create_bucket,
        kill=options.kill,
        keep=options.keep,
        say=_say_nothing if options.json else print,
    )
    if options.json:
        print_json(report.to_dict())
    return DONE if report.sound else FAILED


def _say_nothing(_line: str) -> None:
    return None


def _opened(options: argparse.Namespace) -> ebooklet_tx.Database:
    return ebooklet_tx.open(needed_remote(options), options.path, "w", lock_timeout=options.lock_timeout)


# -- arguments ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program(),
        description="Looks after databases of ebooklet_tx.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ebooklet_tx {ebooklet_tx.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    recover = add_command(
        commands,
        "recover",
        _recover,
        "repair a local database and settle an interrupted push",
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
    add_command(
        commands,
        "status",
        _status,
        "show what is pending, the base commit, and what is to be repaired",
        example="status stations.blt",
    )
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
    unlock = add_command(
        commands,
        "unlock",
        _unlock,
        "take the remote's lock away from a writer that is gone",
        example="unlock stations.blt --lock-timeout 70",
    )
    add_remote(unlock, lock_timeout=False)
    unlock.add_argument("--force", action="store_true", help="take it even if its holder may be at work")
    add_lock_timeout(
        unlock, 0.0, "how long to watch a lock; one that is not renewed for a minute was left behind (default 0)"
    )
    _add_checks(commands)
    add_snapshot_commands(commands)
    log = add_command(
        commands,
        "log",
        _log,
        "show the newest commits that this machine has heard of",
        example="log stations.blt --limit 5",
    )
    log.add_argument("--limit", type=_count, default=20, help="how many (default 20)")
    from_ebooklet = add_command(commands, "import-ebooklet", _import_ebooklet, importing.SUMMARY)
    from_ebooklet.description = importing.DESCRIPTION
    importing.add_import_arguments(from_ebooklet)
    _add_demo(commands)
    return parser


def _add_checks(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = add_command(
        commands,
        "verify",
        _verify,
        "read the remote's index, and say what is damaged or missing",
        example="verify --values stations.blt",
    )
    add_remote(verify, lock_timeout=False)
    verify.add_argument("--values", action="store_true", help="read every value as well")
    collect = add_command(
        commands,
        "collect",
        _collect,
        "delete the remote's objects that nothing names any more",
        example="collect --dry-run stations.blt",
    )
    add_remote(collect)
    collect.add_argument(
        "--grace-hours",
        type=_hours,
        default=24.0,
        metavar="N",
        help="how long garbage is kept (default 24); under 12 only while nobody pushes",
    )
    collect.add_argument("--dry-run", action="store_true", help="only tell what would be deleted")


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "push Python's own source files, kill a push, recover, and compare every value"
    demo = add_command(commands, "demo", _demo, summary, example="demo --files 20")
    demo.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    demo.add_argument("--files", type=_count, help="take only so many files")
    demo.add_argument("--endpoint-url", metavar="URL", help="the S3 store's address, when it is not AWS")
    demo.add_argument("--bucket", help="push to this S3 bucket instead of a folder")
    demo.add_argument("--key", help="the database's key in the bucket (default: a new one)")
    demo.add_argument("--create-bucket", action="store_true", help="make the bucket if it does not exist")
    demo.add_argument("--kill", choices=KILL_POINTS, default=KILL_POINTS[0], help="when the push is killed")
    demo.add_argument("--keep", action="store_true", help="leave the files and objects there")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _hours(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number
