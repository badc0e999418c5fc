"""Connection objects, and the ways to open."""

from __future__ import annotations

import json
import warnings
from typing import Any

import booklet
from readme_examples.place import Place, example, expect, hold, refused

import ebooklet_tx as ebooklet


@example("connection: the arguments by position, with endpoint_url and db_url by name")
def _(place: Place) -> None:
    connection = ebooklet.S3Connection(
        "my-id", "my-secret", place.key(), place.bucket, endpoint_url=place.endpoint, db_url=place.url()
    )
    with ebooklet.open(connection, place.file(), flag="c", value_serializer="pickle") as db:
        db["key1"] = ["one", 2, "three", 4]
        expect(db["key1"], ["one", 2, "three", 4], "the value")
        db.changes().push()
    # Whoever reads pickled values of others is warned of it, once.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ebooklet.PickleWarning)
        db = ebooklet.open(connection, place.file())
    with db:
        expect(db["key1"], ["one", 2, "three", 4], "the value that another machine sees")


@example("connection: threads, read_timeout and retries")
def _(place: Place) -> None:
    connection = place.connection(threads=2, read_timeout=30, retries=1)
    expect((connection.threads, connection.read_timeout, connection.retries), (2, 30, 1), "the attributes")
    with ebooklet.open(connection, place.file(), "c", "str") as db:
        db.update({f"key{number}": "v" * 5000 for number in range(40)})
        db.changes().push()
    expect(len(place.seen(connection)), 40, "the number of keys")


@example("connection: to_dict() has the place and no credentials")
def _(place: Place) -> None:
    told = place.connection(db_url=place.url()).to_dict()
    wanted = {
        "db_key": place.key(),
        "bucket": place.bucket,
        "endpoint_url": place.endpoint,
        "db_url": place.url(),
    }
    expect(told, wanted, "to_dict()")
    expect(json.loads(json.dumps(told)), wanted, "to_dict() through JSON")


@example("connection: attributes tell what was given")
def _(place: Place) -> None:
    connection = place.connection()
    expect(
        (connection.access_key_id, connection.access_key, connection.db_key, connection.bucket),
        ("readme-key", "readme-secret", place.key(), place.bucket),
        "the attributes",
    )
    hold("readme-secret" not in repr(connection) + str(connection), "the secret is shown")


@example("connection: nothing that names a place is refused")
def _(place: Place) -> None:
    refused(ValueError, ebooklet.S3Connection)
    refused(ValueError, ebooklet.S3Connection, "id", "secret", bucket=place.bucket)


@example("connection: a db_url alone reads without credentials")
def _(place: Place) -> None:
    place.pushed({"a": 1})
    expect(place.seen(ebooklet.S3Connection(db_url=place.url())), {"a": 1}, "what is read")


@example("connection: open('r') is a session with the remote alone")
def _(place: Place) -> None:
    with place.connection().open() as remote:
        expect(remote.get_uuid(), None, "the uuid before the first push")
    with ebooklet.open(place.connection(), place.file("here"), "n", "orjson") as db:
        db["a"] = 1
        db.set_metadata({"owner": "me"})
        db.changes().push()
        uuid = db.uuid
    for connection in (place.connection(), ebooklet.S3Connection(db_url=place.url())):
        with connection.open("r") as remote:
            expect(remote.get_uuid().hex, uuid, "the uuid")
            expect(remote.get_type(), "EVariableLengthValue", "the type")
            expect(remote.get_user_metadata(), {"owner": "me"}, "the metadata")
            expect(type(remote.get_timestamp()), int, "the type of the timestamp")
            told = (remote.uuid.hex, remote.type, remote.timestamp)
            expect(told, (uuid, "EVariableLengthValue", remote.get_timestamp()), "the attributes")


@example("connection: open('w').delete_remote() removes that database and no other")
def _(place: Place) -> None:
    place.pushed({"a": 1}, "db")
    place.pushed({"b": 2}, "db2", "there")
    with place.connection().open("w") as remote:
        remote.delete_remote()
    refused(ebooklet.RemoteMissingError, place.seen)
    expect(place.seen(place.connection("db2")), {"b": 2}, "the other database")


