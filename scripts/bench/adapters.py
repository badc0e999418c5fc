"""What is measured, each behind the same few words; used in child processes alone.

Owns no state. The invariant: an adapter's library is imported by `prepare`, before any clock runs, and an
adapter does what a program of its users would do, with default settings.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ACCESS_KEY_ID = "bench-key"
ACCESS_KEY = "bench-secret"
UPLOAD_BYTES = 16 << 20
UPLOADS_IN_FLIGHT = 8
PEER_DEFAULT_KEYS = 140_000
"""The peer's first push of more keys fails with its default number of buckets."""


class Mapping:
    """ebooklet_tx and ebooklet: a local file that syncs."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.is_ours = spec["adapter"] == "ours"
        self._module: Any = None

    def prepare(self) -> None:
        """Imports everything that a session needs."""
        if self.is_ours:
            # What a program that has used a database of bytes has loaded: the peer's import loads all of its own.
            for name in ("ebooklet_tx.opening", "ebooklet_tx.changes", "ebooklet_tx.stores.s3"):
                importlib.import_module(name)
        self._module = importlib.import_module("ebooklet_tx" if self.is_ours else "ebooklet")

    @property
    def module(self) -> Any:
        """The library."""
        return self._module

    def connection(self) -> Any:
        """Returns the library's own connection to the place."""
        spec = self.spec
        return self._module.S3Connection(
            ACCESS_KEY_ID, ACCESS_KEY, spec["db_key"], spec["bucket"], spec["endpoint"]
        )

    def warm_up(self) -> None:
        """Makes a client of boto3, for ours, and closes it: the first one of a process reads what S3 is."""
        if self.is_ours:
            importlib.import_module("ebooklet_tx.stores.s3").S3Store(self.connection()).close()

    def open(self, flag: str, **options: Any) -> Any:
        """Opens the database; for writing with the library's own lock."""
        if self.is_ours:
            return self._module.open(self.connection(), self.spec["path"], flag, **options)
        if flag != "r" and self.spec["adapter"] == "per key":
            options["group_bytes"] = None
        if self.spec.get("n", 0) > PEER_DEFAULT_KEYS and flag in ("c", "n") and not self.spec.get("local_only"):
            options["n_buckets"] = 2 * self.spec["n"]
        return self._module.open_ebooklet(self.connection(), self.spec["path"], flag, **options)


class FSMap:
    """fsspec's mapping over s3fs: one object for each key, nothing local."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.map: Any = None

    def prepare(self) -> None:
        """Imports the library; nothing is sent."""
        importlib.import_module("s3fs")

    def open(self) -> Any:
        """Returns the mapping."""
        fsspec = importlib.import_module("fsspec")
        spec = self.spec
        options = {"key": ACCESS_KEY_ID, "secret": ACCESS_KEY, "endpoint_url": spec["endpoint"]}
        return fsspec.get_mapper(
            f"s3://{spec['bucket']}/{spec['db_key']}", client_kwargs={"region_name": "us-east-1"}, **options
        )


class BareUpload:
    """boto3 alone: the same bytes as large objects, several at once; the floor of a push."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self._client: Any = None

    def prepare(self) -> None:
        """Makes the client."""
        boto3 = importlib.import_module("boto3")
        config = importlib.import_module("botocore.config").Config(
            s3={"addressing_style": "path"},
            max_pool_connections=UPLOADS_IN_FLIGHT,
            request_checksum_calculation="when_required",
        )
        self._client = boto3.client(
            "s3",
            endpoint_url=self.spec["endpoint"],
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=ACCESS_KEY,
            region_name="us-east-1",
            config=config,
        )

    def upload(self, bodies: Sequence[bytes]) -> None:
        """Sends the bodies as objects."""
        spec = self.spec

        def send(number: int) -> None:
            self._client.put_object(Bucket=spec["bucket"], Key=f"{spec['db_key']}/{number}", Body=bodies[number])

        with ThreadPoolExecutor(UPLOADS_IN_FLIGHT) as pool:
            list(pool.map(send, range(len(bodies))))


def bodies_of(pairs: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Joins keys and values to bodies of up to 16 MiB."""
    return list(_joined(itertools.chain.from_iterable((key.encode(), value) for key, value in pairs)))


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    body = bytearray()
    for piece in pieces:
        if body and len(body) + len(piece) > UPLOAD_BYTES:
            yield bytes(body)
            body.clear()
        body += piece
    if body:
        yield bytes(body)
