"""What every object store promises, tried on all of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    OfflineError,
    PreconditionFailedError,
    ReadOnlyError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.http import HTTPStore
from ebooklet_tx.stores.object_store import ObjectStore, UploadState
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from tests.contract.conftest import Subject, new_bucket, s3_connection
from tests.s3_proxy import Mode, S3Proxy
from tests.servers import free_port

PART_BYTES = 5 << 20
BIG = bytes(range(256)) * (20 << 12)
ODD_NAMES = (
    "a b",
    "ünï/cödé",
    "日本",
    "p%41",
    "p%2Fq",
    "q?z=1",
    "h#f",
    "q?z=1#f",
    "a+b",
    "a&b=c;d",
    "quote'\"",
    "tilde~",
    "_under.dot",
)


class Source:
    """Bytes to upload in parts; tells what was read of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        self.reads.append((offset_bytes, length_bytes))
        return self.data[offset_bytes : offset_bytes + length_bytes]


class StoppedError(Exception):
    """Ends an upload half-way, as a kill would."""


def content(store: ObjectStore, key: str) -> bytes:
    blob = store.get(key)
    assert blob is not None
    return blob.data


def names(store: ObjectStore, prefix: str) -> list[str]:
    """What a listing names, sorted: not every server lists in the order of whole names."""
    return sorted(found.key for found in store.list(prefix))


def test_what_was_put_is_what_is_read(readable: Subject) -> None:
    for data in (b"x", b"", b"\0\r\n\xff" * 1000):
        etag = readable.writer.put("db", data)
        blob = readable.store.get("db")
        assert blob is not None
        assert blob.data == data
        assert readable.own_etags or blob.etag == etag
        assert not etag.startswith('"')


def test_a_put_replaces_the_whole_object(subject: Subject) -> None:
    first = subject.store.put("db", b"a longer first version")
    second = subject.store.put("db", b"second")
    assert first != second
    assert content(subject.open_again(), "db") == b"second"


def test_an_object_of_20_mib_comes_back_whole(readable: Subject) -> None:
    readable.writer.put("db.d/pack/big", BIG)
    assert content(readable.store, "db.d/pack/big") == BIG
    assert readable.store.get_range("db.d/pack/big", len(BIG) - 700, 700) == BIG[-700:]


def test_reading_what_is_missing_says_so(readable: Subject) -> None:
    readable.writer.put("db.d/pack/1", b"there")
    asked: list[Callable[[], object]] = [
        lambda: readable.store.get("db"),
        lambda: readable.store.head("db"),
        lambda: readable.store.get_range("db", 0, 5),
        lambda: readable.store.get("db.d/pack"),
        lambda: readable.store.get("db.d/pack/1/2"),
    ]
    for ask in asked:
        with pytest.raises(ObjectMissingError, match="'db"):
            ask()


def test_an_unchanged_object_is_not_read_again(readable: Subject) -> None:
    readable.writer.put("db", b"one")
    blob = readable.store.get("db")
    assert blob is not None
    assert readable.store.get("db", if_none_match=blob.etag) is None
    readable.writer.put("db", b"two")
    changed = readable.store.get("db", if_none_match=blob.etag)
    assert changed is not None
    assert changed.data == b"two"


def test_head_tells_size_and_etag(readable: Subject) -> None:
    etag = readable.writer.put("db", b"12345")
    found = readable.store.head("db")
    assert (found.key, found.size_bytes) == ("db", 5)
    assert readable.own_etags or found.etag == etag
    assert readable.own_etags or found.last_modified is not None


def test_metadata_comes_back_in_lower_case(subject: Subject) -> None:
    subject.store.put("db", b"x", metadata={"Commit-Id": "Abc123"})
    expected = {"commit-id": "Abc123"} if subject.keeps_metadata else {}
    assert subject.store.head("db").metadata == expected
    blob = subject.store.get("db")
    assert blob is not None
    assert blob.metadata == expected


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 11), (6, 5), (3, 4), (10, 1)])
def test_a_range_is_exactly_what_was_asked_for(readable: Subject, offset: int, length: int) -> None:
    data = b"hello world"
    readable.writer.put("db", data)
    assert readable.store.get_range("db", offset, length) == data[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(6, 6), (11, 1), (500, 5), (0, 12)])
