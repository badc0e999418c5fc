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
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ebooklet_tx
from ebooklet_tx.cli import importing
from ebooklet_tx.cli.care import add_care_commands
from ebooklet_tx.cli.completion import add_completion_command
from ebooklet_tx.cli.demo import KILL_POINTS, run_demo
from ebooklet_tx.cli.editing import add_editing_commands
from ebooklet_tx.cli.help import DESCRIPTION, Help
from ebooklet_tx.cli.looking import add_looking_commands
from ebooklet_tx.cli.shared import (
    DONE,
    EPILOG,
    FAILED,
    INTERRUPTED,
    NEEDS_DECISION,
    TERMINATED,
    add_command,
    complain,
    number_in,
    print_json,
    program,
    show,
)
from ebooklet_tx.cli.signals import TerminatedError, signals_end_the_command
from ebooklet_tx.cli.snapshots import add_snapshot_commands
from ebooklet_tx.cli.statistics import add_stats_command
from ebooklet_tx.cli.syncing import add_sync_commands
from ebooklet_tx.tracebacks import full_tracebacks

_DEMO_HELP = """\
It shows that an interrupted push goes on where it stopped, and loses nothing. It works in
a temporary folder that is removed at the end, or in a bucket that you name, where it
removes exactly what it has made.
"""

_DECISIONS = (
    ebooklet_tx.ConflictError,
    ebooklet_tx.LockHeldError,
    ebooklet_tx.LocalIntegrityError,
    ebooklet_tx.RemoteIntegrityError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    _replace_closed_streams()
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        with full_tracebacks(options.debug), signals_end_the_command(), _warnings_as_notes(), _log_as_notes():
            code = command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has gone: nothing more can be said.
        _silence_stdout()
        return FAILED
    except KeyboardInterrupt as error:
        is_terminated = isinstance(error, TerminatedError)
        # What has arrived, and how to go on.
        notes = getattr(error, "__notes__", [])
        complain(": ".join(["terminated" if is_terminated else "interrupted", *notes]))
        _silence_stdout()
        return TERMINATED if is_terminated else INTERRUPTED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        complain(_words(error))
        _silence_stdout()
        return NEEDS_DECISION if isinstance(error, _DECISIONS) else FAILED
    return code


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Tells warnings of this package in one line, without the place in its source."""

    def tell(message: Warning | str, *_: object) -> None:
        complain(f"note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = tell  # type: ignore[assignment]
        yield


class _Notes(logging.Handler):
    """Tells what is logged as a warning tells it: in one line, in the words of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(f"note: {record.getMessage()}")


@contextlib.contextmanager
def _log_as_notes() -> Iterator[None]:
    """Tells what this package logs and a user has to know; a key or a path in it is escaped on a terminal."""
    log, notes = logging.getLogger("ebooklet_tx"), _Notes(logging.WARNING)
    propagated = log.propagate
    log.addHandler(notes)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(notes)
        log.propagate = propagated


def _replace_closed_streams() -> None:
    """Lets what is printed go nowhere where a shell has closed a stream: `>&-`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Also so that no file of the database gets the stream's number.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _silence_stdout() -> None:
    """Throws away what stdout did not take, so that the interpreter's end does not fail by it once more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _words(error: Exception) -> str:
    if isinstance(error, ebooklet_tx.Error):
        # Of those that are an OSError as well, the message without the number before it.
        return str(getattr(error, "strerror", None) or error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# -- commands ----------------------------------------------------------------------------------


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


# -- arguments ---------------------------------------------------------------------------------


def _parser(name: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser of the command line, for a program of that name; None for that which was called."""
    parser = argparse.ArgumentParser(
        prog=name or program(),
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"ebooklet_tx {ebooklet_tx.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_sync_commands(commands)
    add_looking_commands(commands)
    add_editing_commands(commands)
    add_snapshot_commands(commands)
    add_care_commands(commands)
    add_stats_command(commands)
    from_ebooklet = add_command(
        commands,
        "import-ebooklet",
        _import_ebooklet,
        importing.SUMMARY,
        details=importing.DETAILS,
        example=importing.EXAMPLE,
        takes_path=False,
    )
    importing.add_import_arguments(from_ebooklet)
    _add_demo(commands)
    add_completion_command(commands, _parser)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "push Python's own source files, kill a push, recover, and compare every value"
    demo = add_command(
        commands,
        "demo",
        _demo,
        summary,
        details=_DEMO_HELP,
        example="demo --files 20",
        takes_path=False,
    )
    demo.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    demo.add_argument("--files", type=number_in(int, 1), help="take only so many files")
    demo.add_argument("--endpoint-url", metavar="URL", help="the S3 store's address, when it is not AWS")
    demo.add_argument("--bucket", help="push to this S3 bucket instead of a folder")
    demo.add_argument("--key", help="the database's key in the bucket (default: a new one)")
    demo.add_argument("--create-bucket", action="store_true", help="make the bucket if it does not exist")
    demo.add_argument("--kill", choices=KILL_POINTS, default=KILL_POINTS[0], help="when the push is killed")
    demo.add_argument("--keep", action="store_true", help="leave the files and objects there")
