"""What the commands share: how a command is described, where its remote is, and what it prints.

The invariant: a command's help ends with an example and the exit codes; no credential is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import ebooklet_tx

DONE, NEEDS_DECISION, FAILED, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT

EPILOG = """\
exit codes:
  0    done
  1    something needs a decision: conflicts, lost pending values, a lock that is held, or damage at the remote
  2    failed: no such file, remote out of reach, wrong arguments; can be run again (--debug shows the trace)
  130  interrupted by Ctrl-C

The remote is the one that the journal remembers, unless --remote names another. Credentials are
never stored: they come from the environment (AWS_ACCESS_KEY_ID and so on), from --profile, or from
whatever else boto3 finds.
"""


# -- what is printed ----------------------------------------------------------------------------


def complain(what: object) -> None:
    line = " ".join(str(what).split())
    # Where stderr takes nothing either, the exit code has to do.
    with contextlib.suppress(OSError, ValueError):
        print(f"ebooklet_tx: {line}", file=sys.stderr)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, sort_keys=True))


def show(report: Any, options: argparse.Namespace) -> None:
    if options.json:
        print_json(report.to_dict())
    else:
        print(report.words())


def said(message: str) -> str:
    """Returns a message as the end of a line: in quotes, its line breaks as spaces."""
    return f'  "{" ".join(message.split())}"' if message else ""


# -- where the remote is -------------------------------------------------------------------------


def needed_remote(options: argparse.Namespace) -> Any:
    if options.path is None and options.remote is None:
        raise ebooklet_tx.InvalidArgumentError("which database? give the PATH of a local file, or --remote URL")
    remote = named_remote(options)
    if remote is None:
        raise ebooklet_tx.InvalidArgumentError(f"{options.path} remembers no remote; name one with --remote")
    return remote


def named_remote(options: argparse.Namespace) -> Any:
    """Returns what `open` takes: the place named, or the remembered one, with the profile if given."""
    profile = {} if options.profile is None else {"profile": options.profile}
    if options.remote is not None:
        mark = "&" if "?" in options.remote else "?"
        return options.remote + (mark + urlencode(profile) if profile else "")
    remembered = ebooklet_tx.status(options.path).connection
    return None if remembered is None else remembered | profile


# -- arguments -----------------------------------------------------------------------------------


def program() -> str:
    """Returns what the user typed: the installed command, or the module."""
    return "python -m ebooklet_tx" if Path(sys.argv[0]).name == "__main__.py" else "ebooklet-tx"


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    summary: str,
    *,
    details: str = "",
    example: str = "",
) -> argparse.ArgumentParser:
    """Adds a command to the command line.

    Args:
        commands: Where to.
        name: Its name.
        command: What runs it, and returns its exit code.
        summary: What it does, in a line.
        details: What there is to say besides.
        example: A call of it, without the program's name.
    """
    shown = f"example:\n  {program()} {example}\n\n" if example else ""
    parser = commands.add_parser(
        name,
        help=summary,
        description="\n\n".join(filter(None, [summary[0].upper() + summary[1:] + ".", details])),
        epilog=shown + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.add_argument("--debug", action="store_true", help="show where a failure comes from")
    if name not in ("demo", "import-ebooklet"):
        some = "?" if name in ("verify", "collect") else None
        parser.add_argument("path", type=Path, nargs=some, metavar="PATH", help="the local Booklet file")
    return parser


def add_remote(parser: argparse.ArgumentParser, *, lock_timeout: bool = True) -> None:
    parser.add_argument(
        "--remote", metavar="URL", help="s3://bucket/key?endpoint_url=..., or file:///folder/name"
    )
    parser.add_argument("--profile", metavar="NAME", help="a profile of the shared AWS configuration")
    if lock_timeout:
        add_lock_timeout(parser, 10.0, "how long to wait for a session that has the file open (default 10)")


def add_lock_timeout(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    parser.add_argument("--lock-timeout", type=float, default=default, metavar="SECONDS", help=what)


def count(text: str) -> int:
    """Reads a number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


__all__ = [
    "DONE",
    "EPILOG",
    "FAILED",
    "INTERRUPTED",
    "NEEDS_DECISION",
    "add_command",
    "add_lock_timeout",
    "add_remote",
    "complain",
    "count",
    "named_remote",
    "needed_remote",
    "print_json",
    "program",
    "said",
    "show",
]
