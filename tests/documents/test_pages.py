"""Every code block of the documents runs, from the top of its page to the end."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from tests.documents.page_blocks import REPOSITORY, pages, steps
from tests.documents.run_page import run_forked
from tests.processes import workers
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID

README_WORDS = 700
PAGE_TIMEOUT_SECONDS = 120.0


@pytest.mark.parametrize(
    "page", [page for page in pages() if steps(page)], ids=lambda page: str(page.relative_to(REPOSITORY))
)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, ministack_endpoint: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "DOCUMENTS_ENDPOINT": ministack_endpoint,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONWARNINGS": "error",
        "TMPDIR": str(tmp_path / "folder"),
    }
    client = boto3.client(
        "s3",
        endpoint_url=ministack_endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
    )
    _new_bucket(client, "my-bucket")
    client.close()
    (tmp_path / "folder").mkdir()
    output = tmp_path / "output"
    with workers() as start:
        child = start(run_forked, page, tmp_path / "folder", environment, output)
        code = child.receive(PAGE_TIMEOUT_SECONDS)
        child.finish(PAGE_TIMEOUT_SECONDS)
    assert code == 0, output.read_text()
    assert f"{len(steps(page))} blocks ran" in output.read_text()


def _new_bucket(client: object, name: str) -> None:
    """Makes a bucket, or empties the one that is there."""
    s3 = client
    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}  # type: ignore[attr-defined]
    if name not in existing:
        s3.create_bucket(Bucket=name)  # type: ignore[attr-defined]
        return
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):  # type: ignore[attr-defined]
        for found in page.get("Contents", []):
            s3.delete_object(Bucket=name, Key=found["Key"])  # type: ignore[attr-defined]


def test_the_readme_is_short() -> None:
    words = re.findall(r"\S+", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert len(words) <= README_WORDS


def test_a_block_that_fails_fails_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nvalue = 1\n```\n\ntext\n\n```python\nassert value == 2\n```\n")
    environment = {**os.environ, "DOCUMENTS_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.documents.run_page", str(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert "page.md, line 7" in done.stderr


def checked(
    script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[object, str]:
    """Runs a script with `--check`; returns its exit code and what it wrote to stderr."""
    path = REPOSITORY / "scripts" / script
    monkeypatch.setattr(sys, "argv", [str(path), "--check"])
    code: object = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    return code, capsys.readouterr().err


def test_the_tree_of_modules_is_the_one_in_the_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, errors = checked("module_tree.py", capsys, monkeypatch)
    assert code == 0, f"run python scripts/module_tree.py: {code} {errors}"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse of 3.13 words its help otherwise")
def test_the_page_of_the_command_line_is_what_help_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, errors = checked("cli_reference.py", capsys, monkeypatch)
    assert code == 0, f"run python scripts/cli_reference.py: {code} {errors}"
