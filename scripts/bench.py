"""Compares ebooklet_tx with ebooklet, an fsspec mapping and a bare upload, on one stub of S3.

    python scripts/bench.py --environments ~/.cache/bench --check

Requests and bytes are exact and the same on every machine; times are of the machine. `--help` tells more.
The parts lie in the folder of the same name.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Run as a file, this folder is where Python looks first; the parts are known from the tree's top.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.bench.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