@example("connection: open('w').break_other_locks() tells whose they were")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path, "w") as db, place.connection().open("w") as remote:
        expect(remote.break_other_locks(timestamp="2026-01-01T00:00:00+00:00"), [], "locks older than that")
        (broken,) = remote.break_other_locks()
        expect(sorted(broken), ["host", "owner", "pid", "timestamp"], "what is told of a lock")
        db["a"] = 2
        refused(ebooklet.LockLostError, db.changes().push)


@example("open: 'r' is the default, and only reads")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path) as db:
        expect((db.writable, db["a"]), (False, 1), "writable, and a value")
        refused(ValueError, db.__setitem__, "b", 2)
        refused(ebooklet.ReadOnlyError, db.__delitem__, "a")
        refused(ValueError, db.set_metadata, {})
        refused(ValueError, db.changes().push)


@example("open: 'r' and 'w' want a remote that is there")
def _(place: Place) -> None:
    path = place.file()
    for flag in "rw":
        refused(ebooklet.RemoteMissingError, ebooklet.open, place.connection(), path, flag)
        refused(ValueError, ebooklet.open, place.connection(), path, flag)
        expect(list(path.parent.iterdir()), [], "the local folder")


@example("open: 'c' makes one that is missing and keeps one that is there")
def _(place: Place) -> None:
    path = place.file()
    with ebooklet.open(place.connection(), path, "c", "orjson") as db:
        expect((db.writable, len(db)), (True, 0), "writable, and the number of keys")
        db["a"] = 1
        db.changes().push()
    with ebooklet.open(place.connection(), path, "c", "orjson") as db:
        expect(dict(db), {"a": 1}, "what is kept")
    with ebooklet.open(place.connection(), place.file(), "c") as db:
        expect(dict(db), {"a": 1}, "what another machine gets")


@example("open: 'w' opens a database that was pushed, again and again")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    for number in range(3):
        with ebooklet.open(place.connection(), path, "w") as db:
            db[f"b{number}"] = number
            db.changes().push()
    expect(place.seen(), {"a": 1, "b0": 0, "b1": 1, "b2": 2}, "what another machine sees")


@example("open: 'n' is empty, and its push replaces the remote")
def _(place: Place) -> None:
    path = place.pushed({"a": 1, "b": 2})
    with ebooklet.open(place.connection(), path, "n", "str") as db:
        expect(len(db), 0, "the number of keys")
        db["c"] = "3"
        db.changes().push()
        db["d"] = "4"
        db.changes().push()
    expect(place.seen(), {"c": "3", "d": "4"}, "what another machine sees")


@example("open: by the public URL, by a dict, and by a dict with credentials")
def _(place: Place) -> None:
    place.pushed({"a": [1, 2]})
    connection = place.connection(db_url=place.url())
    sources: list[Any] = [
        place.url(),
        {"db_url": place.url()},
        connection.to_dict() | {"access_key_id": "id", "access_key": "secret"},
        {"remote_conn": {"db_url": place.url()}},
    ]
    for source in sources:
        expect(
            place.seen(source),
            {"a": [1, 2]},
            f"what {sorted(source) if isinstance(source, dict) else source} shows",
        )


@example("open: a URL can only be read")
def _(place: Place) -> None:
    place.pushed({"a": 1})
    for flag in "wcn":
        refused(ValueError, ebooklet.open, place.url(), place.file(), flag)


@example("open: the path as str and as Path, and n_buckets and buffer_size by position")
def _(place: Place) -> None:
    path = place.file()
    with ebooklet.open(place.connection(), str(path), "n", "str", 1009, 2**16) as db:
        db.update({f"{number}": "x" * 1000 for number in range(200)})
        db.changes().push()
    with booklet.open(path) as plain:
        expect(plain._n_buckets, 1009, "the buckets of the local file")
    expect(len(place.seen()), 200, "the number of keys")


@example("open: every serializer by its name")
def _(place: Place) -> None:
    values: dict[Any, Any] = {
        None: b"\x00bytes",
        "str": "ä text",
        "orjson": {"a": [1, None]},
        "pickle": {("a", 1): {2, 3}},
        "uint4": 77,
        "bytes": b"more",
    }
    for serializer, value in values.items():
        name = f"with-{serializer}"
        place.pushed({"key": value}, name, name, value_serializer=serializer)
        with ebooklet.open(place.connection(name), place.file(), value_serializer=serializer) as db:
            expect(db["key"], value, f"a value of {serializer!r}")


