"""Runs the steps of one page in the current folder: `python -m tests.documents.run_page PAGE`."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

from tests.documents.page_blocks import steps


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


def _substitutes() -> dict[str, str]:
    """What stands in the pages for the servers of the tests."""
    return {"https://s3.example.org": os.environ["DOCUMENTS_ENDPOINT"]}


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
