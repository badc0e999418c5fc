"""The blocks of ebooklet 0.5.4's page, one after the other as they stand there.

Names of the page's variables are kept; only the values of those that say where and with what credentials are
this example's own. The block that shows how a reader with a public address opens stands between two that belong
together, so the session of the first of these is put by for the time.
"""

from __future__ import annotations

import contextlib
import io

from readme_examples.place import Place, example, expect, hold, refused

import ebooklet_tx as ebooklet


@example("page: its blocks in its order, as they stand; nothing is pushed before it says so")
def _(place: Place) -> None:
    # Connection objects
    access_key_id = "readme-key"
    access_key = "readme-secret"
    db_key = place.key()
    bucket = place.bucket
    endpoint_url = place.endpoint
    db_url = place.url()

    remote_conn = ebooklet.S3Connection(
        access_key_id, access_key, db_key, bucket, endpoint_url=endpoint_url, db_url=db_url
    )

    local_file_path = place.file("here")

    db = ebooklet.open(remote_conn, local_file_path, flag="c", value_serializer="pickle")

    # For a reader with the address alone the database must exist in the remote, and it does not yet.
    refused(ebooklet.RemoteMissingError, ebooklet.open, db_url, place.file(), flag="r")
    # The local file that the first block made does: what is here is read.
    writer = db
    db = ebooklet.open(db_url, local_file_path, flag="r")
    expect((len(db), db.writable), (0, False), "the number of keys before the first is set, and writable")
    db.close()
    db = writer

    # Reading and writing
    db["key1"] = ["one", 2, "three", 4]

    value1 = db["key1"]

    db.close()

    with ebooklet.open(remote_conn, local_file_path) as db:
        value1 = db["key1"]
    expect(value1, ["one", 2, "three", 4], "the value by the default flag, before any push")
    with ebooklet.open(remote_conn, local_file_path, offline="auto") as db:
        expect(db["key1"], ["one", 2, "three", 4], "the same with offline='auto'")

    # Changes
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        ebooklet.open(remote_conn, local_file_path, "w") as db,
    ):
        changes = db.changes()

        for change in changes.iter_changes():
            print(change)

        changes.push()
    hold("'key1'" in printed.getvalue(), "the change was not told of")
    with ebooklet.open(db_url, place.file(), flag="r", allow_pickle=True) as db:
        expect(dict(db), {"key1": ["one", 2, "three", 4]}, "what another machine reads by the address")

    # Remote connection groups
    access_key_id_rcg = access_key_id
    access_key_rcg = access_key
    db_key_rcg = place.key("rcg")
    bucket_rcg = place.bucket
    endpoint_url_rcg = place.endpoint
    db_url_rcg = place.url("rcg")
    local_file_path_rcg = place.file("rcg")

    remote_conn_rcg = ebooklet.S3Connection(
        access_key_id_rcg,
        access_key_rcg,
        db_key_rcg,
        bucket_rcg,
        endpoint_url=endpoint_url_rcg,
        db_url=db_url_rcg,
    )

    with ebooklet.open(remote_conn_rcg, local_file_path_rcg, "n", remote_conn_group=True) as db_rcg:
        db_rcg.add(remote_conn)

        changes = db_rcg.changes()
        changes.push()

    with remote_conn.open() as member:
        uuid = member.uuid
    with ebooklet.open(db_url_rcg, place.file()) as db_rcg:
        expect(list(db_rcg), [uuid.hex], "the group's keys")
        expect(db_rcg[uuid.hex]["remote_conn"], remote_conn.to_dict(), "the member's connection")


@example("page: what its words promise of the default flag, after one's own delete_remote")
def _(place: Place) -> None:
    path = place.pushed({"key1": 1})
    with ebooklet.open(place.connection(), path, "w") as db:
        db.delete_remote()
    for options in ({}, {"offline": "auto"}):
        with ebooklet.open(place.connection(), path, **options) as db:
            expect(dict(db), {"key1": 1}, "what the local file has")
