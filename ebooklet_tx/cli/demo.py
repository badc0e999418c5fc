"""The demonstration: real input, a push killed in its middle, a recovery, and a comparison.

Owns the folder that it works in and the database that it makes at the remote; both are removed at the
end unless they are to be kept. The invariant: it never touches a database that was there before.

The input is the source of Python's own standard library, path -> text. The push of a second
generation of 50 values takes place in a child process that kills itself with SIGKILL, the parent
recovers, and a second copy made from the remote alone is compared value by value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ebooklet_tx.cli.demo_input import changed_texts, read_sources
from ebooklet_tx.connection import Connection, DirectoryConnection, S3Connection, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import Error, InvalidArgumentError, ObjectMissingError
from ebooklet_tx.maintenance.repair import recover
from ebooklet_tx.maintenance.reports import RecoverReport
from ebooklet_tx.opening import open as open_database
from ebooklet_tx.records import digest_of
from ebooklet_tx.stores.counting import CountingStore
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.connecting import remote_at, wrapped_stores

KILL_POINTS = ("before-root", "after-root")
"""Before the root is put, when every pack has arrived; or after it, before the answer is seen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What one step cost."""

    name: str
    seconds: float
    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demonstration saw.

    Attributes:
        values: How many values were stored; `value_bytes` is their encoded size.
        skipped: How many source files are no text in the encoding that they declare.
        killed: Whether the child ended by SIGKILL, in the middle of its push.
        resumed_packs: How many packs the recovery did not send again.
        commit_was_applied: Whether the killed push turned out to have taken effect.
        equal: How many values of the second copy are equal.
        keys_equal: Whether the second copy has exactly the keys that were stored.
        steps: What each step cost, in order.
    """

    remote: str
    values: int
    value_bytes: int
    skipped: int
    changed: int
    changed_bytes: int
    killed: bool
    recovered: bool
    resumed_packs: int
    commit_was_applied: bool
    equal: int
    keys_equal: bool
    steps: tuple[Step, ...]

    @property
    def sound(self) -> bool:
        """Whether everything went as promised."""
        return self.killed and self.recovered and self.keys_equal and self.equal == self.values

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return {**dataclasses.asdict(self), "sound": self.sound}


def run_demo(
    *,
    folder: str | os.PathLike[str] | None = None,
    files: int | None = None,
    endpoint_url: str | None = None,
    bucket: str | None = None,
    key: str | None = None,
    create_bucket: bool = False,
    kill: str = KILL_POINTS[0],
    keep: bool = False,
    say: Callable[[str], None],
) -> DemoReport:
    """Stores, pushes, changes, kills, recovers and compares.

    Args:
        folder: Where to work; None for a temporary folder, which is removed unless `keep`.
        files: How many source files to take at most; None for all.
        endpoint_url: The S3 store's address when it is not AWS.
        bucket: The S3 bucket to push to; None for a folder. Credentials are boto3's to find.
        key: The database's key in the bucket; None for a new one.
        create_bucket: Whether a missing bucket is made.
        kill: One of `KILL_POINTS`.
        keep: Whether files and objects are left there.
        say: Takes each line of the account.

    Raises:
        InvalidArgumentError: The arguments do not fit together, or a database is there already.
        Error: A step failed; what was made is removed unless `keep`.
    """
    if kill not in KILL_POINTS:
        raise InvalidArgumentError(f"kill must be one of {KILL_POINTS}, not {kill!r}")
    with _workplace(folder, keep=keep, say=say) as place:
        connection = _connection(place, endpoint_url, bucket, key)
        if create_bucket and isinstance(connection, S3Connection):
            _create_bucket(connection)
        _check_free(connection)
        try:
            return _Demo(place, connection, kill, say).run(files)
        finally:
            if not keep:
                _remove_objects(connection)