class Backwards:
    """A serializer as users write them."""

    @staticmethod
    def dumps(value: str) -> bytes:
        return value[::-1].encode()

    @staticmethod
    def loads(value: bytes) -> str:
        return value.decode()[::-1]


@example("open: a class with dumps and loads as serializer")
def _(place: Place) -> None:
    place.pushed({"key": "abc"}, value_serializer=Backwards)
    with ebooklet.open(place.connection(), place.file(), value_serializer=Backwards) as db:
        expect(db["key"], "abc", "the value")
        expect(db.get_timestamp("key", True, False)[1], b"cba", "the encoded value")


@example("open: an existing database has its serializer, named or not; another one is refused")
def _(place: Place) -> None:
    path = place.pushed({"key": {"a": 1}})
    for where in (path, place.file()):
        refused(ValueError, ebooklet.open, place.connection(), where, "c", value_serializer="str")
        for serializer in (None, "orjson"):
            with ebooklet.open(place.connection(), where, "c", value_serializer=serializer) as db:
                expect(db["key"], {"a": 1}, "the value")


@example("open: lock_timeout and force_lock, and the lock attribute")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path, "w", lock_timeout=30) as db:
        hold(db.lock is not None, "a writer has no lock")
        with ebooklet.open(place.connection(), place.file()) as reader:
            expect((reader.lock, reader["a"]), (None, 1), "the lock and a value of a reader")
        refused(TimeoutError, ebooklet.open, place.connection(), place.file(), "w", lock_timeout=0)
        with ebooklet.open(place.connection(), place.file(), "w", force_lock=True) as other:
            other["a"] = 2
            other.changes().push()
        db["a"] = 3
        refused(ebooklet.LockLostError, db.changes().push)


@example("open_ebooklet: as open, with the words about groups that have no effect here")
def _(place: Place) -> None:
    for number, words in enumerate(
        (
            {},
            {"group_bytes": ebooklet.DEFAULT_GROUP_BYTES},
            {"group_bytes": None},
            {"num_groups": None},
            {"push_packers": 2},
        )
    ):
        connection = place.connection(f"{number}")
        with ebooklet.open_ebooklet(connection, place.file(), "n", "str", 12007, 2**22, **words) as db:
            db["a"] = "b"
            hold(db.changes().push(), f"nothing was pushed with {words}")
        with ebooklet.open_ebooklet(connection, place.file()) as db:
            expect(db["a"], "b", f"the value with {words}")


@example("open: offline=True reads what is here and asks nobody")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    nobody = place.connection(endpoint_url=place.dead_endpoint)
    with ebooklet.open_ebooklet(nobody, path, offline=True) as db:
        expect((dict(db), db.writable), ({"a": 1}, False), "what is read, and writable")
    refused(ebooklet.OfflineError, ebooklet.open_ebooklet, nobody, place.file(), offline=True)


@example("open: offline='auto' falls back to what is here, with a warning")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    nobody = place.connection(endpoint_url=place.dead_endpoint, retries=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ebooklet.open_ebooklet(nobody, path, offline="auto") as db:
            expect(dict(db), {"a": 1}, "what is read")
    hold([word for word in caught if issubclass(word.category, UserWarning)], "nothing was warned of")
    with ebooklet.open_ebooklet(place.connection(), path, offline="auto") as db:
        expect(dict(db), {"a": 1}, "what is read with a network")
    refused(ebooklet.OfflineError, ebooklet.open_ebooklet, nobody, place.file(), offline="auto")


@example("open: what lies there is told apart by its errors")
def _(place: Place) -> None:
    first, second = place.pushed({"a": 1}, "one", "one"), place.pushed({"b": 2}, "two", "two")
    refused(ebooklet.UUIDMismatchError, ebooklet.open, place.connection("two"), first)
    refused(ValueError, ebooklet.open, place.connection("one"), second, "w")
    refused(ValueError, ebooklet.open, place.connection("one"), first, "x")
    for kind in (
        ebooklet.ReadOnlyError,
        ebooklet.UUIDMismatchError,
        ebooklet.RemoteMissingError,
        ebooklet.UnsupportedFormatError,
    ):
        hold(issubclass(kind, ValueError) and issubclass(kind, ebooklet.Error), f"{kind} is not what it was")
    for kind in (ebooklet.RemoteIntegrityError, ebooklet.LockLostError, ebooklet.OfflineError):
        hold(issubclass(kind, ebooklet.Error), f"{kind} is not what it was")
