"""`import-ebooklet` as a user runs it, and imports from a real S3 server."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import boto3
import pytest

import ebooklet_tx
from ebooklet_tx.cli import importing
from ebooklet_tx.cli.commands import DONE, FAILED, NEEDS_DECISION, main
from tests.ebooklet_remotes import KEY, PLACE, bucket_in_memory, golden_contents, golden_objects, shelved
from tests.pairs import Bench
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


def test_it_tells_what_it_did(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with bucket_in_memory(shelved(golden_objects("grouped"))):
        assert main(["import-ebooklet", PLACE, bench.url, "--verify"]) == DONE
        told = capsys.readouterr()
        assert told.err == ""
        assert told.out.splitlines() == [
            "source     39 keys, grouped, serializer orjson",
            "imported   39 keys, 5,640 bytes, in 1 push; the target stands at commit 1",
            "verified   39 values are equal, and so are the timestamps",
        ]
        # The local file is named for the target.
        assert (bench.folder / "db.blt").is_file()
        assert main(["import-ebooklet", PLACE, bench.url, "--json", "--path", "other.blt"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["present_keys"], found["imported_keys"], found["sound"]) == (39, 0, True)
    assert set(found) == {"sound", *ebooklet_tx.ImportReport.__dataclass_fields__}


def test_what_is_missing_needs_a_decision(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    objects = golden_objects("per_key")
    del objects[f"{KEY}/k10"]
    with bucket_in_memory(shelved(objects)):
        assert main(["import-ebooklet", PLACE, bench.url]) == NEEDS_DECISION
        assert "ebooklet_tx: 1 of the 39 values" in capsys.readouterr().err
        assert main(["import-ebooklet", PLACE, bench.url, "--accept-missing"]) == NEEDS_DECISION
    assert "MISSING    1 key could not be had:\n           'k10':" in capsys.readouterr().out


def test_there_is_nothing_to_import(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with bucket_in_memory(shelved({})):
        assert main(["import-ebooklet", PLACE, bench.url]) == FAILED
    told = capsys.readouterr().err
    assert told.startswith("ebooklet_tx: there is no database of ebooklet")
    assert told.count("\n") == 1


def places(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Returns source, target and path that the import is called with."""
    called: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ebooklet_tx, "import_ebooklet", lambda *given, **_: called.append(given))
    parser = argparse.ArgumentParser()
    importing.add_import_arguments(parser)
    importing.run_import(parser.parse_args(arguments))
    return called[0]


def test_options_of_both_places(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = ["s3://old/db", "s3://new/some/db.blt?region=x"]
    found = places(*urls, "--profile", "p", "--source-profile", "q/r", monkeypatch=monkeypatch)
    assert found == ("s3://old/db?profile=q%2Fr", "s3://new/some/db.blt?region=x&profile=p", Path("db.blt"))
    found = places(*urls, "--endpoint-url", "http://h:1", "--path", "l", monkeypatch=monkeypatch)
    assert found[0] == "s3://old/db?endpoint_url=http%3A%2F%2Fh%3A1"
    assert found[2] == Path("l")
    found = places("http://h/db", "file:///f/my%20db", "--region", "r", monkeypatch=monkeypatch)
    assert found == ("http://h/db", "file:///f/my%20db", Path("my db.blt"))


@pytest.mark.parametrize("layout", ["one", "grouped"])
def test_from_a_bucket_and_by_its_public_address(
    bench: Bench, layout: str, ministack_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that need quoting come over as well."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ACCESS_KEY)
    client = boto3.client("s3", endpoint_url=ministack_endpoint, region_name="us-east-1")
    bucket = f"import-{layout}"
    client.create_bucket(Bucket=bucket)
    for name, (data, metadata) in golden_objects(layout).items():
        client.put_object(Bucket=bucket, Key=f"a/{name}", Body=data, Metadata=metadata)
    client.close()
    command = ["import-ebooklet", f"s3://{bucket}/a/{KEY}", f"s3://{bucket}/new", "--verify"]
    assert main([*command, "--endpoint-url", ministack_endpoint, "--region", "us-east-1"]) == DONE
    assert main(["import-ebooklet", f"{ministack_endpoint}/{bucket}/a/{KEY}", bench.url, "--verify"]) == DONE
    expected = golden_contents(layout)
    for place in (f"s3://{bucket}/new?endpoint_url={ministack_endpoint}", bench.url):
        with ebooklet_tx.open(place, bench.path(place[:2])) as db:
            assert {key: (stamp, value) for key, stamp, value in db.timestamps(include_value=True)} == expected