def test_a_range_past_the_end_is_refused(readable: Subject, offset: int, length: int) -> None:
    readable.writer.put("db", b"hello world")
    with pytest.raises(NotFoundInRangeError, match="'db'"):
        readable.store.get_range("db", offset, length)


def test_a_range_of_an_empty_object_is_refused(readable: Subject) -> None:
    readable.writer.put("db", b"")
    with pytest.raises(NotFoundInRangeError):
        readable.store.get_range("db", 0, 1)


def test_a_range_of_no_bytes_is_no_bytes(readable: Subject) -> None:
    assert readable.store.get_range("db", 3, 0) == b""
    with pytest.raises(InvalidArgumentError):
        readable.store.get_range("db", -1, 2)
    with pytest.raises(InvalidArgumentError):
        readable.store.get_range("db", 1, -2)


def test_a_range_is_read_only_of_the_object_that_was_meant(readable: Subject) -> None:
    readable.writer.put("db", b"hello world")
    blob = readable.store.get("db")
    assert blob is not None
    assert readable.store.get_range("db", 0, 5, if_match=blob.etag) == b"hello"
    readable.writer.put("db", b"HELLO WORLD")
    if not (readable.own_etags and readable.store.head("db").etag == ""):
        with pytest.raises(PreconditionFailedError, match="'db'"):
            readable.store.get_range("db", 0, 5, if_match=blob.etag)


def test_further_ranges_are_read_as_the_first_is(readable: Subject) -> None:
    etag = readable.writer.put("db", b"hello world")
    blob = readable.store.get("db")
    assert blob is not None
    for offset in range(8):
        assert (
            readable.store.get_range("db", offset, 3, if_match=blob.etag) == b"hello world"[offset : offset + 3]
        )
    assert readable.store.get_range("db", 6, 5) == b"world"
    with pytest.raises(NotFoundInRangeError, match="'db'"):
        readable.store.get_range("db", 500, 5)
    readable.writer.put("db", b"HELLO WORLD")
    assert readable.store.get_range("db", 6, 5) == b"WORLD"
    if not (readable.own_etags and readable.store.head("db").etag == ""):
        with pytest.raises(PreconditionFailedError, match="'db'"):
            readable.store.get_range("db", 0, 5, if_match=etag if not readable.own_etags else blob.etag)
    readable.writer.delete("db")
    with pytest.raises(ObjectMissingError, match="'db'"):
        readable.store.get_range("db", 6, 5)


def test_a_create_finds_the_object_or_makes_it(conditional: Subject) -> None:
    etag = conditional.store.put("db", b"first", if_absent=True)
    with pytest.raises(conditional.losing, match="'db'"):
        conditional.store.put("db", b"second", if_absent=True)
    blob = conditional.store.get("db")
    assert blob is not None
    assert (blob.data, blob.etag) == (b"first", etag)


def test_a_replace_needs_the_right_etag(conditional: Subject) -> None:
    first = conditional.store.put("db", b"first")
    second = conditional.store.put("db", b"second", if_match=first)
    for wrong in (first, "0" * 32):
        with pytest.raises(conditional.losing, match="'db'"):
            conditional.store.put("db", b"third", if_match=wrong)
    assert content(conditional.store, "db") == b"second"
    assert conditional.store.head("db").etag == second


def test_a_replace_of_what_is_gone_is_refused(conditional: Subject) -> None:
    etag = conditional.store.put("db", b"first")
    conditional.store.delete("db")
    with pytest.raises((PreconditionFailedError, conditional.losing)):
        conditional.store.put("db", b"second", if_match=etag)
    with pytest.raises(ObjectMissingError):
        conditional.store.get("db")