class _Demo:
    def __init__(self, place: Path, connection: Connection, kill: str, say: Callable[[str], None]) -> None:
        self._first = place / "first.blt"
        self._second = place / "second.blt"
        self._connection = connection
        self._kill = kill
        self._say = say
        self._steps: list[Step] = []

    def run(self, files: int | None) -> DemoReport:
        texts, skipped = read_sources(files)
        digests = {key: digest_of(text.encode()) for key, text in texts.items()}
        value_bytes = sum(len(text.encode()) for text in texts.values())
        self._say(f"input    {len(texts):,} source files of Python's library, {value_bytes:,} bytes")
        self._say(f"remote   {self._connection.url}")
        self._say("")
        self._say(f"{'step':<28}{'requests':>9}{'bytes up':>13}{'bytes down':>13}{'seconds':>9}")
        self._store_and_push(texts)
        changed = changed_texts(texts)
        digests |= {key: digest_of(text.encode()) for key, text in changed.items()}
        with self._step(f"change {len(changed)} values") as stores, self._opened(stores) as database:
            database.update(changed)
        killed = self._push_and_die()
        report = self._recover()
        equal, keys_equal = self._compare(digests)
        pushed = report.pushed
        outcome = DemoReport(
            remote=self._connection.url,
            values=len(digests),
            value_bytes=value_bytes,
            skipped=skipped,
            changed=len(changed),
            changed_bytes=sum(len(text.encode()) for text in changed.values()),
            killed=killed,
            recovered=not report.failed and not report.needs_decision,
            resumed_packs=0 if pushed is None else pushed.resumed_packs,
            commit_was_applied=bool(report.applied),
            equal=equal,
            keys_equal=keys_equal,
            steps=tuple(self._steps),
        )
        self._tell(outcome, report)
        return outcome

    def _opened(self, stores: list[CountingStore]) -> Database:
        with wrapped_stores(_counter(stores)):
            return open_database(self._connection, self._first, "c", value_serializer="str")

    @contextlib.contextmanager
    def _step(self, name: str, stores: list[CountingStore] | None = None) -> Iterator[list[CountingStore]]:
        """Records what goes through the stores in the list meanwhile."""
        stores = [] if stores is None else stores
        before = _counts(stores)
        begun = time.perf_counter()
        yield stores
        seconds = round(time.perf_counter() - begun, 3)
        requests, up, down = (now - then for now, then in zip(_counts(stores), before, strict=True))
        self._record(Step(name, seconds, requests, up, down))

    def _record(self, step: Step) -> None:
        self._steps.append(step)
        self._say(
            f"{step.name:<28}{step.requests:>9,}{step.bytes_up:>13,}{step.bytes_down:>13,}{step.seconds:>9.2f}"
        )

    def _store_and_push(self, texts: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as stack:
            with self._step(f"store {len(texts):,} values") as stores:
                database = stack.enter_context(self._opened(stores))
                with database.transaction():
                    database.update(texts)
            with self._step("push them", stores):
                database.changes().push()

    def _push_and_die(self) -> bool:
        """Pushes in a child that kills itself; True when it did so at the point that was meant."""
        begun = time.perf_counter()
        package_parent = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        place = json.dumps(self._connection.to_dict())
        child = subprocess.run(  # noqa: S603
            [sys.executable, "-m", __name__, place, str(self._first), self._kill],
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        seconds = round(time.perf_counter() - begun, 3)
        if child.returncode != -signal.SIGKILL:
            raise Error(
                f"the child that was to be killed ended with {child.returncode}: "
                f"{child.stderr.decode(errors='replace').strip()[-1000:]}"
            )
        counts = json.loads(child.stdout)
        self._record(Step("push them, killed by SIGKILL", seconds, *counts))
        return True

    def _recover(self) -> RecoverReport:
        with self._step("recover") as stores, wrapped_stores(_counter(stores)):
            return recover(self._first, self._connection)

    def _compare(self, digests: Mapping[str, bytes]) -> tuple[int, bool]:
        """Opens a second copy from the remote alone; returns how many values of it are right."""
        with (
            self._step("second copy, all compared") as stores,
            wrapped_stores(_counter(stores)),
            open_database(self._connection, self._second, "r") as copy,
        ):
            equal = sum(digests.get(key) == digest_of(text.encode()) for key, text in copy.items())
            return equal, set(copy) == set(digests)

    def _tell(self, outcome: DemoReport, report: RecoverReport) -> None:
        self._say("")
        for action in report.actions:
            self._say(f"recover: {action}")
        if report.failure is not None:
            self._say(f"recover FAILED: {report.failure}")
        if not outcome.keys_equal:
            self._say("the second copy does NOT have the keys that were stored")
        word = "every value equal" if outcome.sound else "NOT every value equal"
        self._say(f"{word}: {outcome.equal:,} of {outcome.values:,}")


# -- places ------------------------------------------------------------------------------------


def _counts(stores: list[CountingStore]) -> tuple[int, int, int]:
    return (
        sum(store.requests for store in stores),
        sum(store.bytes_up for store in stores),
        sum(store.bytes_down for store in stores),
    )


def _counter(stores: list[CountingStore]) -> Callable[[ObjectStore], ObjectStore]:
    def wrap(store: ObjectStore) -> ObjectStore:
        stores.append(CountingStore(store))
        return stores[-1]

    return wrap


@contextlib.contextmanager
def _workplace(
    folder: str | os.PathLike[str] | None, *, keep: bool, say: Callable[[str], None]
) -> Iterator[Path]:
    """A new folder of the demo's own, removed at the end unless it is to be kept."""
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    if keep:
        place = Path(tempfile.mkdtemp(prefix="ebooklet_tx-demo-", dir=folder))
        say(f"folder   {place}")
        yield place
    else:
        with tempfile.TemporaryDirectory(prefix="ebooklet_tx-demo-", dir=folder) as name:
            yield Path(name)


def _connection(place: Path, endpoint_url: str | None, bucket: str | None, key: str | None) -> Connection:
    if bucket is not None:
        name = key or f"ebooklet_tx-demo-{secrets.token_hex(6)}"
        return S3Connection(bucket=bucket, db_key=name, endpoint_url=endpoint_url)
    if endpoint_url is not None or key is not None:
        raise InvalidArgumentError("endpoint_url and key belong to a bucket: give bucket as well")
    return DirectoryConnection(place / "remote", "demo")


def _create_bucket(connection: S3Connection) -> None:
    # boto3 takes a while to import, and only this needs its store by name.
    from ebooklet_tx.stores.s3 import S3Store

    with contextlib.closing(S3Store(connection)) as store:
        store.create_bucket()


def _check_free(connection: Connection) -> None:
    remote = remote_at(connection, for_writing=True)
    with contextlib.closing(remote.store), contextlib.suppress(ObjectMissingError):
        remote.store.head(remote.names.root)
        raise InvalidArgumentError(f"there is something at {remote.root_place} already; give another key")


def _remove_objects(connection: Connection) -> None:
    """Deletes exactly what belongs to the demo's own database, the root first."""
    remote = remote_at(connection, for_writing=True)
    with contextlib.closing(remote.store):
        names = remote.names
        tickets = [found.key for found in remote.store.list(f"{names.lock}.")]
        for key in [names.root, names.lock, *tickets, *(found.key for found in remote.store.list(names.prefix))]:
            remote.store.delete(key)


# -- the child ---------------------------------------------------------------------------------


class _DyingStore(CountingStore):
    """Kills its own process around the put of the root."""

    def __init__(self, inner: ObjectStore, root: str, kill: str) -> None:
        super().__init__(inner)
        self._root = root
        self._kill = kill

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        if key == self._root and self._kill == "before-root":
            self._die()
        etag = super().put(key, data, if_match=if_match, if_absent=if_absent, metadata=metadata)
        if key == self._root:
            self._die()
        return etag

    def _die(self) -> None:
        counts = json.dumps([self.requests, self.bytes_up, self.bytes_down])
        os.write(sys.stdout.fileno(), counts.encode())
        os.kill(os.getpid(), signal.SIGKILL)


def _child(place: str, path: str, kill: str) -> None:
    """Pushes what is pending; does not return."""
    connection = parse_connection(json.loads(place))
    with (
        wrapped_stores(lambda store: _DyingStore(store, connection.key, kill)),
        open_database(connection, path, "w") as database,
    ):
        database.changes().push()


if __name__ == "__main__":
    _child(*sys.argv[1:])
