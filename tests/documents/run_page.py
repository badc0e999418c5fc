"""Runs the steps of one page in the current folder: `python -m tests.documents.run_page PAGE`.

`run_forked` does so in a child process that has the package loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from tests.documents.page_blocks import steps
from tests.processes import say


def main(page: Path) -> int:
    """Returns 0 when every step of the page ran; names the first that failed otherwise."""
    namespace: dict[str, object] = {"__name__": "page"}
    count = 0
    for step in steps(page):
        code = step.code
        for written, meant in _substitutes().items():
            code = code.replace(written, meant)
        try:
            if step.language == "sh":
                subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
            else:
                exec(compile("\n" * step.line + code, str(page), "exec"), namespace)
        except (Exception, SystemExit):
            traceback.print_exc()
            print(f"{page.name}, line {step.line}: the block failed", file=sys.stderr)
            return 1
        count += 1
    print(f"{count} blocks ran")
    return 0


def run_forked(pipe: Pipe, page: Path, folder: Path, environment: Mapping[str, str], output: Path) -> None:
    """Says what `main` returns in that folder and environment, where a warning is an error."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # As it was found out for the process that this one is forked from.
    tempfile.tempdir = None
    sys.path.insert(0, str(folder))
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    warnings.simplefilter("error")
    # A page may start processes of its own, which a daemon may not.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    say(pipe, main(page))


def _substitutes() -> dict[str, str]:
    """What stands in the pages for the servers of the tests."""
    return {"https://s3.example.org": os.environ["DOCUMENTS_ENDPOINT"]}


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
