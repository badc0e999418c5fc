"""Changes, the other methods on the remote, and connection groups."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import boto3
from readme_examples.place import Place, example, expect, hold, refused

import ebooklet_tx as ebooklet


@example("changes: iter_changes() tells key and both timestamps")
def _(place: Place) -> None:
    path = place.pushed({"old": 1, "kept": 2})
    with ebooklet.open(place.connection(), path, "w") as db:
        before = db.get_timestamp("old")
        db["old"], db["new"] = 5, 6
        changes = {change["key"]: change for change in db.changes().iter_changes()}
        expect(set(changes), {"old", "new"}, "the keys")
        expect(changes["new"]["remote_timestamp"], None, "the remote timestamp of a new key")
        for change in changes.values():
            hold(isinstance(change["local_timestamp"], datetime), "local_timestamp is no datetime")
            expect(change["local_timestamp"].utcoffset(), timedelta(0), "its zone")
        remote = changes["old"]["remote_timestamp"]
        expect(round(remote.timestamp() * 1e6), before, "the remote timestamp of an old key")


@example("changes: push() is true when the remote changed, and false when there was nothing")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path, "w") as db:
        result = db.changes().push()
        expect((bool(result), result.updated, result.failures), (False, False, {}), "with nothing to push")
        db["b"] = 2
        changes = db.changes()
        result = changes.push()
        expect((bool(result), result.updated, result.failures), (True, True, {}), "with something to push")
        expect(list(changes.iter_changes()), [], "what is left")
        hold(isinstance(result, ebooklet.PushResult), "it is no PushResult")
        db["b"] = 3
        hold(changes.push(force_push=True), "force_push pushed nothing")
    expect(place.seen(), {"a": 1, "b": 3}, "what another machine sees")


@example("changes: a deletion is pushed, and is told of before")
def _(place: Place) -> None:
    path = place.pushed({"a": 1, "b": 2})
    with ebooklet.open(place.connection(), path, "w") as db:
        del db["a"]
        expect(db.changes().pending_deletes, frozenset({"a"}), "pending_deletes")
    with ebooklet.open(place.connection(), path, "w") as db:
        hold(db.changes().push(), "nothing was pushed by the next session")
        expect(db.changes().pending_deletes, frozenset(), "pending_deletes after the push")
    expect(place.seen(), {"b": 2}, "what another machine sees")


@example("changes: pull() brings what another machine pushed into an open session")
def _(place: Place) -> None:
    path = place.pushed({"a": 1, "b": 2})
    with ebooklet.open(place.connection(), path) as reader:
        with ebooklet.open(place.connection(), place.file(), "w") as db:
            db["a"] = 7
            del db["b"]
            db["c"] = 8
            db.changes().push()
        expect(dict(reader), {"a": 1, "b": 2}, "what is seen before")
        reader.changes().pull()
        expect(dict(reader), {"a": 7, "c": 8}, "what is seen after")


@example("changes: update() and build_changelog() take in what was written since")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "c", "orjson") as db:
        changes = db.changes()
        for key, again in (("a", changes.update), ("b", changes.build_changelog)):
            db[key] = 1
            again()
            hold(key in {change["key"] for change in changes.iter_changes()}, f"{key} is not told of")


@example("changes: discard() gives the remote's values back, all or some")
def _(place: Place) -> None:
    path = place.pushed({"a": 1, "b": 2, "c": 3})
    with ebooklet.open(place.connection(), path, "w") as db:
        db["a"], db["b"], db["new"] = 10, 20, 30
        del db["c"]
        db.changes().discard(["a", "c"])
        expect(dict(db), {"a": 1, "b": 20, "c": 3, "new": 30}, "after discard(keys)")
        db.changes().discard()
        expect(dict(db), {"a": 1, "b": 2, "c": 3}, "after discard()")
        expect(bool(db.changes().push()), False, "a push after that")


@example("changes: a session that reads has none, and can't push")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path) as db:
        expect(list(db.changes().iter_changes()), [], "the changes")
        refused(ValueError, db.changes().push)
        refused(ValueError, db.changes().discard)


@example("delete_remote(): the local file stays, and neighbours whose key begins alike")
def _(place: Place) -> None:
    path = place.pushed({"a": 1}, "my")
    longer = place.connection(db_key=place.key("my") + "2")
    with ebooklet.open(longer, place.file(), "n", "orjson") as db:
        db["b"] = 2
        db.changes().push()
    with ebooklet.open(place.connection("my"), path, "w") as db:
        db.delete_remote()
        expect(dict(db), {"a": 1}, "what the local file has")
    refused(ebooklet.RemoteMissingError, place.seen, place.connection("my"))
    expect(place.seen(longer), {"b": 2}, "the neighbour")


@example("delete_remote(): the next push makes it anew")
def _(place: Place) -> None:
    path = place.pushed({"a": 1, "b": 2})
    with ebooklet.open(place.connection(), path, "w") as db:
        db.delete_remote()
        db["c"] = 3
        hold(db.changes().push(), "nothing was pushed")
    expect(place.seen(), {"a": 1, "b": 2, "c": 3}, "what another machine sees")


@example("delete_remote(): a session that reads can't")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path) as db:
        refused(ValueError, db.delete_remote)
    expect(place.seen(), {"a": 1}, "the remote")


@example("copy_remote(): the same database in another place of the store")
def _(place: Place) -> None:
    path = place.file("here")
    values = {f"key{number}": "x" * 6000 for number in range(20)}
    with ebooklet.open(place.connection(), path, "n", "orjson") as db:
        db.update(values)
        db.set_metadata({"owner": "me"})
        db.changes().push()
        db.copy_remote(place.connection("copy"))
    expect(place.seen(place.connection("copy")), values, "the copy")
    with ebooklet.open(place.url("copy"), place.file()) as db:
        expect(db.get_metadata(), {"owner": "me"}, "the copy's metadata")
    with place.connection().open() as original, place.connection("copy").open() as copy:
        expect(copy.get_uuid(), original.get_uuid(), "the copy's uuid")


@example("copy_remote(): to another bucket with other credentials")
def _(place: Place) -> None:
    bucket = f"example-{place.number}-other"
    client = boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        aws_access_key_id="other-key",
        aws_secret_access_key="other-secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=bucket)
    client.close()
    other = place.connection(access_key_id="other-key", access_key="other-secret", bucket=bucket)
    path = place.pushed({"a": "x" * 6000})
    with ebooklet.open(place.connection(), path, "w") as db:
        db.copy_remote(other)
    expect(place.seen(other), {"a": "x" * 6000}, "the copy")


@example("copy_remote(): a place that is taken is refused")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    place.pushed({"b": 2}, "taken", "there")
    with ebooklet.open(place.connection(), path, "w") as db:
        refused(Exception, db.copy_remote, place.connection("taken"))
    expect(place.seen(place.connection("taken")), {"b": 2}, "what was there")


def group(place: Place, flag: str = "n", machine: str = "group", **options: Any) -> Any:
    """Opens the example's group."""
    return ebooklet.open(place.connection("rcg"), place.file(machine), flag, remote_conn_group=True, **options)


