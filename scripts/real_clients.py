"""Runs programs of others on ebooklet_tx, unmodified: cfdb 0.11.0, cfdb 0.1.0, envlib 0.1.8, cfdb-ingest 0.8.0.

    python scripts/real_clients.py [--keep FOLDER] [CLIENT ...]

Owns a folder with a virtual environment for each client, and an S3 server on loopback; both go at the end,
the folder unless it is to be kept. Each environment has the client from the package index, this checkout,
and in front of everything else on its path a module `ebooklet` that hands on the names of ebooklet_tx. The
programs that use the clients lie in `real_clients/`. Each step prints `ok` or `FAIL`, and the exit code is 1
if there was any FAIL. A folder that was kept is used again, so that only the checkout is installed anew.

    python scripts/real_clients.py --suites FOLDER [CLIENT ...]

runs the clients' own tests as well, from `FOLDER/<client>`: their source distributions have none, so they are
to be fetched from where they are developed. Each is counted as a step.

The server needs the test extra in the environment that runs this script.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, ministack_server  # noqa: E402

BUCKET = "real-clients"
SUITE_BUCKET = "achelous"
"""Where envlib's tests with a store work."""

INSTALL_TIMEOUT_SECONDS = 600
PROGRAM_TIMEOUT_SECONDS = 600

SHIM_GUARD = '''"""Loads the shim before anything else is, and says so if that failed."""

import pathlib

import ebooklet

assert pathlib.Path(ebooklet.__file__).parent == pathlib.Path(__file__).parent, ebooklet.__file__
'''

SHIM = '''"""The name under which programs import what ebooklet_tx provides."""

import sys

from ebooklet_tx import *
from ebooklet_tx import __version__, errors, remote

sys.modules["ebooklet.errors"], sys.modules["ebooklet.remote"] = errors, remote
'''

TOLD = ("booklet", "cfdb", "cfdb-ingest", "ebooklet", "ebooklet-tx", "envlib", "numpy")
"""The packages whose versions are printed."""


@dataclasses.dataclass(frozen=True)
class Client:
    """A client: what pip is to install, and the program that uses it.

    Attributes:
        unreachable: Whether the program has a second half, for after the server's end.
    """

    name: str
    requirements: tuple[str, ...]
    program: str
    unreachable: bool = False


CLIENTS = (
    Client("cfdb-0.11.0", ("cfdb==0.11.0",), "cfdb_0_11_0.py"),
    # The first cfdb asks for rechunkit from 0.1.0 on, and runs with no later one.
    Client("cfdb-0.1.0", ("cfdb==0.1.0", "rechunkit==0.1.0"), "cfdb_0_1_0.py"),
    # It depends on the distribution `ebooklet`, which therefore is installed behind the shim.
    Client("envlib-0.1.8", ("envlib==0.1.8",), "envlib_0_1_8.py", unreachable=True),
    Client("cfdb-ingest-0.8.0", ("cfdb-ingest[archive]==0.8.0",), "cfdb_ingest_0_8_0.py"),
)


@dataclasses.dataclass
class Tally:
    """How the steps of all programs went."""

    passed: int = 0
    failed: int = 0

    def count(self, line: str) -> None:
        """Counts a line that a program printed."""
        self.passed += line.startswith("ok ")
        self.failed += line.startswith("FAIL ")