def test_a_store_that_refuses_conditions_says_so_and_changes_nothing(
    proxy_in: Callable[[Mode], S3Proxy], ministack_endpoint: str
) -> None:
    endpoint = proxy_in(Mode.REFUSES).endpoint
    store = S3Store(s3_connection(endpoint, new_bucket(ministack_endpoint)))
    refused: list[Callable[[], object]] = [
        lambda: store.put("db", b"second", if_absent=True),
        lambda: store.put("db", b"second", if_match="0" * 32),
        lambda: store.put("db", b"second", if_match=etag),
        lambda: RetryingStore(store, RetryPolicy.without_backoff()).put("db", b"second", if_match=etag),
    ]
    etag = "0" * 32
    with pytest.raises(ConditionUnsupportedError, match="'db'"):
        refused[0]()
    etag = store.put("db", b"first")
    for put in refused:
        with pytest.raises(ConditionUnsupportedError, match=r"'db'.*conditional writes"):
            put()
    assert content(store, "db") == b"first"
    assert store.get("db", if_none_match=etag) is None
    assert store.get_range("db", 1, 3, if_match=etag) == b"irs"
    store.close()


def test_etags_that_are_wanted_without_quotes_are_found_out_by_the_first_write(
    proxy_in: Callable[[Mode], S3Proxy], ministack_endpoint: str
) -> None:
    endpoint = proxy_in(Mode.UNQUOTED).endpoint
    store = S3Store(s3_connection(endpoint, new_bucket(ministack_endpoint)))
    etag = store.put("db", b"first", if_absent=True)
    assert store.get_range("db", 1, 3, if_match=etag) == b"irs"
    store.put("db", b"second", if_match=etag)
    assert (store.quote_etags, store.etags_proven) == (False, True)
    with pytest.raises(PreconditionFailedError):
        store.put("db", b"third", if_match=etag)
    assert content(store, "db") == b"second"
    store.close()


def test_two_conditions_at_once_are_refused(subject: Subject) -> None:
    with pytest.raises(InvalidArgumentError):
        subject.store.put("db", b"x", if_match="a", if_absent=True)


@pytest.mark.parametrize("round_number", range(4))
def test_of_eight_creators_exactly_one_wins(conditional: Subject, round_number: int) -> None:
    del round_number
    stores = [conditional.open_again() for _ in range(8)]
    start = threading.Barrier(8)

    def create(number: int) -> int | None:
        start.wait(30)
        try:
            stores[number].put("db", b"writer %d" % number, if_absent=True)
        except (PreconditionFailedError, TransientStoreError):
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert len(winners) == 1
    assert content(conditional.store, "db") == b"writer %d" % winners[0]
    for store in stores:
        store.close()


def test_a_counter_replaced_by_eight_writers_loses_no_step(conditional: Subject) -> None:
    conditional.store.put("db", b"0")

    def count_up(_: int) -> None:
        for _ in range(3):
            while True:
                blob = conditional.store.get("db")
                assert blob is not None
                try:
                    conditional.store.put("db", b"%d" % (int(blob.data) + 1), if_match=blob.etag)
                except conditional.losing:
                    continue
                break

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count_up, range(8)))
    assert content(conditional.store, "db") == b"24"


def test_a_list_is_exact(subject: Subject) -> None:
    keys = [
        "db",
        "db.d/index/b",
        "db.d/index/a",
        "db.d/pack/1",
        "db.d/pack-x",
        "db.d/pack.y",
        "db.d/pack0",
        "db.lock",
        "db2",
        "db2.d/pack/1",
        "other",
    ]
    for key in keys:
        subject.store.put(key, key.encode())
    for prefix in ("", "db", "db.", "db.d/", "db.d/pack", "db.d/pack/", "db2", "nothing", "db.d/index/b"):
        assert names(subject.store, prefix) == sorted(key for key in keys if key.startswith(prefix))
    found = next(iter(subject.store.list("db.d/pack/")))
    assert (found.size_bytes, found.etag) == (11, subject.store.head("db.d/pack/1").etag)


