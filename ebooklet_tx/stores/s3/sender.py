"""Sends requests with a client of boto3 whose credentials are renewed when they expire.

Owns the client, which threads share, and the credentials that its requests are signed with. A request is sent
once, and once more only after an answer that the credentials have expired: then it took no effect.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError

from ebooklet_tx.errors import RemoteAccessError, TransientStoreError
from ebooklet_tx.stores.deadline import deadline_in
from ebooklet_tx.stores.request import Request
from ebooklet_tx.stores.s3.boto_errors import FAILURES, is_denial, needs_renewal, translated
from ebooklet_tx.stores.s3.client import make_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from ebooklet_tx.connection import S3Connection

T = TypeVar("T")

SLOW_ANSWER_SECONDS = 900.0
_SLOWLY_ANSWERED = frozenset({"copy", "put_parts"})
"""S3 works on large copies and on the end of an upload for minutes, and sends blanks meanwhile."""

_MOST_DETAIL_CHARACTERS = 300


class Sender:
    """Sends the requests of one connection.

    Attributes:
        client: The client that the next request is sent with.
        credentials_number: Another one for all credentials that requests were signed with.
    """

    def __init__(self, connection: S3Connection) -> None:
        """Makes the client; nothing is sent.

        Raises:
            RemoteAccessError: The profile does not exist, or no client can be made of the settings.
        """
        self._connection = connection
        self._renewing = threading.Lock()
        self._secrets: tuple[str | None, ...] = ()
        self.credentials_number = 0
        self._denied_key: str | None = None
        self._retired: list[S3Client] = []
        self.client, self._credentials = make_client(connection)

    def send(self, request: Request, call: Callable[[S3Client], T]) -> T:
        """Returns what `call` returns, called with the client; its errors become ours."""
        self._refresh_credentials(request)
        client = self.client
        try:
            with self._deadline(request):
                return call(client)
        except FAILURES as error:
            denied = self._may_be_expired(error)
            if not (needs_renewal(error) or denied) or not self._renew(client):
                raise translated(request, error, self._redacted) from None
        self._refresh_credentials(request)
        if denied:
            # If the new credentials are refused too, the right is missing.
            self._denied_key = self._secrets[2]
        try:
            with self._deadline(request):
                return call(self.client)
        except FAILURES as error:
            raise translated(request, error, self._redacted) from None

    def close(self) -> None:
        """Closes the connections of the client, and of those that it replaced."""
        for client in (*self._retired, self.client):
            client.close()

    def _renew(self, used: S3Client) -> bool:
        """Makes a client with credentials read anew; False if the connection gives fixed ones."""
        if self._connection.access_key_id is not None:
            return False
        with self._renewing:
            # Another thread may have renewed it meanwhile.
            if self.client is used:
                self.client, self._credentials = make_client(self._connection)
                # Not closed yet: other threads may still have a request under way with it.
                self._retired.append(used)
        return True

    def _refresh_credentials(self, request: Request) -> None:
        """Has botocore fetch credentials that are about to expire, before a request is signed with them."""
        if self._credentials is None:
            return
        try:
            frozen = self._credentials.get_frozen_credentials()
        except (HTTPClientError, BotoConnectionError) as error:
            raise TransientStoreError(
                f"{request.describe()}: credentials could not be fetched ({type(error).__name__})",
                may_have_applied=False,
                **request.fields,
            ) from None
        except Exception as error:
            # A program of the user's or a service provides them, and may fail in any way. Its message is not
            # shown: it may hold the credentials.
            raise RemoteAccessError(
                f"{request.describe()}: the credentials are missing or have expired, and no new ones can be had "
                f"({type(error).__name__}); check the profile, credential_process, login or role that gives them",
                **request.fields,
            ) from None
        secrets = (frozen.secret_key, frozen.token, frozen.access_key)
        if secrets != self._secrets:
            self._secrets = secrets
            self.credentials_number += 1

    def _deadline(self, request: Request) -> contextlib.AbstractContextManager[None]:
        """Limits the time of one request, beside what its bytes take."""
        if request.operation in _SLOWLY_ANSWERED:
            return deadline_in(max(SLOW_ANSWER_SECONDS, self._connection.read_timeout), at_least=True)
        return deadline_in(self._connection.read_timeout)

    def _may_be_expired(self, error: Exception) -> bool:
        """Whether a denial may mean that temporary credentials have expired, as Ceph answers then.

        True once for each set of credentials. Credentials that were fetched because of a denial are trusted, so
        that a missing right costs one more request, and not one each time.
        """
        if len(self._secrets) < 3 or not is_denial(error):
            return False
        _, token, key_id = self._secrets
        return token is not None and key_id != self._denied_key

    def _redacted(self, text: str) -> str:
        given = self._connection
        for secret in (given.access_key, given.session_token, given.access_key_id, *self._secrets):
            if secret:
                text = text.replace(secret, "***")
        return text[:_MOST_DETAIL_CHARACTERS]
