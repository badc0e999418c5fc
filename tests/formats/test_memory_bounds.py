"""Small or hostile objects never cost memory out of proportion, and what is too long is not read."""

from __future__ import annotations

import contextlib
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
from tests.formats.samples import FRAME_HEADER, forged_root
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
    """A block of about a length, whose columns are as large as deflate can make them."""
    packer = zlib.compressobj(9)
    begin = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so that the same piece may come again and again.
    piece = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = payload_bytes // len(piece)
    # An empty last piece, and the checksum of so many zeros.
    packed = begin + piece * count + b"\x03\x00" + struct.pack(">HH", count * 2**20 % 65_521, 1)
    return FRAME_HEADER.pack(b"EBTXblk\n", 2, 0, 1, len(packed), count * 2**20) + packed


def test_the_bomb_is_one() -> None:
    _, _, _, _, packed_bytes, raw_bytes = FRAME_HEADER.unpack_from(bomb(10_000))
    raw = zlib.decompress(bomb(10_000)[FRAME_HEADER.size :])
    assert raw == bytes(raw_bytes)
    assert len(raw) > 800 * packed_bytes


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
    tail.root.write_bytes(forged_root(root.manifest, bomb(100_000)))
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


def test_no_more_of_an_index_object_is_read_than_its_root_says(tmp_path: Path) -> None:
    bench = made(tmp_path / "one")
    with bench.open("maker", "w") as db:
        # Too many for the root's tail.
        db.update({f"k{number:04}": b"%d" % number for number in range(2000)})
        db.changes().push()
    with bench.open("reader") as db:
        values = sorted(db.items())
    (index_object,) = bench.objects("index")
    bench.path("reader").unlink()
    bench.journal("reader").unlink()
    sparse(index_object, index_object.read_bytes())
    # What its digests say is there, and no other byte was asked for.
    assert outcomes([case(made(tmp_path / "warm")), case(bench)])[0] == repr(values)
