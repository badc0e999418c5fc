"""The commands that look into a database, and change nothing.

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
    count,
    print_json,
    said,
    show,
)
from ebooklet_tx.maintenance.status import history
from ebooklet_tx.timestamps import as_datetime


def add_looking_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `status` and `log` to the command line."""
    add_command(
        commands,
        "status",
        _status,
        "show what is pending, the base commit, and what is to be repaired",
        example="status stations.blt",
    )
    log = add_command(
        commands,
        "log",
        _log,
        "show the newest commits that this machine has heard of",
        example="log stations.blt --limit 5",
    )
    log.add_argument("--limit", type=count, default=20, help="how many (default 20)")


def _status(options: argparse.Namespace) -> int:
    report = ebooklet_tx.status(options.path)
    show(report, options)
    return NEEDS_DECISION if report.needs_decision else DONE


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


__all__ = ["add_looking_commands"]
