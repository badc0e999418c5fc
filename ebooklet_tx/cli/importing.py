"""The command `import-ebooklet`: its arguments, and the places that they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import unquote, urlsplit

import ebooklet_tx
from ebooklet_tx.cli.shared import PLACE_OPTIONS, add_place, bars, url_with
from ebooklet_tx.errors import InvalidArgumentError

SUMMARY = "copy a database of ebooklet's, of any size, from its remote to a new one"
DETAILS = """\
The source is only read, and ebooklet need not be installed. Values are fetched, pushed
and dropped from this machine a batch at a time; timestamps and metadata are kept. Killed
or interrupted, it goes on where it stopped when it is run again.
"""
EXAMPLE = "import-ebooklet s3://bucket/old.blt s3://bucket/new.blt --verify"


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's own arguments."""
    parser.add_argument("source", metavar="SRC_URL", help="where ebooklet's database lies, with its db_key")
    parser.add_argument("target", metavar="DST_URL", help="where the new one is to lie: another key")
    parser.add_argument(
        "--path", type=Path, metavar="PATH", help="the local file (default: the last part of DST_URL, here)"
    )
    parser.add_argument("--verify", action="store_true", help="read all values of both sides again, and compare")
    parser.add_argument("--accept-missing", action="store_true", help="leave out values that the source has lost")
    parser.add_argument("--value-serializer", metavar="NAME", help="where the source does not tell it")
    parser.add_argument(
        "--max-local-bytes",
        type=int,
        default=256 * 2**20,
        metavar="N",
        help="what the local file and its journal may take (default 256 MiB)",
    )
    add_place(parser)
    for name, what in (("endpoint-url", "URL"), ("region", "NAME"), ("profile", "NAME")):
        parser.add_argument(f"--source-{name}", metavar=what, help="the same for the source, if it differs")
    parser.add_argument(
        "--lock-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for another writer of the target (default 300)",
    )


def run_import(options: argparse.Namespace) -> ebooklet_tx.ImportReport:
    """Imports what the arguments name."""
    given = {name: getattr(options, name) for name in PLACE_OPTIONS}
    of_source = {name: getattr(options, f"source_{name}") or given[name] for name in PLACE_OPTIONS}
    return ebooklet_tx.import_ebooklet(
        url_with(options.source, of_source),
        url_with(options.target, given),
        options.path or default_path(options.target),
        value_serializer=options.value_serializer,
        verify=options.verify,
        accept_missing=options.accept_missing,
        max_local_bytes=options.max_local_bytes,
        lock_timeout=options.lock_timeout,
        progress=bars(),
    )


def default_path(url: str) -> Path:
    """Returns the local file for a database at a URL: its last part, in the current folder."""
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError as error:
        raise InvalidArgumentError(f"{url!r} is no URL: {error}") from error
    if not name:
        raise InvalidArgumentError(f"{url!r} ends without a name; give the PATH of the local file")
    return Path(name if Path(name).suffix else f"{name}.blt")


__all__ = ["DETAILS", "EXAMPLE", "SUMMARY", "add_import_arguments", "default_path", "run_import"]
