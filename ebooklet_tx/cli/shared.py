"""What the commands share: how a command is described, where its remote is, and what it prints.

The invariant: a command's help ends with an example and the exit codes; no credential is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import ebooklet_tx
from ebooklet_tx.cli.help import Help
from ebooklet_tx.cli.terminal import escaped, on_terminal
from ebooklet_tx.cli.wording import in_shell_words, typed
from ebooklet_tx.local.files.own_files import local_path
from ebooklet_tx.local.inspection import inspect_pair
from ebooklet_tx.local.journal.journal import journal_path
from ebooklet_tx.sync.connecting import noted_connection

_Number = TypeVar("_Number", int, float)

DONE, NEEDS_DECISION, FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM

EPILOG = """\
exit codes:
  0    done
  1    something needs a decision: conflicts, lost pending values, damage here
       or at the remote, or a lock that `unlock` leaves to its holder
  2    failed: no such file or key, remote out of reach, a lock that was not
       free in time, wrong arguments; can be run again (--debug shows the trace)
  130  interrupted by Ctrl-C, or 143 by SIGTERM: what has arrived is kept, and
       the same command again goes on; a second one ends at once

The remote is the one that the local file remembers; --remote names another for this
command only. Credentials are never stored: they come from the environment
(AWS_ACCESS_KEY_ID and so on), from --profile, or from wherever else boto3 finds them.
"""

PLACE_OPTIONS = ("endpoint_url", "region", "profile")
"""What can be said of an S3 address beside its URL."""


# -- what is printed ----------------------------------------------------------------------------


def complain(what: object) -> None:
    # In one line, and a key with all of its spaces.
    line = " ".join(filter(None, (part.strip() for part in str(what).splitlines())))
    line = on_terminal(in_shell_words(line), sys.stderr)
    # Where stderr takes nothing either, the exit code has to do.
    with contextlib.suppress(OSError, ValueError):
        print(f"ebooklet_tx: {line}", file=sys.stderr)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, sort_keys=True))


def show(report: Any, options: argparse.Namespace) -> None:
    if options.json:
        print_json(report.to_dict())
    else:
        print(on_terminal(in_shell_words(report.words()), kept="\n"))


def bars() -> bool:
    """Returns what a command gives as `progress=`: bars on a terminal, nothing in a pipe."""
    return sys.stderr.isatty()


def said(message: str) -> str:
    """Returns a message as the end of a line: in quotes, its line breaks as spaces."""
    return f'  "{escaped(" ".join(message.split()))}"' if message else ""


# -- where the remote is -------------------------------------------------------------------------


def needed_remote(options: argparse.Namespace) -> Any:
    if options.path is None and options.remote is None:
        raise ebooklet_tx.InvalidArgumentError("which database? give the PATH of a local file, or --remote URL")
    remote = named_remote(options)
    if remote is None:
        raise ebooklet_tx.InvalidArgumentError(
            f"{options.path} remembers no remote; name one with --remote, or for good by "
            f"`ebooklet-tx recover {typed(options.path)} --remote URL`"
        )
    return remote


def named_remote(options: argparse.Namespace) -> Any:
    """Returns what `open` takes: the place named, or the remembered one, with what is said of it beside."""
    given = {name: getattr(options, name) for name in PLACE_OPTIONS}
    if options.remote is not None:
        return url_with(options.remote, given)
    remembered = _remembered(options.path)
    if remembered is None or "bucket" not in remembered:
        return remembered
    return remembered | {name: value for name, value in given.items() if value is not None}


def url_with(url: str, given: dict[str, str | None]) -> str:
    """Returns a URL with the options that mean something for it.

    Raises:
        InvalidArgumentError: It is no URL of a remote.
    """
    scheme, is_url, _ = url.partition("://")
    scheme = scheme.lower()
    if not is_url or scheme not in ("s3", "file", "http", "https", "memory"):
        raise ebooklet_tx.InvalidArgumentError(
            f"{url!r} is no URL of a remote; give s3://bucket/key, file:///folder/name or https://host/path"
        )
    options = {name: value for name, value in given.items() if value is not None}
    if not options or scheme != "s3":
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(options)}"


def remembers_remote(options: argparse.Namespace) -> bool:
    """Whether the local file is to remember the remote of this command: only one that knows none does."""
    return options.remote is None or options.path is None or _remembered(options.path) is None


def _remembered(file_path: Path) -> dict[str, Any] | None:
    """Returns the place of the remote that a local file remembers; None where it remembers none."""
    path = local_path(file_path)
    found = noted_connection(inspect_pair(path, facts_only=True).facts, journal_path(path))
    return None if found is None else dict(found.to_dict())


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
    takes_path: bool = True,
) -> argparse.ArgumentParser:
    """Adds a command to the command line.

    Args:
        commands: Where to.
        name: Its name.
        command: What runs it, and returns its exit code.
        summary: What it does, in a line.
        details: What there is to say besides.
        example: A call of it, without the program's name.
        takes_path: Whether its first argument is the local file.
    """
    shown = f"example:\n  {program()} {example}\n\n" if example else ""
    parser = commands.add_parser(
        name,
        help=summary,
        description="\n\n".join(filter(None, [summary[0].upper() + summary[1:] + ".", details])),
        epilog=shown + EPILOG,
        formatter_class=Help,
    )
    parser.set_defaults(command=command)
    parser._positionals.title = "arguments"
    if takes_path:
        some = "?" if name in ("verify", "collect") else None
        help_of_path = "the local file of the database" + (" (or give --remote alone)" if some else "")
        parser.add_argument("path", type=local_file, nargs=some, metavar="PATH", help=help_of_path)
    report = parser.add_argument_group("report")
    report.add_argument("--json", action="store_true", help="print the outcome as JSON")
    report.add_argument("--debug", action="store_true", help="print a failure with its trace")
    return parser


def local_file(text: str) -> Path:
    """Returns a PATH argument; refuses what is the address of a remote, which is an easy slip."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is the address of a remote, and PATH is the local file: "
            f"`{program()} clone {typed(text)}` makes one"
        )
    return Path(text)


