"""Virtual environments of the libraries that are compared, each with nothing else in it.

Owns a folder of environments. The invariant: one that is there with the same requirements is used as it is;
one that was made half-way is made anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PEER_VERSION = "0.11.1"
REQUIREMENTS = {"ebooklet": (f"ebooklet=={PEER_VERSION}",), "fsspec": ("s3fs",)}

_OF_ADAPTER = {"grouped": "ebooklet", "per key": "ebooklet", "fsmap": "fsspec"}


def python_for(adapter: str, folder: Path) -> str:
    """Returns the Python to run an adapter with, installing what it needs first.

    Raises:
        subprocess.CalledProcessError: The environment could not be made.
    """
    name = _OF_ADAPTER.get(adapter)
    if name is None:
        return sys.executable
    place = folder / name
    python = place / "bin" / "python"
    wanted = "\n".join(REQUIREMENTS[name])
    done = place / "requirements.txt"
    if not done.is_file() or done.read_text() != wanted:
        if place.exists():
            shutil.rmtree(place)
        print(f"installing {', '.join(REQUIREMENTS[name])} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *REQUIREMENTS[name]], check=True, stdout=sys.stderr)
        done.write_text(wanted)
    return str(python)
