"""SIGKILL at every request of a push of 200 keys, before and after the request takes effect.

Against an S3 server every HTTP request that boto3 sends is such a point, parts and lookups included;
against a folder every operation of the store is. A process that dies "after" has sent its request and
has had the answer, and has not yet looked at it.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.formats.pack import iter_pack
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.object_store import ByteSource, ObjectStore, UploadState
from ebooklet_tx.sync import connecting as place
from tests.campaigns import amounts
from tests.faults import checks
from tests.faults.killing import KillServer, Outcome
from tests.faults.scenarios import (
    FILE,
    PUSHES,
    READER_FILE,
    Content,
    Template,
    remote_of,
    small_packs,
)
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID
from tests.store_wrappers import PassingStore

KIND = "request points"
BUCKET = "kill-matrix"


# -- where the remote is -----------------------------------------------------------------------


class FolderRemote:
    """The remote lies in the copied folder itself, so each copy of a template has its own."""

    what = "store"

    def place(self, folder: Path) -> Any:
        return remote_of(folder)

    def copy_to(self, folder: Path, source: Path) -> None:
        pass

    def objects(self, folder: Path) -> dict[str, bytes]:
        named = folder / "remote" / "db.d"
        return {str(path.relative_to(named)): path.read_bytes() for path in named.rglob("*") if path.is_file()}


class BucketRemote:
    """The remote is a key of its own in a bucket, copied there from the template's."""

    what = "http"

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=ACCESS_KEY,
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket=BUCKET)
        self._names: dict[Path, str] = {}

    def close(self) -> None:
        self._client.close()

    def _name(self, folder: Path) -> str:
        return self._names.setdefault(folder, uuid.uuid4().hex)

    def place(self, folder: Path) -> Any:
        return {
            "access_key_id": ACCESS_KEY_ID,
            "access_key": ACCESS_KEY,
            "db_key": f"{self._name(folder)}/db",
            "bucket": BUCKET,
            "endpoint_url": self._endpoint,
        }

    def copy_to(self, folder: Path, source: Path) -> None:
        prefix = f"{self._name(source)}/"
        for entry in self._client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
            key = f"{self._name(folder)}/{entry['Key'].removeprefix(prefix)}"
            self._client.copy_object(Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": entry["Key"]})

    def objects(self, folder: Path) -> dict[str, bytes]:
        prefix = f"{self._name(folder)}/db.d/"
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {
            entry["Key"].removeprefix(prefix): self._client.get_object(Bucket=BUCKET, Key=entry["Key"])[
                "Body"
            ].read()
            for entry in found
        }


# -- what is sent again ------------------------------------------------------------------------


@dataclass
class Sent:
    """What the push after a kill sent: objects by their relative names, and parts."""

    objects: dict[str, bytes] = field(default_factory=dict)
    parts: int = 0


class _RecordingStore(PassingStore):
    def __init__(self, inner: ObjectStore, sent: Sent) -> None:
        super().__init__(inner)
        self._record = sent

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        self._record.parts += kind == "part"
        return send()

    def put(self, key: str, data: bytes, **options: Any) -> str:
        if ".d/" in key:
            self._record.objects[key.partition(".d/")[2]] = data
        return super().put(key, data, **options)

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        self._record.objects[key.partition(".d/")[2]] = source.read_at(0, source.size_bytes)
        return super().put_parts(key, source, part_bytes=part_bytes, resume=resume, on_part=on_part)


@contextmanager
def recorded() -> Iterator[Sent]:
    """Records the objects that this process sends."""
    sent = Sent()

    def recording(*arguments: Any, **options: Any) -> Any:
        store = open_store(*arguments, **options)
        store.inner = _RecordingStore(store.inner, sent)
        return store

    with mock.patch.object(place, "open_store", recording):
        yield sent


def _values(objects: dict[str, bytes]) -> set[tuple[str, bytes]]:
    packs = {name: data for name, data in objects.items() if name.startswith("pack/")}
    return {(key, value) for name, data in packs.items() for key, _, _, value in iter_pack(data, name=name)}


def _recorded_parts(folder: Path) -> int:
    """Returns how many parts of an unfinished upload the killed process had recorded."""
    spare = folder / "spare"
    shutil.copytree(folder, spare, ignore=lambda _, names: [n for n in names if not n.startswith(FILE)])
    journal = sqlite3.connect(spare / f"{FILE}.journal")
    try:
        rows = journal.execute("SELECT parts FROM upload WHERE parts IS NOT NULL AND etag IS NULL").fetchall()
    finally:
        journal.close()
        shutil.rmtree(spare)
    return sum(len(json.loads(parts)) for (parts,) in rows)


# -- the matrix --------------------------------------------------------------------------------


class Pushes:
    """One push that is killed again and again, each time in a new copy of its template."""

    def __init__(self, server: KillServer, folder: Path, name: str, remote: Any) -> None:
        self._server = server
        self._folder = folder
        self._name = name
        self._remote = remote
        self._scenario = PUSHES[name]
        self._template_folder = folder / "template"
        self._template_folder.mkdir()
        self._template: Template = self._scenario.make(self._template_folder, self._place(self._template_folder))
        self._states = self._scenario.states(self._template.local)
        self._copies = 0

    @contextmanager
    def copy(self) -> Iterator[Path]:
        self._copies += 1
        folder = self._folder / f"copy{self._copies:06}"
        shutil.copytree(self._template_folder, folder)
        self._remote.copy_to(folder, self._template_folder)
        yield folder
        shutil.rmtree(folder)

    def _place(self, folder: Path) -> Any:
        place = self._remote.place(folder)
        return S3Connection(**place) if isinstance(place, dict) else place

    def run(self, folder: Path, at: int, *, after: bool) -> Outcome:
        return self._server.run(
            {
                "scenario": self._name,
                "folder": str(folder),
                "remote": self._remote.place(folder),
                "injection": {"what": self._remote.what, "at": at, "after": after},
            }
        )

    def requests(self) -> list[str]:
        """Lets one child live and returns its requests."""
        with self.copy() as folder:
            outcome = self.run(folder, -1, after=False)
            return outcome.events

    def check(self, folder: Path, outcome: Outcome, *, new_machine: bool) -> None:
        """Raises unless all that is promised holds after a kill.

        Args:
            folder: The folder.
            outcome: How far the child came.
            new_machine: Whether the second reader begins with nothing, if it could have a copy.
        """
        remote = self._place(folder)
        allowed = [self._states[number] for number in outcome.allowed()]
        old, new = self._template.remote, self._states[-1]
        second = folder / READER_FILE
        if new_machine and second.exists():
            for path in (second, second.with_name(f"{READER_FILE}.journal")):
                path.unlink()
        seen = self._second_reader(remote, second, [old, new])
        arrived = self._remote.objects(folder)
        parts_before = _recorded_parts(folder) if (folder / f"{FILE}.journal").exists() else 0
        with small_packs(), recorded() as sent:
            expected = checks.reopen_and_push(remote, folder, allowed, flag=self._template.reopen_flag)
        self._check_sent(sent, arrived, parts_before)
        self._check_order(outcome, seen)
        checks.one_of(checks.read_remote(remote, second), [expected], "then the second reader sees")
        checks.check_files(folder)

    def _second_reader(self, remote: Any, path: Path, allowed: list[Content]) -> Content | None:
        """Reads the remote as it was left; None when there is none, nor was one before."""
        try:
            found = checks.read_remote(remote, path)
        except ebooklet_tx.RemoteMissingError:
            if self._template.remote:
                raise
            return None
        return checks.one_of(found, allowed, "the second reader sees")

    def _check_sent(self, sent: Sent, arrived: dict[str, bytes], parts_before: int) -> None:
        again = _values(sent.objects) & _values(arrived)
        if again:
            names = sorted(key for key, _ in again)
            raise AssertionError(f"{len(again)} values in packs that had arrived were sent again: {names[:4]}")
        there = {data: name for name, data in arrived.items()}
        twice = sorted(f"{there[data]} as {name}" for name, data in sent.objects.items() if data in there)
        if twice:
            raise AssertionError(f"{len(twice)} objects that had arrived were sent again: {twice[:4]}")
        expected_parts = 2 - parts_before
        if sent.parts > expected_parts:
            raise AssertionError(f"{sent.parts} parts were sent, {parts_before} of 2 had arrived")

    def _check_order(self, outcome: Outcome, seen: Content | None) -> None:
        """Raises if a push that was acknowledged is not there, or one that never began is."""
        last_push = max(n for n, step in enumerate(self._scenario.steps) if step.pushes)
        new = self._states[-1]
        is_new = seen is not None and seen.same_as(new)
        if outcome.done >= last_push and not is_new:
            raise AssertionError("a push was acknowledged, and a reader does not see it")
        if outcome.begun < last_push and is_new:
            raise AssertionError("a reader sees a push that had not begun")


def _go_through(pushes: Pushes, step: int = 1) -> tuple[int, list[str]]:
    killed = 0
    failures = []
    moments = itertools.product(enumerate(pushes.requests(), start=1), (False, True))
    for (at, request), after in itertools.islice(moments, 0, None, step):
        with pushes.copy() as folder:
            outcome = pushes.run(folder, at, after=after)
            killed += outcome.killed
            try:
                assert outcome.killed, "the child made fewer requests than the one before"
                pushes.check(folder, outcome, new_machine=(at + after) % 2 == 0)
            except Exception as error:
                when = "after" if after else "before"
                failures.append(f"{when} {request}: {type(error).__name__}: {error}")
    return killed, failures


@pytest.fixture
def pushes_folder(scratch: Path) -> Iterator[Path]:
    folder = scratch / f"pushes-{uuid.uuid4().hex}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def bucket_remote(ministack_endpoint: str) -> Iterator[BucketRemote]:
    remote = BucketRemote(ministack_endpoint)
    yield remote
    remote.close()


# An odd step: it dies before a request as often as after one.
@pytest.mark.parametrize("step", amounts(3, 1))
@pytest.mark.parametrize("name", ["first push to a folder", "second push"])
def test_kill_at_requests_to_a_folder(
    name: str, step: int, kill_server: KillServer, pushes_folder: Path, counted: Callable[[str, int], None]
) -> None:
    killed, failures = _go_through(Pushes(kill_server, pushes_folder, name, FolderRemote()), step)
    counted(KIND, killed)
    assert not failures, "\n".join(failures)
    assert killed >= 14 // step


@pytest.mark.parametrize("step", amounts(5, 1))
@pytest.mark.parametrize("name", ["first push to a bucket", "second push"])
def test_kill_at_requests_to_a_bucket(
    name: str,
    step: int,
    kill_server: KillServer,
    bucket_remote: BucketRemote,
    pushes_folder: Path,
    counted: Callable[[str, int], None],
) -> None:
    killed, failures = _go_through(Pushes(kill_server, pushes_folder, name, bucket_remote), step)
    counted(KIND, killed)
    assert not failures, "\n".join(failures)
    assert killed >= 14 // step
