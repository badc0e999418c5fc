"""The operations of S3 that the stub knows: from a request to its answer.

Owns no state. The invariant: what a bucket or object looks like is asked of the object space alone, and every
error is an `S3Error`. Signatures are not checked.
"""

from __future__ import annotations

import re
import time
import urllib.parse
from email.utils import formatdate
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from scripts.bench.stub_http import Answer, Request
from scripts.bench.stub_objects import ObjectSpace, S3Error, StoredObject

_XML = (("Content-Type", "application/xml"),)
_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_META = "x-amz-meta-"


class Operations:
    """Answers requests to buckets and objects."""

    def __init__(self, space: ObjectSpace) -> None:
        self._space = space

    def name_of(self, request: Request, key: str, query: dict[str, str]) -> str:
        """Names what a request does: a method of HTTP, or a word for what hides behind one."""
        method = request.method
        if not key:
            if method == "GET":
                return "INFO" if query.keys() & {"location", "versioning", "object-lock", "uploads"} else "LIST"
            return "MULTIDELETE" if method == "POST" else method
        if method == "PUT":
            if "partNumber" in query:
                return "PART"
            return "COPY" if "x-amz-copy-source" in request.headers else "PUT"
        if method == "POST":
            return "BEGIN" if "uploads" in query else "COMPLETE"
        if "uploadId" in query:
            return "PARTS" if method == "GET" else "ABORT"
        return method

    def answer(self, name: str, request: Request, bucket: str, key: str, query: dict[str, str]) -> Answer:
        """Does what the request says.

        Raises:
            S3Error: As S3 would answer it.
        """
        if not key:
            return self._answer_bucket(name, request, bucket, query)
        if name == "PUT":
            return self._put(request, bucket, key)
        if name in ("GET", "HEAD"):
            return self._get(request, self._space.find(bucket, key))
        if name == "DELETE":
            self._space.bucket(bucket).pop(key, None)
            return Answer(204)
        if name == "COPY":
            return self._copy(request, bucket, key)
        if name in ("PART", "BEGIN", "COMPLETE", "ABORT", "PARTS"):
            return self._answer_upload(name, request, bucket, key, query)
        raise S3Error(405, "MethodNotAllowed")

    def _put(self, request: Request, bucket: str, key: str) -> Answer:
        headers = request.headers
        stored = self._space.put(
            bucket,
            key,
            request.body,
            if_match=_etag(headers.get("if-match")),
            if_none_match=_etag(headers.get("if-none-match")),
            metadata=_metadata(headers),
            content_type=headers.get("content-type", "binary/octet-stream"),
        )
        return Answer(headers=(("ETag", f'"{stored.etag}"'),))

    def _get(self, request: Request, stored: StoredObject) -> Answer:
        headers = request.headers
        shown = [
            ("ETag", f'"{stored.etag}"'),
            ("Last-Modified", formatdate(stored.modified_seconds, usegmt=True)),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", stored.content_type),
            *((_META + name, value) for name, value in stored.metadata.items()),
        ]
        if "if-match" in headers and _etag(headers["if-match"]) not in ("*", stored.etag):
            raise S3Error(412, "PreconditionFailed")
        if "if-none-match" in headers and _etag(headers["if-none-match"]) in ("*", stored.etag):
            return Answer(304, shown)
        start, stop = 0, stored.size_bytes
        wanted = headers.get("range")
        if wanted is not None:
            start, stop = _range(wanted, stored.size_bytes)
            shown.append(("Content-Range", f"bytes {start}-{stop - 1}/{stored.size_bytes}"))
        return Answer(
            200 if wanted is None else 206,
            shown,
            chunks=self._space.read(stored, start, stop - start),
            length_bytes=stop - start,
        )

    def _copy(self, request: Request, bucket: str, key: str) -> Answer:
        # An unquoted question mark begins the version; the name's own is quoted.
        quoted = request.headers["x-amz-copy-source"].lstrip("/").partition("?")[0]
        source_bucket, _, source_key = urllib.parse.unquote(quoted).partition("/")
        replaces = request.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
        copied = self._space.copy(
            self._space.find(source_bucket, source_key),
            bucket,
            key,
            _metadata(request.headers) if replaces else None,
        )
        return _xml(
            f"<CopyObjectResult><ETag>&quot;{copied.etag}&quot;</ETag>"
            f"<LastModified>{_iso(copied.modified_seconds)}</LastModified></CopyObjectResult>"
        )

    # -- uploads in parts ------------------------------------------------------------------

    def _answer_upload(self, name: str, request: Request, bucket: str, key: str, query: dict[str, str]) -> Answer:
        if name == "BEGIN":
            content_type = request.headers.get("content-type", "binary/octet-stream")
            upload_id = self._space.begin_upload(bucket, key, _metadata(request.headers), content_type)
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                f"<UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        self._space.bucket(bucket)
        upload_id = query.get("uploadId", "")
        upload = self._space.upload(bucket, key, upload_id)
        if name == "PART":
            part = self._space.put_part(upload, int(query["partNumber"]), request.body)
            return Answer(headers=(("ETag", f'"{part.etag}"'),))
        if name == "ABORT":
            del self._space.uploads[upload_id]
            return Answer(204)
        if name == "PARTS":
            after = int(query.get("part-number-marker", "0"))
            listed = "".join(
                f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{part.etag}&quot;</ETag>"
                f"<Size>{part.size_bytes}</Size></Part>"
                for number, part in sorted(upload.parts.items())
                if number > after
            )
            return _xml(f"<ListPartsResult><IsTruncated>false</IsTruncated>{listed}</ListPartsResult>")
        stored = self._space.complete(upload_id, upload, _named_parts(request.body))
        return _xml(
            f"<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
            f"<ETag>&quot;{stored.etag}&quot;</ETag></CompleteMultipartUploadResult>"
        )

    # -- buckets ---------------------------------------------------------------------------

    def _answer_bucket(self, name: str, request: Request, bucket: str, query: dict[str, str]) -> Answer:
        if name == "PUT":
            self._space.buckets.setdefault(bucket, {})
            return Answer(headers=(("Location", f"/{bucket}"),))
        objects = self._space.bucket(bucket)
        if name == "LIST":
            return _list(bucket, objects, query)
        if name == "MULTIDELETE":
            return _multi_delete(objects, request.body)
        if name == "DELETE":
            if objects:
                raise S3Error(409, "BucketNotEmpty")
            del self._space.buckets[bucket]
            return Answer(204)
        if name == "INFO" and "object-lock" in query:
            raise S3Error(404, "ObjectLockConfigurationNotFoundError")
        if name == "INFO":
            kind = next(
                tag
                for word, tag in (
                    ("location", "LocationConstraint"),
                    ("versioning", "VersioningConfiguration"),
                    ("uploads", "ListMultipartUploadsResult"),
                )
                if word in query
            )
            return _xml(f"<{kind} {_NAMESPACE}></{kind}>")
        return Answer()


