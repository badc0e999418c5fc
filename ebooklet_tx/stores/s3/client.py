"""Makes clients of boto3 that send each request once and end it by its deadline.

botocore's own retries are off: its silent second try of a conditional put would report our own success as a
conflict.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore
import botocore.exceptions as boto_errors
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config
from botocore.credentials import Credentials

from ebooklet_tx.errors import RemoteAccessError
from ebooklet_tx.stores.deadline import TimedSocket, connect_seconds
from ebooklet_tx.stores.s3.boto_errors import UnreadableAnswerError
from ebooklet_tx.stores.s3.ranges import http_session_of, keep_signed
from ebooklet_tx.stores.s3.sessions import making, new_session, shared_session

if TYPE_CHECKING:
    import boto3.session
    from mypy_boto3_s3 import S3Client

    from ebooklet_tx.connection import S3Connection

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_AT_ONCE_BYTES = 256 * 2**10
"""A body up to this size is sent at once; for a longer one the store is asked first whether it takes it."""

_TIGRIS_HOSTS = ("t3.storage.dev", "storage.tigris.dev")
_MOST_ANSWER_BYTES = 16 * 2**20
"""A page of a listing, the longest of them, takes a quarter of it."""


def has_custom_endpoint(connection: S3Connection) -> bool:
    """Whether requests go to a store that the user named, which may not know what AWS added later."""
    return connection.endpoint_url is not None or any(os.environ.get(name) for name in _ENDPOINT_VARIABLES)


def location_of(connection: S3Connection) -> str:
    """Names a bucket for messages, without credentials."""
    at = f" at {connection.endpoint_url}" if connection.endpoint_url else ""
    return f"s3://{connection.bucket}{at}"


def make_client(connection: S3Connection) -> tuple[S3Client, Any]:
    """Returns a client and botocore's credentials for it, None where nothing provides any.

    Raises:
        RemoteAccessError: The profile does not exist, or no client can be made of the settings.
    """
    custom = has_custom_endpoint(connection)
    try:
        if connection.access_key_id is None:
            session = new_session(connection.profile, connection.region)
            client = _client(session, connection, custom=custom)
            credentials = session.get_credentials()
        else:
            keys: dict[str, Any] = {
                "aws_access_key_id": connection.access_key_id,
                "aws_secret_access_key": connection.access_key,
                "aws_session_token": connection.session_token,
            }
            # Sessions are not made for threads.
            with making:
                client = _client(shared_session(), connection, custom=custom, **keys)
            credentials = Credentials(*keys.values())
        _set_timed_connections(client)
        _set_bounded_answers(client)
        client.meta.events.register("before-send.s3.PutObject", _send_at_once)
        client.meta.events.register("before-call.s3.HeadBucket", _look_for_the_region_once)
        client.meta.events.register("before-send.s3.GetObject", keep_signed)
        if (urlsplit(client.meta.endpoint_url).hostname or "").endswith(_TIGRIS_HOSTS):
            client.meta.events.register("before-call.s3", _ask_the_leader)
        return client, credentials
    except (boto_errors.BotoCoreError, ValueError, OSError) as error:
        raise RemoteAccessError(
            f"no client for {location_of(connection)} can be made ({type(error).__name__}): check profile, "
            "region, endpoint_url and the AWS configuration files"
        ) from None


def _client(session: boto3.session.Session, connection: S3Connection, *, custom: bool, **keys: Any) -> Any:
    return session.client(
        "s3",
        endpoint_url=connection.endpoint_url,
        region_name=connection.region or session.region_name or ("us-east-1" if custom else None),
        config=_config(connection, custom=custom),
        **keys,
    )


def _config(connection: S3Connection, *, custom: bool) -> Config:
    options: dict[str, Any] = {}
    if custom:
        options["request_checksum_calculation"] = "when_required"
        options["response_checksum_validation"] = "when_required"
        options["s3"] = {"addressing_style": "path"}
    return Config(
        retries={"total_max_attempts": 1},
        connect_timeout=min(10, connection.read_timeout),
        read_timeout=connection.read_timeout,
        max_pool_connections=max(connection.threads, 10),
        signature_version="s3v4",
        # botocore would put its own together anew for each request.
        user_agent=f"ebooklet_tx Botocore/{botocore.__version__}",
        **options,
    )


class _TimedHTTPConnection(AWSHTTPConnection):
    """A connection whose requests keep their deadline."""

    def connect(self) -> None:
        self.timeout = connect_seconds(self.timeout)
        super().connect()
        self.sock = TimedSocket(self.sock)


class _TimedHTTPSConnection(AWSHTTPSConnection):
    """The same over TLS."""

    def connect(self) -> None:
        self.timeout = connect_seconds(self.timeout)
        super().connect()
        self.sock = TimedSocket(self.sock)


class _TimedHTTPPool(AWSHTTPConnectionPool):
    ConnectionCls = _TimedHTTPConnection


class _TimedHTTPSPool(AWSHTTPSConnectionPool):
    ConnectionCls = _TimedHTTPSConnection


def _set_timed_connections(client: S3Client) -> None:
    """Makes a client open connections that keep deadlines; botocore can't limit the whole time of a request."""
    session = http_session_of(client)
    session._pool_classes_by_scheme.update(http=_TimedHTTPPool, https=_TimedHTTPSPool)


def _set_bounded_answers(client: S3Client) -> None:
    """Limits what is held of an answer that botocore reads itself: all but the bytes of objects."""
    session = http_session_of(client)
    send = session.send

    def send_bounded(request: Any) -> Any:
        streams, request.stream_output = request.stream_output, True
        answer = send(request)
        if not streams or answer.status_code >= 300:
            # What `content` returns once it is set; botocore has no public way to read an answer in pieces.
            answer._content = _read_bounded(answer.raw)
        return answer

    session.send = send_bounded


def _read_bounded(raw: Any) -> bytes:
    pieces: list[bytes] = []
    left_bytes = _MOST_ANSWER_BYTES
    for piece in raw.stream():
        pieces.append(piece)
        left_bytes -= len(piece)
        if left_bytes < 0:
            raw.close()
            raise UnreadableAnswerError(f"it is longer than {_MOST_ANSWER_BYTES} bytes")
    return b"".join(pieces)


def _ask_the_leader(params: dict[str, Any], **_: Any) -> None:
    """Has Tigris answer from where it writes; another region may show what an object was before."""
    params["headers"]["X-Tigris-Consistent"] = "true"


def _look_for_the_region_once(context: dict[str, Any], **_: Any) -> None:
    """Ends botocore's search for a bucket's region at the first redirect, which it answers by another."""
    context.get("s3_redirect", {})["redirected"] = True


def _send_at_once(request: Any, **_: Any) -> None:
    """Leaves out the question that costs a write a round trip, where the answer saves little."""
    if "Expect" in request.headers and int(request.headers.get("Content-Length", "0")) <= _AT_ONCE_BYTES:
        del request.headers["Expect"]