def test_an_empty_store_lists_nothing(subject: Subject) -> None:
    assert names(subject.store, "") == []


def test_a_list_goes_on_past_one_page(ministack_endpoint: str) -> None:
    store = S3Store(s3_connection(ministack_endpoint, new_bucket(ministack_endpoint)))
    pages: list[object] = []

    def ask_for_ten(params: dict[str, Any], **_: object) -> None:
        pages.append(params.setdefault("MaxKeys", 10))

    store._sender.client.meta.events.register("provide-client-params.s3.ListObjectsV2", ask_for_ten)
    keys = [f"db.d/pack/{number:04}" for number in range(25)]
    for key in keys:
        store.put(key, b"")
    assert names(store, "db.d/") == keys
    assert pages == [10, 10, 10]
    assert names(RetryingStore(store, RetryPolicy.without_backoff()), "db.d/") == keys
    store.close()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_not_mangled(subject: Subject, name: str) -> None:
    key = f"db.d/{name}"
    subject.store.put(key, name.encode())
    assert content(subject.store, key) == name.encode()
    assert subject.store.head(key).key == key
    assert names(subject.store, "") == [key]
    subject.store.copy(key, "db.d/copy")
    assert content(subject.store, "db.d/copy") == name.encode()
    subject.store.delete(key)
    assert names(subject.store, "") == ["db.d/copy"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_read_over_http(readable: Subject, name: str) -> None:
    readable.writer.put(f"db.d/{name}", name.encode())
    assert content(readable.store, f"db.d/{name}") == name.encode()


def test_a_delete_is_idempotent(subject: Subject) -> None:
    subject.store.delete("db.d/pack/never")
    subject.store.put("db.d/pack/1", b"x")
    subject.store.put("db.d/pack/12", b"y")
    subject.store.delete("db.d/pack/1")
    subject.store.delete("db.d/pack/1")
    assert names(subject.store, "") == ["db.d/pack/12"]
    subject.store.put("db.d/pack/1", b"again")
    assert content(subject.store, "db.d/pack/1") == b"again"


def test_a_copy_is_an_object_of_its_own(subject: Subject) -> None:
    subject.store.put("db", b"first")
    etag = subject.store.copy("db", "db.d/snapshot/one")
    subject.store.put("db", b"second")
    assert content(subject.store, "db.d/snapshot/one") == b"first"
    assert subject.store.head("db.d/snapshot/one").etag == etag
    with pytest.raises(ObjectMissingError):
        subject.store.copy("db.d/missing", "db.d/snapshot/two")
    assert names(subject.store, "db.d/snapshot/") == ["db.d/snapshot/one"]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
def test_an_upload_in_parts_arrives_whole(subject: Subject, size: int) -> None:
    source = Source(BIG[:size])
    etag = subject.store.put_parts("db.d/pack/1", source, part_bytes=PART_BYTES)
    assert content(subject.store, "db.d/pack/1") == source.data
    assert subject.store.head("db.d/pack/1").etag == etag
    assert max((length for _, length in source.reads), default=0) <= PART_BYTES


def _interrupted(subject: Subject, key: str, data: bytes, after_parts: int) -> UploadState:
    states: list[UploadState] = []

    def stop(state: UploadState) -> None:
        states.append(state)
        if len(state.parts) == after_parts:
            raise StoppedError

    with pytest.raises(StoppedError):
        subject.store.put_parts(key, Source(data), part_bytes=PART_BYTES, on_part=stop)
    with pytest.raises(ObjectMissingError):
        subject.store.get(key)
    assert [len(state.parts) for state in states] == list(range(after_parts + 1))
    return states[-1]


@pytest.mark.parametrize("part_bytes", [PART_BYTES, PART_BYTES + 12345])
def test_an_upload_goes_on_where_it_stopped(subject: Subject, part_bytes: int) -> None:
    state = _interrupted(subject, "db.d/pack/1", BIG, after_parts=2)
    source = Source(BIG)
    subject.open_again().put_parts("db.d/pack/1", source, part_bytes=part_bytes, resume=state)
    assert content(subject.store, "db.d/pack/1") == BIG
    assert min(offset for offset, _ in source.reads) == 2 * PART_BYTES
    assert sum(length for _, length in source.reads) == len(BIG) - 2 * PART_BYTES


def test_an_upload_with_all_parts_is_only_completed(subject: Subject) -> None:
    state = _interrupted(subject, "db.d/pack/1", BIG[: 2 * PART_BYTES], after_parts=2)
    source = Source(BIG[: 2 * PART_BYTES])
    subject.store.put_parts("db.d/pack/1", source, part_bytes=PART_BYTES, resume=state)
    assert source.reads == []
    assert content(subject.store, "db.d/pack/1") == source.data


@pytest.mark.parametrize("upload_id", ["never-heard-of", "../../../../etc/passwd", "0" * 32 + ".part", ""])
def test_an_upload_that_is_not_known_is_begun_anew(subject: Subject, upload_id: str) -> None:
    data = BIG[: 2 * PART_BYTES]
    resume = UploadState(upload_id, ((1, "0" * 32),))
    states: list[UploadState] = []
    subject.store.put_parts(
        "db.d/pack/1", Source(data), part_bytes=PART_BYTES, resume=resume, on_part=states.append
    )
    assert content(subject.store, "db.d/pack/1") == data
    assert [len(state.parts) for state in states] == [0, 1, 2]
    assert states[0].upload_id != upload_id


def test_an_upload_whose_answer_was_lost_is_not_sent_again(ministack_endpoint: str) -> None:
    store = S3Store(s3_connection(ministack_endpoint, new_bucket(ministack_endpoint)))
    states: list[UploadState] = []
    data = BIG[: 2 * PART_BYTES]
    etag = store.put_parts("db", Source(data), part_bytes=PART_BYTES, on_part=states.append)
    source = Source(data)
    assert store.put_parts("db", source, part_bytes=PART_BYTES, resume=states[-1]) == etag
    assert source.reads == []
    # What stands there now is not that upload's: it has to be sent.
    store.put("db", bytes(len(data)))
    store.put_parts("db", source, part_bytes=PART_BYTES, resume=states[-1])
    assert content(store, "db") == data
    store.close()


@pytest.mark.parametrize("code", ["NotImplemented", "AccessDenied", "MethodNotAllowed"])
def test_an_upload_whose_parts_can_not_be_listed_is_begun_anew(
    ministack_endpoint: str, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    connection = s3_connection(ministack_endpoint, new_bucket(ministack_endpoint))
    store = S3Store(connection)
    state = _interrupted(Subject(store, store, lambda: store), "db", BIG, after_parts=2)

    def refuse(**_: object) -> None:
        answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 405}}
        raise ClientError(answer, "ListParts")

    monkeypatch.setattr(store._sender.client, "list_parts", refuse)
    source = Source(BIG)
    store.put_parts("db", source, part_bytes=PART_BYTES, resume=state)
    assert source.reads[0] == (0, PART_BYTES)
    assert content(store, "db") == BIG
    store.close()