def add_remote(parser: argparse.ArgumentParser, *, lock_timeout: bool = True) -> None:
    """Adds what says where the remote is, and how long to wait for other sessions with the local file."""
    place = parser.add_argument_group("remote, where it is not the one that PATH remembers")
    place.add_argument("--remote", metavar="URL", help="s3://bucket/key or file:///folder/name")
    _add_place(place)
    if lock_timeout:
        add_lock_timeout(
            parser, 10.0, "how long to wait for another session's lock, of PATH or of the remote (default 10)"
        )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Adds what can be said of an S3 address beside its URL."""
    _add_place(parser.add_argument_group("how to reach an S3 store"))


def _add_place(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--endpoint-url", metavar="URL", help="the S3 store's address, when it is not AWS")
    group.add_argument("--region", metavar="NAME", help="the S3 region")
    group.add_argument("--profile", metavar="NAME", help="a profile of the shared AWS configuration")


def add_lock_timeout(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    parser.add_argument("--lock-timeout", type=float, default=default, metavar="SECONDS", help=what)


def number_in(kind: type[_Number], least: int, most: float = math.inf) -> Callable[[str], _Number]:
    """Returns what reads the number of an option, and refuses one below `least` or above `most`."""
    what = "a whole number" if kind is int else "a number"
    bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"

    def read(text: str) -> _Number:
        with contextlib.suppress(ValueError):
            number = kind(text)
            # NaN lies nowhere.
            if least <= number <= most:
                return number
        raise argparse.ArgumentTypeError(f"must be {what} {bounds}, not {text[:40]!r}")

    return read


__all__ = [
    "DONE",
    "EPILOG",
    "FAILED",
    "INTERRUPTED",
    "NEEDS_DECISION",
    "TERMINATED",
    "PLACE_OPTIONS",
    "add_command",
    "add_lock_timeout",
    "add_place",
    "add_remote",
    "bars",
    "complain",
    "named_remote",
    "needed_remote",
    "number_in",
    "print_json",
    "program",
    "remembers_remote",
    "said",
    "show",
    "url_with",
]
