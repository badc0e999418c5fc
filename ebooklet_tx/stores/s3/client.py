"""Makes boto3 clients that send each request once and end it by its deadline.

botocore's own retries are off: its silent second try of a conditional put would report our own success as a
conflict.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import boto3.session
import botocore.exceptions as boto_errors
import botocore.session
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config

from ebooklet_tx.errors import RemoteAccessError
from ebooklet_tx.stores.deadline import TimedSocket, connect_seconds
from ebooklet_tx.stores.s3.descriptions import DescriptionLoader

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from ebooklet_tx.connection import S3Connection

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


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
        base = botocore.session.Session()
        base.register_component("data_loader", DescriptionLoader.shared(base))
        session = boto3.session.Session(
            botocore_session=base,
            aws_access_key_id=connection.access_key_id,
            aws_secret_access_key=connection.access_key,
            aws_session_token=connection.session_token,
            profile_name=connection.profile if connection.access_key_id is None else None,
            region_name=connection.region,
        )
        region = session.region_name or ("us-east-1" if custom else None)
        client = session.client(
            "s3",
            endpoint_url=connection.endpoint_url,
            region_name=region,
            config=_config(connection, custom=custom),
        )
        _set_timed_connections(client)
        return client, session.get_credentials()
    except (boto_errors.BotoCoreError, ValueError, OSError) as error:
        raise RemoteAccessError(
            f"no client for {location_of(connection)} can be made ({type(error).__name__}): check profile, "
            "region, endpoint_url and the AWS configuration files"
        ) from None


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
    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]
    session._pool_classes_by_scheme.update(http=_TimedHTTPPool, https=_TimedHTTPSPool)