def error_answer(error: S3Error, request: Request) -> Answer:
    """Returns the answer that tells an error; one to HEAD has no body."""
    if request.method == "HEAD" or error.status == 304:
        return Answer(error.status)
    body = f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
    return Answer(error.status, _XML, body.encode())


def _list(bucket: str, objects: dict[str, StoredObject], query: dict[str, str]) -> Answer:
    """Answers a listing: version 2, version 1, or that of versions, of which each object has one."""
    is_versions, is_second = "versions" in query, query.get("list-type") == "2"
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    marker_name = "key-marker" if is_versions else "marker"
    second_marker = query.get("continuation-token", query.get("start-after", ""))
    after = second_marker if is_second else query.get(marker_name, "")
    limit = min(int(query.get("max-keys", "1000")), 1000)
    encode = urllib.parse.quote if query.get("encoding-type") == "url" else escape
    shown: list[str] = []
    last, is_truncated, folders = "", False, set[str]()
    for key in sorted(key for key in objects if key.startswith(prefix) and key > after):
        if len(shown) == limit:
            is_truncated = True
            break
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut >= 0:
            folder = key[: cut + len(delimiter)]
            if folder in folders or folder <= after:
                continue
            folders.add(folder)
            shown.append(f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>")
            last = folder
            continue
        shown.append(_listed(encode(key), objects[key], is_version=is_versions))
        last = key
    kind = "ListVersionsResult" if is_versions else "ListBucketResult"
    following = ("NextContinuationToken", last) if is_second else ("NextMarker", encode(last))
    if is_versions:
        following = ("NextKeyMarker", encode(last))
    more = f"<{following[0]}>{escape(following[1])}</{following[0]}>" if is_truncated else ""
    encoding = "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""
    return _xml(
        f"<{kind} {_NAMESPACE}><Name>{bucket}</Name><Prefix>{encode(prefix)}</Prefix>"
        f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{limit}</MaxKeys>{encoding}"
        f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>{more}{''.join(shown)}</{kind}>"
    )


def _listed(key: str, stored: StoredObject, *, is_version: bool) -> str:
    tag = "Version" if is_version else "Contents"
    version = "<VersionId>null</VersionId><IsLatest>true</IsLatest>" if is_version else ""
    return (
        f"<{tag}><Key>{key}</Key>{version}<LastModified>{_iso(stored.modified_seconds)}</LastModified>"
        f"<ETag>&quot;{stored.etag}&quot;</ETag><Size>{stored.size_bytes}</Size>"
        f"<StorageClass>STANDARD</StorageClass></{tag}>"
    )


def _multi_delete(objects: dict[str, StoredObject], body: bytes | bytearray) -> Answer:
    deleted = []
    for element in _parsed(body).iter():
        if element.tag.rpartition("}")[2] == "Key" and element.text:
            objects.pop(element.text, None)
            deleted.append(f"<Deleted><Key>{escape(element.text)}</Key></Deleted>")
    return _xml(f"<DeleteResult {_NAMESPACE}>{''.join(deleted)}</DeleteResult>")


def _named_parts(body: bytes | bytearray) -> list[tuple[int, str]]:
    named = []
    for element in _parsed(body):
        fields = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
        named.append((int(fields["PartNumber"]), fields["ETag"].strip('"')))
    return named


def _parsed(body: bytes | bytearray) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(bytes(body))
    except ElementTree.ParseError:
        raise S3Error(400, "MalformedXML") from None


def _range(text: str, size_bytes: int) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None or match[0] == "bytes=-":
        return 0, size_bytes
    if match[1]:
        start = int(match[1])
        stop = min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
    else:
        start, stop = max(size_bytes - int(match[2]), 0), size_bytes
    if start >= stop:
        raise S3Error(416, "InvalidRange")
    return start, stop


def _metadata(headers: dict[str, str]) -> dict[str, str]:
    return {name[len(_META) :]: value for name, value in headers.items() if name.startswith(_META)}


def _etag(text: str | None) -> str | None:
    return None if text is None else text.strip().strip('"')


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03}Z"


def _xml(text: str) -> Answer:
    return Answer(headers=_XML, body=f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())