def uuid_of(place: Place, name: str = "db") -> str:
    """Returns the uuid of one of the example's databases, as its remote says."""
    with place.connection(name).open() as remote:
        return str(remote.get_uuid().hex)


@example("group: add(), push, and read it elsewhere; keys are the members' uuids")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path, "w") as db:
        db.set_metadata({"owner": "me"})
        db.changes().push()
    with group(place) as rcg:
        hold(isinstance(rcg, ebooklet.RemoteConnGroup), "it is no RemoteConnGroup")
        rcg.add(place.connection(db_url=place.url()))
        hold(rcg.changes().push(), "nothing was pushed")
    with ebooklet.open(place.connection("rcg"), place.file()) as rcg:
        hold(isinstance(rcg, ebooklet.RemoteConnGroup), "the remote's type was not heeded")
        expect(list(rcg), [uuid_of(place)], "the keys")
        entry = rcg[uuid_of(place)]
        expect((entry["entry_version"], entry["type"]), (1, "EVariableLengthValue"), "version and type")
        expect((type(entry["timestamp"]), entry["remote_meta"]), (int, {"owner": "me"}), "timestamp and metadata")
        expect(entry["remote_conn"], place.connection(db_url=place.url()).to_dict(), "the connection")


@example("group: an entry holds no credentials, and opens with them or by its URL")
def _(place: Place) -> None:
    place.pushed({"a": 1})
    with group(place) as rcg:
        rcg.add(place.connection(db_url=place.url()))
        rcg.changes().push()
    with ebooklet.open(place.url("rcg"), place.file()) as rcg:
        (entry,) = rcg.values()
    hold("readme-secret" not in str(entry) and "readme-key" not in str(entry), "a credential is in the entry")
    secrets = {"access_key_id": "readme-key", "access_key": "readme-secret"}
    expect(place.seen(entry["remote_conn"] | secrets), {"a": 1}, "the member by its dict")
    expect(place.seen(ebooklet.S3Connection(**entry["remote_conn"], **secrets)), {"a": 1}, "by an S3Connection")
    expect(place.seen({"remote_conn": {"db_url": entry["remote_conn"]["db_url"]}}), {"a": 1}, "by its URL")
    expect(place.seen(entry), {"a": 1}, "by the entry, anonymously")


