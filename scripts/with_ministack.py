"""Runs a command beside an S3 server: `python scripts/with_ministack.py COMMAND ...`.

The command finds the server by the variables of the store contract, and may run in an environment that has no
ministack, or another boto3 than the one that ministack names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, ministack_server


def main(command: list[str]) -> int:
    """Returns the command's exit code."""
    with ministack_server() as endpoint:
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "EBOOKLET_TX_TEST_S3_ENDPOINT": endpoint,
        }
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
