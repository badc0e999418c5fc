"""Makes the golden remotes of ebooklet anew: `python -m scripts.ebooklet_remotes.make_golden`.

Owns an S3 server on loopback, a folder, and in it an environment for each version of ebooklet, which pip fills;
all are gone at the end. Writes `tests/golden/ebooklet_remote_<layout>.zip`: the objects as ebooklet left them,
and `metadata.json`, their names with the metadata that S3 kept. Needs the test extra and PyPI.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, ministack_server

ROOT = Path(__file__).resolve().parents[2]
MAKER = Path(__file__).with_name("make_one.py")
BUCKET = "old"
KEY = "old/db"
LAYOUTS = {"one": "0.5.4", "per_key": "0.11.1", "grouped": "0.11.1"}
"""The layouts of ebooklet's remotes, each with the version that makes it."""

PACKAGES = {
    "0.5.4": ("ebooklet==0.5.4", "booklet==0.7.8", "s3func==0.7.2", "portalocker==3.1.1"),
    "0.11.1": ("ebooklet==0.11.1", "booklet==0.12.10", "s3func==0.9.6"),
}
"""What was current with each version; 0.5.4 does not work with later ones."""


def main() -> None:
    """Makes all of them."""
    with (
        tempfile.TemporaryDirectory(prefix="ebooklet-") as folder,
        ministack_server() as endpoint,
        s3_client(endpoint) as client,
    ):
        make_bucket(client, BUCKET)
        for layout in LAYOUTS:
            key = f"{KEY}_{layout}"
            make_remote(endpoint, BUCKET, key, layout, Path(folder))
            path = ROOT / "tests" / "golden" / f"ebooklet_remote_{layout}.zip"
            count = _save(client, key, path)
            print(f"{path.relative_to(ROOT)}: {count} objects, {path.stat().st_size:,} bytes")


def make_remote(endpoint: str, bucket: str, key: str, layout: str, folder: Path, *amounts: int) -> None:
    """Makes one remote with the version of ebooklet that has the layout.

    Args:
        endpoint: The S3 server's URL.
        bucket: A bucket that is there.
        key: The database's key.
        layout: One of `LAYOUTS`.
        folder: Where the environments of the versions lie, and local files.
        *amounts: How many values, and of how many bytes; none for the small remote.
    """
    version = LAYOUTS[layout]
    environment = folder / f"ebooklet-{version}"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[version]], check=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        place = [endpoint, bucket, key, layout, work]
        subprocess.run([python, MAKER, *place, *map(str, amounts)], check=True)


def make_bucket(client: Any, name: str) -> None:
    """Makes a bucket with versions: without them ebooklet 0.5.4 finds that it can't write there."""
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


@contextlib.contextmanager
def s3_client(endpoint: str) -> Iterator[Any]:
    """Yields a client of the server."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )
    with contextlib.closing(client):
        yield client


def _save(client: Any, key: str, path: Path) -> int:
    """Writes a database's objects to a zip; returns how many there are. Locks are left out."""
    metadata: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=key)
        for name in sorted(found["Key"] for page in pages for found in page.get("Contents", [])):
            if name.startswith(f"{key}.lock"):
                continue
            answer = client.get_object(Bucket=BUCKET, Key=name)
            number = str(len(metadata))
            metadata[name] = answer["Metadata"]
            archive.writestr(number, answer["Body"].read())
        archive.writestr("metadata.json", json.dumps(metadata, indent=1, ensure_ascii=False))
    return len(metadata)


if __name__ == "__main__":
    sys.exit(main())