@pytest.mark.parametrize("drop_after", [1, 4])
def test_an_upload_dropped_under_way_is_begun_anew(ministack_endpoint: str, drop_after: int) -> None:
    inner = S3Store(s3_connection(ministack_endpoint, new_bucket(ministack_endpoint)))
    dropped: list[str] = []

    def drop(state: UploadState) -> None:
        if len(state.parts) == drop_after and not dropped:
            dropped.append(state.upload_id)
            inner._sender.client.abort_multipart_upload(Bucket=inner._bucket, Key="db", UploadId=state.upload_id)

    def upload(store: ObjectStore, source: Source) -> None:
        store.put_parts("db", source, part_bytes=PART_BYTES, on_part=drop)

    with pytest.raises(TransientStoreError, match="dropped"):
        upload(inner, Source(BIG))
    dropped.clear()
    source = Source(BIG)
    upload(RetryingStore(inner, RetryPolicy.without_backoff(attempts=2)), source)
    assert content(inner, "db") == BIG
    # The part that met the dropped upload was read in vain as well, unless it was the completion.
    in_vain_bytes = min((drop_after + 1) * PART_BYTES, len(BIG))
    assert sum(length for _, length in source.reads) == len(BIG) + in_vain_bytes
    inner.close()


def test_readers_never_see_a_mixture(subject: Subject) -> None:
    versions = [bytes([number]) * 200_000 for number in range(4)]
    subject.store.put("db", versions[0])
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(20):
                subject.store.put("db", versions[number % 4])
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = 0
        while not done.is_set():
            # A store may fail a read that meets a write, as long as it does not answer it with a mixture.
            with contextlib.suppress(TransientStoreError):
                assert content(subject.store, "db") in versions
                seen += 1
        writing.result()
    assert seen > 0