@example("group: add() with a key and user_meta, and again with other user_meta")
def _(place: Place) -> None:
    place.pushed({"a": 1})
    with group(place) as rcg:
        rcg.add(place.connection())
        rcg.add(place.connection(), key="first.v1", user_meta={"title": "old", "bbox": [1, 2]})
        expect(list(rcg), ["first.v1"], "the keys")
        rcg.changes().push()
        rcg.add(place.connection(), key="first.v1", user_meta={"title": "new"})
        hold(rcg.changes().push(), "nothing was pushed")
    with ebooklet.open_rcg(place.connection("rcg"), place.file()) as rcg:
        expect(rcg["first.v1"]["user_meta"], {"title": "new"}, "user_meta")


@example("group: a member that is not in its remote is refused")
def _(place: Place) -> None:
    with group(place) as rcg:
        refused(ebooklet.RemoteMissingError, rcg.add, place.connection("nothing"))
        refused(ValueError, rcg.add, place.connection("nothing"), "key")
        expect(len(rcg), 0, "the number of entries")


@example("group: there is no set(), and add() takes connections alone")
def _(place: Place) -> None:
    place.pushed({"a": 1})
    with group(place) as rcg:
        refused(NotImplementedError, rcg.set, "key", place.connection())
        refused(NotImplementedError, rcg.__setitem__, "key", place.connection())
        refused((TypeError, ValueError), rcg.add, "no connection")
        expect(len(rcg), 0, "the number of entries")


@example("group: an entry is deleted, and the member stays")
def _(place: Place) -> None:
    place.pushed({"a": 1}, "one")
    place.pushed({"b": 2}, "two", "there")
    with group(place) as rcg:
        rcg.add(place.connection("one"))
        rcg.add(place.connection("two"))
        rcg.changes().push()
        del rcg[uuid_of(place, "one")]
        rcg.changes().push()
    expect(list(place.seen(place.connection("rcg"))), [uuid_of(place, "two")], "the entries")
    expect(place.seen(place.connection("one")), {"a": 1}, "the member")


@example("open_rcg: makes and reads a group, with n_buckets and buffer_size by position")
def _(place: Place) -> None:
    place.pushed({"a": 1})
    words = {"group_bytes": None, "num_groups": None, "push_packers": 1, "lock_timeout": 30, "force_lock": True}
    with ebooklet.open_rcg(place.connection("rcg"), place.file("group"), "c", 1009, 2**16, **words) as rcg:
        rcg.add(place.connection())
        rcg.changes().push()
    with ebooklet.open_rcg(place.url("rcg"), place.file(), "r", offline="auto") as rcg:
        expect(len(rcg), 1, "the number of entries")
    with ebooklet.open_rcg(place.connection("rcg"), place.file("group"), offline=True) as rcg:
        expect(len(rcg), 1, "the number of entries offline")


@example("open_rcg: a database that is no group is refused")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    for where in (path, place.file()):
        refused((TypeError, ValueError), ebooklet.open_rcg, place.connection(), where)
    expect(place.seen(), {"a": 1}, "what another machine sees")


@example("group: a group may be a member")
def _(place: Place) -> None:
    place.pushed({"a": 1})
    with group(place) as rcg:
        rcg.add(place.connection())
        rcg.changes().push()
    with ebooklet.open(place.connection("all"), place.file(), "n", remote_conn_group=True) as rcg:
        rcg.add(place.connection("rcg"))
        rcg.changes().push()
    (entry,) = place.seen(place.connection("all")).values()
    expect(entry["type"], "RemoteConnGroup", "the type")


@example("fsck: a sound remote, a missing one, and one that lost an object")
def _(place: Place) -> None:
    expect(ebooklet.fsck(place.connection()).db_object_exists, False, "db_object_exists of nothing")
    place.pushed({f"key{number}": "x" * 6000 for number in range(20)})
    report = ebooklet.fsck(place.connection(), check_objects=True)
    expect((report.db_object_exists, list(report.claimed_but_missing)), (True, []), "the report")
    expect((list(report.unmanifested_group_ids), list(report.orphans)), ([], []), "the rest of the report")
    client = boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        aws_access_key_id="readme-key",
        aws_secret_access_key="readme-secret",
        region_name="us-east-1",
    )
    listed = client.list_objects_v2(Bucket=place.bucket, Prefix=place.key() + ".d/pack/")["Contents"]
    client.delete_object(Bucket=place.bucket, Key=listed[0]["Key"])
    client.close()
    report = ebooklet.fsck(place.connection(), check_objects=True)
    expect(len(report.claimed_but_missing), 1, "the number of missing objects")
