"""Writes docs/reference/cli.md from the command line's own help: `python scripts/cli_reference.py`.

With `--check` nothing is written, and the exit code says whether the page is what would be written.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
WIDTH_COLUMNS = "88"

_HEAD = """\
# Command line

`ebooklet-tx COMMAND`, or `python -m ebooklet_tx COMMAND`. [A session](../session.md) shows the commands at
work, and [a guide](../how-to/work-at-a-shell.md) what to use them for.

This page is what `--help` says, as `scripts/cli_reference.py` writes it. What stands at the end of each help,
from "exit codes" on, is shown once, here:

```text
{help}
```
"""

_COMMAND = """
## {name}

```text
{help}
```
"""


def page() -> str:
    """Returns the page as the help of this moment makes it."""
    os.environ["COLUMNS"] = WIDTH_COLUMNS
    from ebooklet_tx.cli.commands import _parser as parser

    root = parser()
    return _HEAD.format(help=root.format_help().rstrip()) + _commands(root, "")


def _commands(parser: argparse.ArgumentParser, before: str) -> str:
    """Returns the sections of a parser's commands, and of theirs."""
    from ebooklet_tx.cli.help import in_order

    text = ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in in_order(action.choices):
                command = action.choices[name]
                said = command.format_help().partition("\nexit codes:")[0].rstrip()
                text += _COMMAND.format(name=before + name, help=said)
                text += _commands(command, f"{before}{name} ")
    return text


def main(words: list[str]) -> int:
    """Writes the page, or checks it; returns the exit code."""
    text = page()
    if words == ["--check"]:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