def main() -> int:
    """Prepares every environment, runs every program, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work here, and leave it")
    parser.add_argument("--suites", type=Path, metavar="FOLDER", help="run their own tests from here as well")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(client.name for client in CLIENTS))
    arguments = parser.parse_args()
    chosen = [client for client in CLIENTS if not arguments.clients or client.name in arguments.clients]
    unknown = set(arguments.clients) - {client.name for client in CLIENTS}
    if unknown:
        parser.error(f"unknown clients {sorted(unknown)}; known are {[client.name for client in CLIENTS]}")
    start = time.monotonic()
    tally = Tally()
    with _folder(arguments.keep) as folder:
        shim = folder / "shim"
        shim.mkdir(exist_ok=True)
        (shim / "ebooklet.py").write_text(SHIM)
        (shim / "shim_guard.py").write_text(SHIM_GUARD)
        for client in chosen:
            suite = None if arguments.suites is None else arguments.suites.resolve() / client.name
            _try(client, folder, shim, suite, tally)
    print(f"{tally.passed} ok, {tally.failed} FAIL, {time.monotonic() - start:.0f} s", flush=True)
    return 1 if tally.failed else 0


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="real-clients-") as folder:
        yield Path(folder)


def _try(client: Client, folder: Path, shim: Path, suite: Path | None, tally: Tally) -> None:
    """Installs one client and runs its program; whatever goes wrong is a FAIL and no more."""
    start = time.monotonic()
    print(f"== {client.name}", flush=True)
    try:
        python = _environment(client, folder / client.name)
        print(f"   {_versions(python)} ({time.monotonic() - start:.0f} s to install)", flush=True)
        with tempfile.TemporaryDirectory(prefix="machines-", dir=folder) as machines:
            _run_program(client, python, shim, Path(machines), tally)
        if suite is not None and suite.is_dir():
            _run_suite(python, shim, suite, tally)
    except (subprocess.SubprocessError, OSError, RuntimeError) as error:
        line = f"FAIL {client.name}: {error}"
        output = getattr(error, "stdout", None)
        print(line, output or "", sep="\n", flush=True)
        tally.count(line)
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def _environment(client: Client, place: Path) -> Path:
    """Makes an environment with the client and this checkout, and returns its Python."""
    python = place / "bin" / "python"
    if not python.exists():
        _quietly(sys.executable, "-m", "venv", place)
        _quietly(python, "-m", "pip", "install", "--disable-pip-version-check", *client.requirements)
    _quietly(python, "-m", "pip", "install", "--disable-pip-version-check", ROOT)
    # A checkout of the same version number would not be installed a second time.
    _quietly(
        python, "-m", "pip", "install", "--disable-pip-version-check", "--force-reinstall", "--no-deps", ROOT
    )
    return python


def _quietly(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=INSTALL_TIMEOUT_SECONDS,
    ).stdout


def _versions(python: Path) -> str:
    ask = (
        "import json, platform\nfrom importlib.metadata import distributions\n"
        "print(json.dumps({'python': platform.python_version()} | "
        "{d.metadata['Name']: d.version for d in distributions()}))"
    )
    found = json.loads(_quietly(python, "-c", ask))
    return ", ".join(f"{name} {found[name]}" for name in ("python", *TOLD) if name in found)


def _run_suite(python: Path, shim: Path, suite: Path, tally: Tally) -> None:
    """Runs a client's own tests, which lie as in its source tree, with a store to work on."""
    _quietly(python, "-m", "pip", "install", "--disable-pip-version-check", "pytest")
    packages = Path(_quietly(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    shutil.copytree(suite, packages, dirs_exist_ok=True)
    tests = [str(packages / path.relative_to(suite)) for path in sorted(suite.rglob("test_*.py"))]
    with ministack_server() as endpoint:
        _make_bucket(endpoint, SUITE_BUCKET)
        told = {"endpoint_url": endpoint, "access_key_id": ACCESS_KEY_ID, "access_key": ACCESS_KEY}
        done = subprocess.run(
            # The packages' own place must not come before the shim; the plugin sees to that.
            [str(python), "-m", "pytest", "-q", "-rA", "-p", "shim_guard", "--import-mode=append", *tests],
            env=_environment_of(shim) | told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=shim.parent,
            check=False,
            text=True,
            timeout=PROGRAM_TIMEOUT_SECONDS,
        )
    if done.returncode not in (0, 1):
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout)
    words = {"PASSED": "ok", "FAILED": "FAIL", "ERROR": "FAIL", "SKIPPED": "skipped"}
    for outcome, _, what in (line.partition(" ") for line in done.stdout.splitlines()):
        if outcome in words:
            line = f"{words[outcome]} its own {what.removeprefix(str(packages) + '/')}"
            print(f"   {line}", flush=True)
            tally.count(line)


def _run_program(client: Client, python: Path, shim: Path, machines: Path, tally: Tally) -> None:
    program = ROOT / "scripts" / "real_clients" / client.program
    with ministack_server() as endpoint:
        _make_bucket(endpoint, BUCKET)
        command = [str(python), str(program), "--endpoint", endpoint, "--bucket", BUCKET]
        command += ["--folder", str(machines), "--shim", str(shim)]
        _passing_on(command, shim, tally)
    if client.unreachable:
        _passing_on([*command, "--unreachable"], shim, tally)


def _make_bucket(endpoint: str, bucket: str) -> None:
    with contextlib.closing(
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=ACCESS_KEY,
            region_name="us-east-1",
        )
    ) as store:
        store.create_bucket(Bucket=bucket)


def _environment_of(shim: Path) -> dict[str, str]:
    """Returns the environment of a client: the shim before all else, and no credentials."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return environment | {"PYTHONPATH": str(shim), "HOME": str(shim.parent)}


def _passing_on(command: list[str], shim: Path, tally: Tally) -> None:
    """Runs a program, shows what it prints, and counts its steps."""
    environment = _environment_of(shim)
    failed_before = tally.failed
    # What it says on stderr goes to ours, as it comes.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        timer = threading.Timer(PROGRAM_TIMEOUT_SECONDS, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                print(f"   {line}", end="", flush=True)
                tally.count(line)
            code = process.wait()
        finally:
            timer.cancel()
    if code not in (0, 1) or (code == 1 and tally.failed == failed_before):
        raise RuntimeError(f"{Path(command[1]).name} ended with {code}")


if __name__ == "__main__":
    sys.exit(main())
