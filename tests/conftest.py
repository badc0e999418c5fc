"""What all tests share: a place for their folders, and one server of each kind per worker."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ebooklet_tx.locks import machine_queue
from tests.quick_clients import remember
from tests.s3_proxy import Mode, S3Proxy, s3_proxy
from tests.servers import ministack_server, rclone_server, seaweedfs_server

remember()

# A test that lets one push wait for another within it has it waited for no longer than this.
machine_queue.LEAST_PATIENCE_SECONDS = 0.05

# Processes that tests start keep what they compile, as they do by default: a short one costs little else.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("quick", max_examples=40)
settings.register_profile("long", max_examples=100)

# The package imports these when they are used: then they would take in what a test has patched, and keep it.
for _late in ("maintenance.compact", "maintenance.copy", "maintenance.erase", "opening.at_snapshot"):
    importlib.import_module(f"ebooklet_tx.{_late}")
for _late in ("database.coordinating", "database.parallel", "index.merging", "stores.directory", "stores.http"):
    importlib.import_module(f"ebooklet_tx.{_late}")
for _late in ("commit.builder", "commit.push", "forks.merge", "forks.work"):
    importlib.import_module(f"ebooklet_tx.sync.{_late}")
for _late in ("difference", "kept", "restore"):
    importlib.import_module(f"ebooklet_tx.maintenance.snapshots.{_late}")

_MEMORY_FOLDER = Path("/dev/shm")
_MEMORY_NEEDED_BYTES = 2**30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets the contract suite run on any S3 server."""
    parser.addoption(
        "--s3-endpoint",
        default=os.environ.get("EBOOKLET_TX_TEST_S3_ENDPOINT"),
        metavar="URL",
        help=(
            "run the store contract on this S3 server alone (also EBOOKLET_TX_TEST_S3_ENDPOINT); credentials as "
            "boto3 finds them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE). "
            "EBOOKLET_TX_TEST_S3_BUCKET names an empty bucket, which is emptied after each test; without it "
            "each test makes a bucket of its own and removes it"
        ),
    )


def pytest_configure(config: pytest.Config) -> None:
    """Chooses how many examples are tried, and puts the folders of tests and servers in memory.

    Not where they were put elsewhere, or memory is short. A process that dies leaves the same there as on a disk,
    and no test waits for a disk.
    """
    settings.load_profile("quick" if config.option.markexpr == "not slow" else "long")
    if config.option.basetemp is not None or "TMPDIR" in os.environ:
        return
    usable = _MEMORY_FOLDER.is_dir() and os.access(_MEMORY_FOLDER, os.W_OK | os.X_OK)
    if usable and shutil.disk_usage(_MEMORY_FOLDER).free > _MEMORY_NEEDED_BYTES:
        # Workers and servers are told by the environment that they inherit.
        os.environ["TMPDIR"] = str(_MEMORY_FOLDER)
        tempfile.tempdir = None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves what takes long to CI; `scripts/long_tests.py` makes the list from measured times."""
    long = frozenset(Path(__file__).with_name("long_tests.txt").read_text().splitlines())
    for item in items:
        if item.nodeid in long:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.ci)


def pytest_collection_finish() -> None:
    """Keeps Python from looking through all that was collected, again and again, for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps writers of other processes of this run out: their stores in memory bear the same names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(scope="session")
def ministack_endpoint() -> Iterator[str]:
    """The URL of an S3 store with conditional writes, that accepts any credentials."""
    with ministack_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 store that ignores conditions, and checks credentials."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def seaweedfs_endpoint() -> Iterator[str]:
    """The URL of an S3 store with conditional writes, that checks credentials and takes seconds to start."""
    with seaweedfs_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def proxy_in(ministack_endpoint: str) -> Iterator[Callable[[Mode], S3Proxy]]:
    """Gives the one proxy of a mode in front of ministack."""
    with contextlib.ExitStack() as stack:
        proxies: dict[Mode, S3Proxy] = {}

        def get(mode: Mode) -> S3Proxy:
            if mode not in proxies:
                proxies[mode] = stack.enter_context(s3_proxy(ministack_endpoint, mode))
            proxies[mode].reset()
            proxies[mode].mode = mode
            return proxies[mode]

        yield get


@pytest.fixture
def heard_sigint() -> Iterator[None]:
    """Lets SIGINT raise `KeyboardInterrupt`, as in a process that a shell runs in the foreground.

    One that it runs in the background ignores the signal from its start, and so do the workers of such a run.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
