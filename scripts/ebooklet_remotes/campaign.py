"""Imports large remotes that ebooklet itself made, kills the import in its middle, and runs it again.

    python -m scripts.ebooklet_remotes.campaign [--count N] [--size N] [--local-bytes N] [LAYOUT ...]

Owns an S3 server on loopback and a folder, both gone at the end. While the imports run, all that lies in their
folder is measured, a hundred times a second. In the end every value, timestamp and the metadata is compared with
what ebooklet was given. Prints a line of JSON for each layout, and ends with 1 if anything differs or was too
large. Needs the test extra and PyPI; `--environments FOLDER` keeps what was installed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ebooklet_tx
from scripts.ebooklet_remotes.large_values import FIRST_US, large_values
from scripts.ebooklet_remotes.make_golden import LAYOUTS, make_bucket, make_remote, s3_client
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, ministack_server

BUCKET = "old"


def main() -> int:
    """Runs the campaign and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=5_000)
    parser.add_argument("--local-bytes", type=int, default=32_000_000)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("layouts", nargs="*", default=[*LAYOUTS], metavar="LAYOUT")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": ACCESS_KEY}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    sound = True
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder, ministack_server() as endpoint:
        environments = options.environments or Path(folder)
        environments.mkdir(exist_ok=True)
        for layout in options.layouts:
            with s3_client(endpoint) as client:
                make_bucket(client, f"{BUCKET}-{layout.replace('_', '-')}")
                place = Path(folder) / layout
                place.mkdir()
                result = _run(endpoint, client, layout, place, environments, options)
            print(json.dumps(result), flush=True)
            sound &= result["sound"]
    return 0 if sound else 1


def _run(
    endpoint: str, client: Any, layout: str, place: Path, environments: Path, options: argparse.Namespace
) -> dict[str, Any]:
    bucket = f"{BUCKET}-{layout.replace('_', '-')}"
    begun = time.monotonic()
    make_remote(endpoint, bucket, "db", layout, environments, options.count, options.size)
    made_seconds = time.monotonic() - begun
    total_bytes = options.count * options.size
    command = [sys.executable, "-m", "ebooklet_tx", "import-ebooklet", f"s3://{bucket}/db", f"s3://{bucket}/new"]
    command += ["--endpoint-url", endpoint, "--path", str(place / "new.blt"), "--json"]
    command += ["--max-local-bytes", str(options.local_bytes)]

    def is_half() -> bool:
        found = client.list_objects_v2(Bucket=bucket, Prefix="new.d/pack/").get("Contents", [])
        return sum(each["Size"] for each in found) > total_bytes / 2

    killed = _measured(command, place, kill_when=is_half)
    again = _measured([*command, "--verify"], place)
    report = json.loads(again["stdout"])
    equal = _compare(f"s3://{bucket}/new?endpoint_url={endpoint}", place, layout, options)
    peak = max(killed["peak_bytes"], again["peak_bytes"])
    return {
        "layout": layout,
        "made_seconds": round(made_seconds, 1),
        "killed_after_seconds": killed["seconds"],
        "killed": killed["code"] == -signal.SIGKILL,
        "again_seconds": again["seconds"],
        "peak_local_bytes": peak,
        "left_local_bytes": again["left_bytes"],
        "peak_rss_bytes": max(killed["rss_bytes"], again["rss_bytes"]),
        "present_keys": report["present_keys"],
        "imported_keys": report["imported_keys"],
        "verified_keys": report["verified_keys"],
        "pushes": report["pushes"],
        "equal": equal,
        "sound": bool(report["sound"])
        and equal
        and killed["code"] == -signal.SIGKILL
        and 0 < report["present_keys"] < options.count
        and report["verified_keys"] == options.count
        and peak <= options.local_bytes,
    }


def _measured(command: list[str], place: Path, kill_when: Any = None) -> dict[str, Any]:
    """Runs a command; measures what lies in a folder meanwhile, and kills it when it is time."""
    begun = time.monotonic()
    peak, looked = 0, begun
    with tempfile.TemporaryFile() as stdout:
        process = subprocess.Popen(command, stdout=stdout)
        pid = 0
        while not pid:
            peak = max(peak, _bytes_in(place))
            now = time.monotonic()
            if kill_when is not None and now - looked > 0.3:
                looked = now
                if kill_when():
                    process.kill()
            time.sleep(0.01)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        output = stdout.read().decode()
    seconds = round(time.monotonic() - begun, 1)
    return {
        "code": code,
        "seconds": seconds,
        "peak_bytes": peak,
        "left_bytes": _bytes_in(place),
        "rss_bytes": usage.ru_maxrss * 1024,
        "stdout": output,
    }


def _bytes_in(place: Path) -> int:
    """Returns the sizes of the files in a folder, added up."""
    total = 0
    for path in place.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _compare(url: str, place: Path, layout: str, options: argparse.Namespace) -> bool:
    """Compares a new copy of the target with what ebooklet was given."""
    with ebooklet_tx.open(url, place / "other.blt") as copy:
        found = {key: (stamp, value) for key, stamp, value in copy.timestamps(include_value=True)}
        metadata = copy.get_metadata(include_timestamp=True)
    expected = dict(large_values(options.count, options.size))
    # ebooklet 0.5.4 does not push it.
    described = None if layout == "one" else ({"owner": "hydrology", "n": 1}, FIRST_US + 100)
    return found == expected and metadata == described


if __name__ == "__main__":
    raise SystemExit(main())
