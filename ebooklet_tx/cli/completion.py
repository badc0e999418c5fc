"""The command `completion`: a script that teaches a shell the commands and options.

The script is made of the parser by shtab, which an extra of this package brings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import ebooklet_tx
from ebooklet_tx.cli.shared import DONE, add_command, print_json

SHELLS = ("bash", "zsh")
_FILES = ("path", "file", "folder")
"""The arguments that are files or folders."""

_HELP = """\
Prints a script to be sourced by your shell:

  bash  ebooklet-tx completion bash >> ~/.bash_completion
  zsh   ebooklet-tx completion zsh > FOLDER/_ebooklet-tx (a FOLDER of $fpath)

It needs the package shtab: pip install "ebooklet-tx[completion]".
"""


def add_completion_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    make_parser: Callable[[str], argparse.ArgumentParser],
) -> None:
    """Adds `completion` to the command line.

    Args:
        commands: Where to.
        make_parser: Makes the whole parser for a program of that name.
    """
    completion = add_command(
        commands,
        "completion",
        lambda options: _completion(options, make_parser("ebooklet-tx")),
        "print a script that completes commands and options in your shell",
        details=_HELP,
        example="completion bash",
        takes_path=False,
    )
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash or zsh")


def _completion(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        import shtab
    except ImportError as error:
        raise ebooklet_tx.MissingPackageError(
            'the package shtab, which makes the script, is not installed; pip install "ebooklet-tx[completion]" '
            "and try again"
        ) from error
    _complete_files(parser, shtab.FILE)
    script = shtab.complete(parser, options.shell)
    if options.json:
        print_json({"script": script, "shell": options.shell})
    else:
        print(script)
    return DONE


def _complete_files(parser: argparse.ArgumentParser, how: Any) -> None:
    """Lets the arguments that are files be completed as such."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, how)
        elif action.dest in _FILES:
            action.complete = how  # type: ignore[attr-defined]


__all__ = ["SHELLS", "add_completion_command"]
