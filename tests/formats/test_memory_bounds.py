"""Small or hostile objects never cost memory out of proportion, and what is too long is not read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx import limits
from ebooklet_tx.formats.root import encode_root
from tests.formats.test_limits import forged_root
from tests.pairs import Bench, root_of
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, http_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux alone")

GIGABYTE = 2**30


def sparse(path: Path, start: bytes = b"", size_bytes: int = GIGABYTE) -> None:
    """Makes an object of a gigabyte that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size_bytes)


def bomb(payload_bytes: int) -> bytes:
    """A segment blob of about a length, whose image is as large as deflate can make it."""
    packer = zlib.compressobj(9)
    begin = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so that the same block may come again and again.
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = payload_bytes // len(block)
    image_bytes = count * 2**20
    # An empty last block, and the checksum of so many zeros.
    payload = begin + block * count + b"\x03\x00" + struct.pack(">HH", image_bytes % 65_521, 1)
    head = struct.pack("<8sHHQ", b"EBTXseg\n", 1, 0, image_bytes)
    return head + hashlib.blake2b(head + payload, digest_size=16).digest() + payload


def test_the_bomb_is_one() -> None:
    blob = bomb(10_000)
    assert zlib.decompress(blob[36:]) == bytes(struct.unpack_from("<Q", blob, 12)[0])
    assert len(zlib.decompress(blob[36:])) > 800 * len(blob)


class Endless(BaseHTTPRequestHandler):
    """Answers every GET with a body that tells no length and does not end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Connection", "close")
        self.end_headers()
        piece = bytes(2**20)
        with contextlib.suppress(OSError):
            for _ in range(1024):
                self.wfile.write(piece)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def endless() -> Iterator[str]:
    with http_server(Endless) as url:
        yield url


def made(folder: Path) -> Bench:
    bench = Bench(folder)
    folder.mkdir()
    with bench.open("maker") as db:
        db["k"] = b"v"
        db.changes().push()
    return bench


def case(bench: Bench, flag: str = "r", **options: Any) -> dict[str, Any]:
    return {
        "action": "open",
        "remote": bench.url,
        "path": str(bench.path("reader")),
        "flag": flag,
        "options": {"lock": None} | options,
    }


def outcomes(cases: list[dict[str, Any]]) -> list[str]:
    child = subprocess.run(
        [sys.executable, "-m", "tests.memory_bounds"],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return list(json.loads(child.stdout))


def test_bombs_in_every_place_of_a_remote(tmp_path: Path, endless: str) -> None:
    warm = made(tmp_path / "warm")
    s3 = {
        "access_key_id": ACCESS_KEY_ID,
        "access_key": ACCESS_KEY,
        "db_key": "db",
        "bucket": "bucket",
        "endpoint_url": endless,
    }
    cases: list[dict[str, Any]] = [case(warm)]
    words: list[str] = []

    def expect(what: dict[str, Any], outcome: str) -> None:
        cases.append(what)
        words.append(outcome)

    buckets = made(tmp_path / "buckets")
    root = root_of(buckets)
    buckets.root.write_bytes(
        forged_root(replace(root.manifest, n_buckets=limits.MAX_BUCKETS, key_count=limits.MAX_COUNT), root.tail)
    )
    expect(case(buckets, "w"), "[('k', b'v')]")
    too_many = made(tmp_path / "too many")
    too_many.root.write_bytes(forged_root(replace(root.manifest, n_buckets=2**28), root.tail))
    expect(case(too_many), "RemoteIntegrityError: .*n_buckets")

    large_tail = made(tmp_path / "large tail")
    large_tail.root.write_bytes(forged_root(root.manifest, bomb(2_000_000)))
    expect(case(large_tail), "RemoteIntegrityError: .*over 262144 bytes")
    tail = made(tmp_path / "tail")
    tail.root.write_bytes(encode_root(root.manifest, bomb(100_000)))
    expect(case(tail), "RemoteIntegrityError: .*announces .* bytes when decompressed")

    lock = made(tmp_path / "lock")
    sparse(lock.root.with_name("db.lock"))
    expect(case(lock, "w", lock="exclusive"), "LockTimeoutError: .*an unknown writer")
    expect(case(lock, "w", lock="exclusive", force_lock=True), "[('k', b'v')]")

    for start, outcome in (
        (b"", "UnsupportedFormatError: a foreign object"),
        (b"ebooklet-db\0", "UnsupportedFormatError: .*ebooklet wrote"),
        (b"EBTXroot", "RemoteIntegrityError: .*not a sound root"),
    ):
        foreign = made(tmp_path / f"foreign{len(words)}")
        sparse(foreign.root, start)
        expect(case(foreign), outcome)

    note = made(tmp_path / "note")
    sparse(note.root.with_name("db.d") / "snapshot" / "s", b"EBTXroot")
    expect({"action": "collect", "remote": note.url}, "RemoteIntegrityError: .*snapshot")

    expect(case(warm) | {"remote": f"{endless}/db"}, "UnsupportedFormatError: a foreign object")
    expect(case(warm) | {"remote": s3}, "UnsupportedFormatError: a foreign object")

    for outcome, wanted in zip(outcomes(cases), words, strict=True):
        missing = [part for part in wanted.split(".*") if part not in outcome]
        assert not missing, (wanted, outcome)


def test_a_segment_longer_than_its_root_says_is_not_read(tmp_path: Path) -> None:
    bench = made(tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebooklet_tx.sync.commit.builder.ROOT_TAIL_LIMIT_BYTES", 10)
        with bench.open("maker", "w") as db:
            db["k"] = b"2"
            db.changes().push()
    (segment,) = bench.objects("index")
    sparse(segment, segment.read_bytes())
    assert "ObjectTooLargeError" in outcomes([case(made(tmp_path / "warm")), case(bench)])[0]