def test_a_store_without_writing_refuses_every_write() -> None:
    store = HTTPStore("http://127.0.0.1:1/db")
    assert not store.writable
    writes: list[Callable[[], object]] = [
        lambda: store.put("db", b"x"),
        lambda: store.put_parts("db", Source(b"x"), part_bytes=1),
        lambda: store.delete("db"),
        lambda: store.copy("db", "db.d/x"),
        lambda: list(store.list("db")),
    ]
    for write in writes:
        with pytest.raises(ReadOnlyError, match="'db'"):
            write()


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
def test_a_missing_bucket_is_named(kind: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue(f"{kind}_endpoint")
    store = S3Store(s3_connection(endpoint, "no-such-bucket"))
    asked: list[Callable[[], object]] = [
        lambda: store.get("db"),
        lambda: store.head("db"),
        lambda: store.get_range("db", 0, 1),
        lambda: store.put("db", b"x"),
        lambda: store.put("db", b"x", if_absent=True),
        lambda: store.put("db", b"x", if_match="0" * 32),
        lambda: store.put_parts("db", Source(BIG), part_bytes=PART_BYTES),
        lambda: list(store.list("")),
        lambda: store.delete("db"),
        lambda: store.copy("db", "db.d/x"),
    ]
    for ask in asked:
        with pytest.raises(RemoteAccessError, match="no such bucket"):
            ask()
    store.close()


@pytest.mark.parametrize("wrong", ["secret", "key id"])
def test_wrong_credentials_are_refused_without_naming_them(rclone_endpoint: str, wrong: str) -> None:
    bucket = new_bucket(rclone_endpoint)
    good = s3_connection(rclone_endpoint, bucket)
    key_id = "wrong-key-id-4711" if wrong == "key id" else good.access_key_id
    secret = "wrong-secret-4711"
    store = S3Store(type(good)(key_id, secret, "db", bucket, rclone_endpoint))
    asked: list[Callable[[], object]] = [
        lambda: store.get("db"),
        lambda: store.head("db"),
        lambda: store.put("db", b"x", if_absent=True),
        lambda: list(store.list("")),
        lambda: store.delete("db"),
    ]
    for ask in asked:
        with pytest.raises(RemoteAccessError, match="check access_key") as caught:
            ask()
        assert "4711" not in str(caught.value)
    store.close()


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_refused_connection_is_transient_and_changed_nothing(kind: str) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    store: ObjectStore = S3Store(s3_connection(address, "bucket")) if kind == "s3" else HTTPStore(f"{address}/db")
    with pytest.raises(TransientStoreError) as caught:
        store.get("db")
    assert not caught.value.may_have_applied
    if kind == "s3":
        with pytest.raises(TransientStoreError) as caught:
            store.put("db", b"x", if_absent=True)
        assert not caught.value.may_have_applied
    with pytest.raises(OfflineError, match=r"get of 'db' at .* 6 attempts"):
        RetryingStore(store, RetryPolicy.without_backoff()).get("db")
    store.close()
